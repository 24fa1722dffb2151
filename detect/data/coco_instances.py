"""COCO's ``instances`` files: checked, and put into columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.data.coco_entries import (
    BAD_BOX,
    BoxColumns,
    EntryKinds,
    box_columns,
    check_ids_and_boxes,
    find_corners,
    is_real,
    is_whole,
)
from detect.data.problems import InputError, Kind, Problems
from detect.data.sources import read_json

ANNOTATION_IDS = "annotation_ids"  # the repair that numbers annotations anew

_BAD_ID = Kind("bad_id", "is not a whole number", "write ids as numbers, without quotes")
_BAD_NAME = Kind("bad_name", "is not a text", "give every image a file_name, every class a name")
_BAD_SIZE = Kind("bad_size", "is not a number of pixels", "correct it or leave it out")
_REPEATED_ID = Kind("repeated_id", "occurs before", "make ids unique")
_REPEATED_ANNOTATION_ID = Kind(
    "repeated_id", "occurs before", "make ids unique, or repair=[annotation_ids] numbers them anew"
)
_BAD_ANNOTATION_ID = Kind(
    "bad_id", "is not a whole number", "repair=[annotation_ids] numbers annotations anew"
)
_ANNOTATION_ID_0 = Kind(
    "annotation_id_0",
    "is what pycocotools takes for 'not found'",
    "number annotations from 1; repair=[annotation_ids] does it",
)
_BAD_AREA = Kind(
    "bad_area", "is not a finite number", "correct it, or leave it out: width x height"
)
_BAD_CROWD = Kind("bad_crowd", "is neither 0 nor 1", "correct it or leave it out")


_ANNOTATION_KINDS = EntryKinds(
    Kind("malformed", "is not {'image_id': ..., 'category_id': ..., 'bbox': ...}", "correct it"),
    Kind("unknown_image", "is not the id of an image", "list the image or remove the annotation"),
    Kind("unknown_category", "is not the id of a category", "list it or remove the annotation"),
    Kind("bad_box", BAD_BOX, "correct or remove the annotation"),
    _BAD_AREA,  # annotations have no score
)
INSTANCES_DROP = tuple(kind.name for kind in _ANNOTATION_KINDS[:4])


@dataclass(frozen=True)
class Instances:
    """An ``instances`` file in the order in which COCO evaluates it.

    Images ascend by id, classes too, objects by image and then as in the file.

    Attributes:
        names: File name of each image, ``[I]``.
        image_ids: Ascending, int64 ``[I]``.
        positions: Of each image in the file's own list, ``[I]``.
        sizes: Width and height of each image in pixels, 0 where unknown, int64 ``[I, 2]``.
        category_ids: Ascending, int64 ``[C]``.
        class_names: ``[C]``.
        images: Index of each object's image, ascending, int32 ``[M]``.
        labels: Index of each object's class, int32 ``[M]``.
        boxes: ``x, y, width, height`` as in the file, float64 ``[M, 4]``.
        areas: What a size range goes by: of the outline, or else of the box, float64 ``[M]``.
        crowd: Objects that stand for many and count neither way, ``[M]``.
        notes: What was repaired or disregarded.
    """

    names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    positions: NDArray[np.intp]
    sizes: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def read_instances(
    path: Path, *, repair: Collection[str] = (), drop: Collection[str] = ()
) -> Instances:
    """Read an ``instances`` file, plain, .gz or .xz; see ``check_instances``."""
    return check_instances(read_json(path), str(path), repair=repair, drop=drop)


def check_instances(
    truth: Any, where: str, *, repair: Collection[str] = (), drop: Collection[str] = ()
) -> Instances:
    """Check a ground truth and put it into columns.

    Ids must be whole, unique and known, boxes finite and not inverted. As in ``COCOeval``, only
    ``iscrowd`` makes an object count neither way: it overwrites the field ``ignore``.

    Args:
        truth: What an ``instances`` file holds.
        where: What messages call it.
        repair: ``annotation_ids`` accepts annotation ids that pycocotools would stumble over.
        drop: Annotations that are wrong in these ways, of ``INSTANCES_DROP``, are left out.

    Raises:
        InputError: Names the first entries of every kind that are wrong, and how many there are.
    """
    if not isinstance(truth, Mapping):
        raise InputError(
            f"{where}: holds a {type(truth).__name__}, not COCO ground truth; "
            "give the instances file of a data set"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth.get(key), Sequence) or isinstance(truth[key], str):
            raise InputError(f"{where}: has no list {key!r}; give the instances file of a data set")
    problems = Problems(where, drop)
    image_ids, names = _named(truth["images"], "images", "file_name", problems)
    category_ids, class_names = _named(truth["categories"], "categories", "name", problems)
    sizes = _sizes(truth["images"], problems)
    columns = box_columns(
        truth["annotations"], problems, _ANNOTATION_KINDS, _place("annotations"), scored=False
    )
    wrong = check_ids_and_boxes(
        columns, image_ids, category_ids, problems, _ANNOTATION_KINDS, _place("annotations")
    )
    columns = columns[~wrong]
    entries = [truth["annotations"][row] for row in columns.rows]
    areas, crowd = _areas(entries, columns, problems), _crowd(entries, columns, problems)
    notes = _check_annotation_ids(entries, columns.rows, problems, ANNOTATION_IDS in repair)
    problems.raise_if_any()
    notes = [*problems.notes(), *notes]
    if ignored := sum(1 for entry in entries if entry.get("ignore") and not entry.get("iscrowd")):
        notes.append(f"{where}: 'ignore' of {ignored} annotations has no effect, as in pycocotools")
    by_id, classes = np.argsort(image_ids), np.argsort(category_ids)
    images = np.searchsorted(image_ids[by_id], columns.image_ids).astype(np.int32)
    labels = np.searchsorted(category_ids[classes], columns.category_ids).astype(np.int32)
    _check_corners(columns, sizes[by_id][images], problems)
    order = np.argsort(images, kind="stable")
    return Instances(
        names=tuple(names[i] for i in by_id),
        image_ids=image_ids[by_id],
        positions=by_id,
        sizes=sizes[by_id],
        category_ids=category_ids[classes],
        class_names=tuple(class_names[i] for i in classes),
        images=images[order],
        labels=labels[order],
        boxes=columns.boxes[order],
        areas=areas[order],
        crowd=crowd[order],
        notes=tuple(notes),
    )


def _check_corners(columns: BoxColumns, sizes: NDArray[np.int64], problems: Problems) -> None:
    """Refuse annotations that hold corners in place of sizes; ``sizes`` are their images'."""
    leaving, total, corners = find_corners(columns.boxes, sizes)
    if corners:
        kind = Kind(
            "xyxy",
            "leaves its image as [x, y, width, height] and fits as corners",
            f"{np.count_nonzero(leaving)} of {total} boxes do: write sizes in place of x2, y2",
        )
        place = _place("annotations")
        problems.add_rows(
            kind, leaving, lambda i: (place(int(columns.rows[i])), columns.boxes[i].tolist())
        )
    problems.raise_if_any()


def _place(key: str) -> Callable[[int], str]:
    return lambda row: f"{key}[{row}]"


def _named(
    entries: Sequence[Any], key: str, text: str, problems: Problems
) -> tuple[NDArray[np.int64], list[str]]:
    """Return ids ``[N]`` and names ``[N]`` of images or categories; -1 where an id is wrong."""
    ids, names, seen = [], [], set[Any]()
    for i, entry in enumerate(entries):
        entry = entry if isinstance(entry, Mapping) else {}
        number = entry.get("id")
        name = entry.get(text, str(number))  # scoring needs no names
        if not is_whole(number):
            problems.add(_BAD_ID, f"{key}[{i}]", f"id {number!r}")
        elif number in seen:
            problems.add(_REPEATED_ID, f"{key}[{i}]", f"id {number}")
        else:
            seen.add(number)
        if not isinstance(name, str):
            problems.add(_BAD_NAME, f"{key}[{i}]", f"{text} {name!r}")
        ids.append(number if is_whole(number) else -1)
        names.append(str(name))
    return np.array(ids, dtype=np.int64), names


def _sizes(images: Sequence[Any], problems: Problems) -> NDArray[np.int64]:
    """Return width and height of images, 0 where they are not told, ``[I, 2]``."""
    sizes = np.zeros((len(images), 2), dtype=np.int64)
    for i, image in enumerate(images):
        for column, key in enumerate(("width", "height")):
            value = image.get(key) if isinstance(image, Mapping) else None
            if value is None:
                continue
            if is_real(value) and 0 <= value < 2**31:
                sizes[i, column] = int(value)
            else:
                problems.add(_BAD_SIZE, f"images[{i}]", f"{key} {value!r}")
    return sizes


def _areas(
    entries: Sequence[Mapping[str, Any]], columns: BoxColumns, problems: Problems
) -> NDArray[np.float64]:
    """Return the areas that annotations give, or else width x height, ``[N]``."""
    areas = columns.boxes[:, 2] * columns.boxes[:, 3]
    for i, entry in enumerate(entries):
        area = entry.get("area")
        if area is None:
            continue
        if is_real(area) and np.isfinite(float(area)):
            areas[i] = area
        else:
            problems.add(_BAD_AREA, f"annotations[{columns.rows[i]}]", f"area {area!r}")
    return areas


def _crowd(
    entries: Sequence[Mapping[str, Any]], columns: BoxColumns, problems: Problems
) -> NDArray[np.bool_]:
    """Return which annotations stand for a crowd, ``[N]``."""
    crowd = np.zeros(len(entries), dtype=np.bool_)
    for i, entry in enumerate(entries):
        value = entry.get("iscrowd", 0)
        if value in (0, 1, None):
            crowd[i] = bool(value)
        else:
            problems.add(_BAD_CROWD, f"annotations[{columns.rows[i]}]", f"iscrowd {value!r}")
    return crowd


def _check_annotation_ids(
    entries: Sequence[Mapping[str, Any]], rows: NDArray[np.intp], problems: Problems, repair: bool
) -> list[str]:
    """Check what pycocotools keeps annotations by; we do not need it.

    Returns:
        A note if ids were wrong and that is to be repaired.
    """
    ids = [entry.get("id") for entry in entries]
    if all(number is None for number in ids):
        return []
    seen: set[Any] = {0}
    wrong = []
    for row, number in zip(rows.tolist(), ids, strict=True):
        if is_whole(number) and number not in seen:
            seen.add(number)
            continue
        kind = _ANNOTATION_ID_0 if is_whole(number) and number == 0 else _BAD_ANNOTATION_ID
        if is_whole(number) and number != 0:
            kind = _REPEATED_ANNOTATION_ID
        wrong.append((kind, f"annotations[{row}]", f"id {number!r}"))
    if repair and wrong:
        kind, place, value = wrong[0]
        return [
            f"{problems.source}: annotations were numbered anew (annotation_ids): {len(wrong)} ids "
            f"were wrong, the first at {place}: {value} {kind.what}"
        ]
    for problem in wrong:
        problems.add(*problem)
    return []
