"""Results files of ILSVRC and VOC -> columns, with every line checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detect.data.ilsvrc import Synsets
from detect.data.problems import Kind, Problems, check_choices
from detect.scoring.lines import NumberLines, read_number_lines
from detect.scoring.run_names import (
    DROPPED,
    lone_list_note,
    match_classes,
    match_images,
    matching_notes,
    read_run_names,
)
from detect.scoring.tables import GroundTruth, ScoredBoxes

ILSVRC_FORM = "image_id class_id score xmin ymin xmax ymax"
DROPPABLE = ("malformed", "not_finite", "unknown_image", "unknown_class")  # lines, by what is wrong
_FEW = 20  # boxes, from which the layout of a file shows
UNKNOWN = -2  # in place of an image or class that is none

UNKNOWN_ID = Kind(
    "unknown_image",
    "is not in the image list, whose second column holds the ids, from 1",
    "score with the list the file was made for, or leave such lines out with drop=[unknown_image]",
)
INVERTED = Kind(
    "inverted",
    "ends before it begins, as most boxes of the file do",
    "write xmin ymin xmax ymax, not x y width height; official=true takes boxes as they are",
)
UNKNOWN_CLASS = Kind(
    "unknown_class",
    "is none of the classes, whose ids start at 1",
    "correct the lines, or leave them out with drop=[unknown_class]",
)


def read_ilsvrc_predictions(
    path: Path,
    truth: GroundTruth,
    synsets: Synsets,
    *,
    drop: Collection[str] = (),
    any_score: bool = False,
) -> tuple[ScoredBoxes, list[str]]:
    """Read lines ``image_id class_id score xmin ymin xmax ymax``, 1-based inclusive.

    Args:
        path: The file, plain, .gz or .xz; empty if nothing was detected.
        truth: The images of the ground truth.
        synsets: The classes; matched by name or WordNet id where the file comes from a run.
        drop: Leave out lines that are wrong in these ways, out of ``DROPPABLE``.
        any_score: Take numbers that are not finite.

    Returns:
        The detections, and notes for the reader of the scores.

    Raises:
        InputError: Names the first lines that are malformed, not finite, or of no image or class,
            and how many there are.
    """
    check_choices("drop", drop, DROPPABLE)
    # The devkit's code looks for the classes it knows, and passes over the others.
    problems = Problems(str(path), [*drop, "unknown_class"] if any_score else drop)
    lines = read_number_lines(path, 7, ILSVRC_FORM, problems, any_number=any_score)
    ids = _read_ids(path, truth, synsets)
    found = ScoredBoxes(
        images=_translate(lines.values[:, 0], ids.images),
        labels=_translate(lines.values[:, 1], ids.classes),
        scores=lines.values[:, 2],
        corners=lines.values[:, 3:],
    )
    _report_unknown(found, lines, ids, problems)
    check_inverted(found, lines, problems, any_score)
    problems.raise_if_any()
    if dropped := int(np.count_nonzero(found.labels == DROPPED)):
        ids.notes.append(f"{path}: {dropped} detections of these classes left out")
    return kept(found), [*ids.notes, *problems.notes()]


class _Ids(NamedTuple):
    """What the numbers of a file stand for."""

    images: Mapping[int, int]  # position of the image in the ground truth, by id
    classes: Mapping[int, int]  # label, by id
    image_names: Mapping[int, str]  # of a run's photos, by id
    notes: list[str]


def _read_ids(path: Path, truth: GroundTruth, synsets: Synsets) -> _Ids:
    """Return the ground truth's ids, or a run's own where its lists lie beside its results."""
    names = read_run_names(path)
    if names is None:
        images = dict(zip(truth.image_ids.tolist(), range(truth.num_images), strict=True))
        classes = {label + 1: label for label in range(len(synsets.names))}
        return _Ids(images, classes, {}, lone_list_note(path))
    by_name = {name: i for i, name in enumerate(truth.names)}
    images = match_images(names.images, by_name, str(path.parent / "images.txt"))
    known = {**synsets.label_of(), **{name: i for i, name in enumerate(synsets.names)}}
    classes = match_classes(names.classes, known, str(path.parent / "categories.json"))
    return _Ids(images, classes, names.images, matching_notes(path, names, classes))


def _report_unknown(found: ScoredBoxes, lines: NumberLines, ids: _Ids, problems: Problems) -> None:
    """Note the lines whose image or class is none."""

    def describe(row: int, what: str, column: int) -> tuple[str, str]:
        value = lines.values[row, column]
        name = ids.image_names.get(int(value)) if column == 0 and np.isfinite(value) else None
        text = f"{what} {int(value) if value.is_integer() else value}"
        return lines.place(row), f"{text}, {name!r}," if name else text

    problems.add_rows(UNKNOWN_ID, found.images == UNKNOWN, lambda i: describe(i, "image id", 0))
    problems.add_rows(UNKNOWN_CLASS, found.labels == UNKNOWN, lambda i: describe(i, "class id", 1))


def _translate(numbers: NDArray[np.float64], table: Mapping[int, int]) -> NDArray[np.int32]:
    """Look whole numbers up, ``[N]`` -> ``[N]``; ``UNKNOWN`` where the table has none."""
    keys = np.array(sorted(table), dtype=np.float64)  # ids are below 2^53
    values = np.array([*(table[int(key)] for key in keys), UNKNOWN], dtype=np.int32)
    if len(keys) and keys[0] >= 0 and keys[-1] < 10 * len(keys) + 1e6:  # a table is faster
        places = np.full(int(keys[-1]) + 2, len(keys))
        places[keys.astype(np.int64)] = np.arange(len(keys))
        within = (numbers >= 0) & (numbers <= keys[-1])
        with np.errstate(invalid="ignore"):
            at = places[np.where(within, numbers, len(places) - 1).astype(np.int64)]
    else:
        at = np.searchsorted(keys, numbers)
    right = np.append(keys, np.nan)[at] == numbers
    return values[np.where(right, at, len(keys))]


def check_inverted(
    found: ScoredBoxes, lines: NumberLines, problems: Problems, any_box: bool
) -> None:
    """Refuse files most of whose boxes end before they begin: they have another layout.

    A few boxes tell nothing: the devkits score such boxes, and so does a test of a scorer.
    """
    xmin, ymin, xmax, ymax = found.corners.T
    inverted = (xmax < xmin) | (ymax < ymin)
    few = len(found) < _FEW or 2 * int(np.count_nonzero(inverted)) <= len(found)
    if any_box or few:
        return
    problems.add_rows(
        INVERTED,
        inverted,
        lambda row: (lines.place(row), " ".join(f"{v:.12g}" for v in found.corners[row])),
    )


def kept(found: ScoredBoxes) -> ScoredBoxes:
    """Leave out detections of no image or class."""
    keep = (found.images >= 0) & (found.labels >= 0)
    return found if keep.all() else found[keep]


def form_notes(found: ScoredBoxes, truth: GroundTruth, path: Path) -> list[str]:
    """Tell what is strange and yet allowed: no detections, boxes that are none or leave."""
    if not len(found):
        return [f"{path}: holds no detection"]
    notes = []
    xmin, ymin, xmax, ymax = found.corners.T
    if inverted := int(np.count_nonzero((xmax < xmin) | (ymax < ymin))):
        notes.append(f"{path}: {inverted} of {len(found)} boxes end before they begin")
    if truth.sizes.any():
        width, height = truth.sizes[found.images].T
        leaving = (xmin < 0) | (ymin < 0) | (xmax > width + 1) | (ymax > height + 1)
        if count := int(np.count_nonzero(leaving & (width > 0))):
            notes.append(f"{path}: {count} of {len(found)} boxes leave their image by over a pixel")
    return notes
