"""COCO annotations and results: entries of a list -> columns, with every value checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detect.data.problems import Kind, Problems

_BLOCK = 500  # entries
BAD_BOX = "is not [x, y, width, height], finite numbers, none of the sizes negative"

TOLERANCE = 2  # pixels by which a box may leave its image unremarked: rounding does no more
_LEAVING, _PROPER = 0.10, 0.99  # shares of boxes from which a file is taken to hold corners


class EntryKinds(NamedTuple):
    """What can be wrong with an entry that gives a box to an image."""

    malformed: Kind
    unknown_image: Kind
    unknown_category: Kind
    bad_box: Kind
    not_finite: Kind


@dataclass(frozen=True)
class BoxColumns:
    """Entries of the right types; nothing is known of their values.

    Attributes:
        rows: Index of each in its list, ``[N]``.
        image_ids: int64 ``[N]``.
        category_ids: int64 ``[N]``.
        boxes: float64 ``[N, 4]``.
        scores: float64 ``[N]``; ones for annotations.
    """

    rows: NDArray[np.intp]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keep: NDArray[np.bool_]) -> BoxColumns:
        """Select entries by a mask."""
        return BoxColumns(
            self.rows[keep],
            self.image_ids[keep],
            self.category_ids[keep],
            self.boxes[keep],
            self.scores[keep],
        )


def box_columns(
    entries: Sequence[Any],
    problems: Problems,
    kinds: EntryKinds,
    place: Callable[[int], str],
    *,
    scored: bool,
) -> BoxColumns:
    """Put entries into columns; those that are of the wrong types are left to ``problems``.

    Args:
        entries: Annotations or results: ``image_id``, ``category_id``, ``bbox`` and ``score``.
        problems: Takes the others.
        kinds: What to call what is wrong with them.
        place: What a message calls the entry of an index.
        scored: Whether a score is needed.
    """
    whole = _try_columns(entries, scored)
    if whole is not None:
        return whole
    rows: list[int] = []
    for start in range(0, len(entries), _BLOCK):  # few of them need a look at each entry
        block = range(start, min(start + _BLOCK, len(entries)))
        if _try_columns(entries[block.start : block.stop], scored) is not None:
            rows.extend(block)
            continue
        for row in block:
            wrong = _wrong_type(entries[row], kinds, scored)
            if wrong is None:
                rows.append(row)
            else:
                problems.add(wrong[0], place(row), wrong[1])
    return _columns([entries[row] for row in rows], np.array(rows, dtype=np.intp), scored)


def check_ids_and_boxes(
    columns: BoxColumns,
    image_ids: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    problems: Problems,
    kinds: EntryKinds,
    place: Callable[[int], str],
    image_names: Mapping[int, str] | None = None,
) -> NDArray[np.bool_]:
    """Check values of the right types; return which entries are wrong, bool ``[N]``.

    What is dropped for one reason is not blamed for another.

    Args:
        columns: The entries.
        image_ids: The ids of images that there are.
        category_ids: The ids of classes that there are.
        problems: Takes what is wrong.
        kinds: What to call it.
        place: What a message calls the entry of an index.
        image_names: What a message adds to the id of an image.
    """
    names = image_names or {}
    boxes = columns.boxes
    checks = (
        (kinds.not_finite, "score", columns.scores, ~np.isfinite(columns.scores)),
        (
            kinds.unknown_image,
            "image_id",
            columns.image_ids,
            ~np.isin(columns.image_ids, image_ids),
        ),
        (
            kinds.unknown_category,
            "category_id",
            columns.category_ids,
            ~np.isin(columns.category_ids, category_ids),
        ),
        (kinds.bad_box, "bbox", boxes, ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(1)),
    )
    wrong = np.zeros(len(columns), dtype=np.bool_)
    dropped = wrong.copy()
    for kind, key, values, bad in sorted(checks, key=lambda check: not problems.accepts(check[0])):
        bad = bad & ~dropped

        def describe(i: int, key: str = key, values: NDArray = values) -> tuple[str, str]:
            value = values[i].tolist()
            name = f" ({names[value]})" if key == "image_id" and value in names else ""
            return place(int(columns.rows[i])), f"{key} {value!r}{name}"

        problems.add_rows(kind, bad, describe)
        wrong |= bad
        if problems.accepts(kind):
            dropped |= bad
    return wrong


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number that fits into 64 bits; ``True`` is none."""
    return _holds_whole(type(value)) and -(2**63) <= value < 2**63  # type: ignore[operator]


def is_real(value: object) -> bool:
    """Tell whether a value is a number, finite or not; ``True`` is none."""
    return _holds_real(type(value))


def _holds_whole(kind: type) -> bool:
    return kind is int or (issubclass(kind, Integral) and kind is not bool)


def _holds_real(kind: type) -> bool:
    return kind is float or kind is int or (issubclass(kind, Real) and kind is not bool)


def _try_columns(entries: Sequence[Any], scored: bool) -> BoxColumns | None:
    """Put entries into columns; ``None`` if any is of a wrong type."""
    try:
        return _columns(entries, np.arange(len(entries)), scored)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _columns(entries: Sequence[Any], rows: NDArray[np.intp], scored: bool) -> BoxColumns:
    """Put entries into columns without a look at each in Python.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: If any entry is of a wrong type.
    """
    if not all(issubclass(kind, Mapping) for kind in set(map(type, entries))):
        raise TypeError("an entry is no object")
    boxes = list(map(itemgetter("bbox"), entries))
    if not set(map(len, boxes)) <= {4}:
        raise ValueError("a box has not 4 numbers")
    sides = list(chain.from_iterable(boxes))
    scores = np.ones(len(entries))
    if scored:
        scores = _numbers(list(map(itemgetter("score"), entries)), _holds_real, np.float64)
    return BoxColumns(
        rows,
        _numbers(list(map(itemgetter("image_id"), entries)), _holds_whole, np.int64),
        _numbers(list(map(itemgetter("category_id"), entries)), _holds_whole, np.int64),
        _numbers(sides, _holds_real, np.float64).reshape(-1, 4),
        scores,
    )


def _numbers(values: Sequence[Any], holds: Callable[[type], bool], dtype: type) -> NDArray:
    if not all(map(holds, set(map(type, values)))):
        raise TypeError("a value is no number")
    return np.fromiter(values, dtype, len(values))


def _wrong_type(entry: Any, kinds: EntryKinds, scored: bool) -> tuple[Kind, str] | None:
    """Return what is wrong with the types of an entry, and the value; ``None`` if nothing is."""
    needed = ["image_id", "category_id", "bbox", *(["score"] if scored else [])]
    if not isinstance(entry, Mapping) or any(key not in entry for key in needed):
        return kinds.malformed, repr(entry)
    image_id, category_id, bbox = (entry[key] for key in needed[:3])
    if not is_whole(image_id):
        return kinds.unknown_image, f"image_id {image_id!r}"
    if not is_whole(category_id):
        return kinds.unknown_category, f"category_id {category_id!r}"
    if not (_has_four(bbox) and _all_float64(bbox)):
        return kinds.bad_box, f"bbox {bbox!r}"
    if scored and not _all_float64([entry["score"]]):
        return kinds.not_finite, f"score {entry['score']!r}"
    return None


def _has_four(bbox: object) -> bool:
    return isinstance(bbox, Sequence | np.ndarray) and len(bbox) == 4


def _all_float64(values: Iterable[Any]) -> bool:
    """Tell whether all are numbers that float64 can hold, finite or not."""
    try:
        return all(is_real(value) and float(value) is not None for value in values)
    except OverflowError:  # an integer of more than 308 digits
        return False


def find_corners(
    boxes: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], int, bool]:
    """Decide whether boxes hold corners, ``x1, y1, x2, y2``, in place of sizes.

    They do if many leave their images as ``x, y, width, height``, while nearly all are proper boxes
    inside their images as corners. Images of unknown size tell nothing.

    Args:
        boxes: All boxes of a file, ``[N, 4]``.
        sizes: Width and height of each one's image, 0 where unknown, ``[N, 2]``.

    Returns:
        The boxes that leave their image as ``x, y, width, height``, ``[N]``; how many are on images
        of known size; and whether the file is taken to hold corners.
    """
    known = (sizes > 0).all(axis=1) & np.isfinite(boxes).all(axis=1)
    limits = sizes + TOLERANCE
    inside = (boxes[:, :2] >= -TOLERANCE).all(axis=1)
    fits = (boxes[:, :2] + boxes[:, 2:] <= limits).all(axis=1)
    leaving = np.logical_and(known, ~(inside & fits))
    ordered = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    proper = known & inside & ordered & (boxes[:, 2:] <= limits).all(axis=1)
    total, count = int(np.count_nonzero(known)), int(np.count_nonzero(leaving))
    corners = count > 0 and count >= _LEAVING * total
    return leaving, total, corners and bool(np.count_nonzero(proper) >= _PROPER * total)
