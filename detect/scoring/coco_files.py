"""COCO results -> columns, with every entry checked before any number is computed.

pycocotools answers wrongly, without a word, where ids are strings or unknown, scores are no numbers
or boxes are corners; and it stops where nothing was detected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.data.coco_entries import (
    BAD_BOX,
    TOLERANCE,
    BoxColumns,
    EntryKinds,
    box_columns,
    check_ids_and_boxes,
    find_corners,
)
from detect.data.coco_instances import ANNOTATION_IDS, Instances
from detect.data.problems import InputError, Kind, Problems
from detect.data.sources import read_bytes, read_json
from detect.scoring.coco_matching import to_corners
from detect.scoring.run_names import (
    DROPPED,
    lone_list_note,
    match_classes,
    match_images,
    matching_notes,
    read_run_names,
)
from detect.scoring.tables import ScoredBoxes

XYXY = "xyxy"
COCO_DROP = ("malformed", "not_finite", "unknown_image", "unknown_category", "bad_box")
COCO_REPAIR = (XYXY, ANNOTATION_IDS)


@dataclass(frozen=True)
class ResultIds:
    """What the ids of results stand for.

    Attributes:
        images: Index of the image in the ground truth, by id.
        classes: Label of the class, or ``DROPPED``, by id.
        image_names: What messages add to an id.
        where: What messages say of ids that are missing here.
        notes: How the ids were found.
    """

    images: Mapping[int, int]
    classes: Mapping[int, int]
    image_names: Mapping[int, str] = field(default_factory=dict)
    where: str = "in the ground truth"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CocoResults:
    """Results that are fit to be scored.

    Attributes:
        found: Images and classes as positions in the ground truth's columns, ``[N]``.
        boxes: ``x, y, width, height`` as in the file, float64 ``[N, 4]``.
        notes: What was left out, converted or remarkable.
    """

    found: ScoredBoxes
    boxes: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def read_results(path: Path) -> Any:
    """Read a results file, plain or compressed.

    Raises:
        InputError: If the file is missing, empty or no complete JSON.
    """
    content = read_bytes(path)
    if not content.strip():
        raise InputError(
            f"{path}: is empty ({len(content)} bytes); write the file again, "
            "or [] if nothing was detected"
        )
    return read_json(path)


def ids_of_truth(instances: Instances) -> ResultIds:
    """Return the ids that the ground truth gives."""
    return ResultIds(
        {number: i for i, number in enumerate(instances.image_ids.tolist())},
        {number: i for i, number in enumerate(instances.category_ids.tolist())},
    )


def ids_of_file(predictions: Path, instances: Instances) -> ResultIds:
    """Return the ground truth's ids, or a run's own where its lists lie beside its results.

    Raises:
        InputError: If a list is malformed, or no class of the run is in the ground truth.
    """
    run = read_run_names(predictions)
    if run is None:
        return replace(ids_of_truth(instances), notes=tuple(lone_list_note(predictions)))
    labels = {name: i for i, name in enumerate(instances.class_names)}
    classes = match_classes(run.classes, labels, str(predictions.parent / "categories.json"))
    return ResultIds(
        match_images(
            run.images,
            {name: i for i, name in enumerate(instances.names)},
            str(predictions.parent / "images.txt"),
        ),
        classes,
        run.images,
        "one of images.txt or categories.json with a namesake in the ground truth",
        tuple(matching_notes(predictions, run, classes)),
    )


def check_results(
    results: Any,
    instances: Instances,
    ids: ResultIds,
    where: str,
    *,
    drop: Collection[str] = (),
    repair: Collection[str] = (),
) -> CocoResults:
    """Check results and put them into columns.

    Args:
        results: A list of results.
        instances: The ground truth.
        ids: What the ids stand for.
        where: What messages call the results; an entry goes by its index from 0.
        drop: Which of ``COCO_DROP`` to leave out instead of refusing them.
        repair: ``xyxy`` converts boxes if the whole file is found to hold corners.

    Raises:
        InputError: Names the first entries of every kind that are wrong, and how many there are.
    """
    problems, kinds = Problems(where, accepted=drop), _kinds(ids)
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise InputError(
            f"{where}: is no list of COCO results but a {type(results).__name__}; write "
            "[{'image_id': ..., 'category_id': ..., 'bbox': ..., 'score': ...}, ...]"
        )
    columns = box_columns(results, problems, kinds, _place, scored=True)
    columns, box_notes = _check_corners(columns, instances, ids, problems, XYXY in repair)
    wrong = check_ids_and_boxes(
        columns,
        np.array(list(ids.images), dtype=np.int64),
        np.array(list(ids.classes), dtype=np.int64),
        problems,
        kinds,
        _place,
        ids.image_names,
    )
    problems.raise_if_any()
    labels = _look_up(columns.category_ids, ids.classes)
    keep = np.flatnonzero(~wrong & (labels != DROPPED))
    boxes = columns.boxes[keep]
    images = _look_up(columns.image_ids[keep], ids.images)
    found = ScoredBoxes(
        images=images.astype(np.int32),
        labels=labels[keep].astype(np.int32),
        scores=columns.scores[keep],
        corners=to_corners(boxes),
    )
    empty = [] if len(results) else [f"{where}: nothing was detected"]
    if dropped := int(np.count_nonzero(~wrong & (labels == DROPPED))):
        empty.append(f"{where}: {dropped} detections of these classes left out")
    return CocoResults(found, boxes, (*ids.notes, *problems.notes(), *box_notes, *empty))


def _kinds(ids: ResultIds) -> EntryKinds:
    known = ", ".join(map(str, list(ids.classes)[:10])) + (", ..." if len(ids.classes) > 10 else "")
    return EntryKinds(
        Kind(
            "malformed",
            "is not {'image_id': ..., 'category_id': ..., 'bbox': ..., 'score': ...}",
            "write the entry again, or leave it out with drop=[malformed]",
        ),
        Kind(
            "unknown_image",
            f"is not {ids.where}",
            "ids are whole numbers: score with the ground truth they belong to, "
            "or leave the entries out with drop=[unknown_image]",
        ),
        Kind(
            "unknown_category",
            f"is not {ids.where}",
            f"ids are whole numbers, here {known or 'none'}: correct them, "
            "or leave the entries out with drop=[unknown_category]",
        ),
        Kind("bad_box", BAD_BOX, "correct it, or leave the entry out with drop=[bad_box]"),
        Kind(
            "not_finite",
            "is not a finite number",
            "correct it, or leave the entry out with drop=[not_finite]",
        ),
    )


def _place(row: int) -> str:
    return f"entry {row}"


def _look_up(ids: NDArray[np.int64], table: Mapping[int, int]) -> NDArray[np.int64]:
    """Translate ids, ``[N]`` -> ``[N]``; ``DROPPED`` where the table lacks one."""
    keys = np.array(sorted(table), dtype=np.int64)
    if not len(keys):
        return np.full(len(ids), DROPPED)
    values = np.array([table[key] for key in keys.tolist()], dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    return np.where(keys[at] == ids, values[at], DROPPED)


def _check_corners(
    results: BoxColumns, instances: Instances, ids: ResultIds, problems: Problems, repair: bool
) -> tuple[BoxColumns, list[str]]:
    """Refuse or convert a file that holds corners, ``x1, y1, x2, y2``; see ``find_corners``.

    Returns:
        The results, converted if that is wanted, and notes.
    """
    images = _look_up(results.image_ids, ids.images)
    sizes = np.vstack([instances.sizes, (0, 0)])[images]  # of unknown images, the last row
    boxes = results.boxes
    leaving, total, corners = find_corners(boxes, sizes)
    count = int(np.count_nonzero(leaving))
    tell = f"{count} of {total} boxes leave their image as [x, y, width, height]"
    if not corners:
        notes = [f"{problems.source}: {tell} by more than {TOLERANCE} pixels"] if count else []
        if repair:
            notes.append(
                f"{problems.source}: boxes are no corners, repair=[{XYXY}] changed nothing"
            )
        if len(boxes) and not instances.sizes.any():
            notes.append(
                f"{problems.source}: the images have no width and height; whether boxes leave "
                "their image could not be checked"
            )
        return results, notes
    if repair:
        converted = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        note = f"{problems.source}: {tell}: taken as corners and converted ({XYXY})"
        return replace(results, boxes=converted), [note]
    kind = Kind(
        XYXY,
        "leaves it as [x, y, width, height] and fits as corners",
        f"{tell}: write sizes, or let repair=[{XYXY}] convert all boxes of the file",
    )

    def describe(i: int) -> tuple[str, str]:
        width, height = sizes[i].tolist()
        return _place(int(results.rows[i])), f"{boxes[i].tolist()} on {width} x {height} pixels"

    problems.add_rows(kind, leaving, describe)
    return results, []
