"""Give objects to detections, class by class, in the devkits' own arithmetic.

Both devkits measure overlap with the pixel that 1-based inclusive corners add to a side. Products,
sums and quotients of float64 are taken in their order, so that a box at a threshold falls to the
same side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.scoring.average_precision import Rule
from detect.scoring.matches import Matches
from detect.scoring.tables import GroundTruth, ScoredBoxes

_SIGN = np.uint64(1 << 63)
_DIGITS = 1 << 11  # of a sorting pass


class ClassBoxes(NamedTuple):
    """Detections and objects of one class; ``d`` and ``o`` of them.

    Attributes:
        corners: Detections, best first, float64 ``[d, 4]``.
        images: Their images, int32 ``[d]``.
        object_corners: Objects, float64 ``[o, 4]``.
        object_images: Their images, ascending, int32 ``[o]``.
        num_images: Images of the data set.
    """

    corners: NDArray[np.float64]
    images: NDArray[np.int32]
    object_corners: NDArray[np.float64]
    object_images: NDArray[np.int32]
    num_images: int


# Writes what each detection of a class (its label is first) turned out to be, ``[d]``, and which of
# the class's objects it was given, -1 for none, ``[d]``. The objects' positions in the ground truth
# come third.
MatchClass = Callable[
    [int, ClassBoxes, NDArray[np.int32], NDArray[np.int8], NDArray[np.int32]], None
]


def sort_detections(
    found: ScoredBoxes,
    num_classes: int,
    num_images: int,
    image_ids: NDArray[np.int64] | None = None,
) -> ScoredBoxes:
    """Sort detections by class, and within a class by score, the best first.

    Args:
        found: The detections. A score that is not a number comes first, as MATLAB sorts.
        num_classes: Number of classes.
        num_images: Number of images.
        image_ids: Detections of equal score come in the order of these, ``[I]``, then of the file;
            without them, in the order of the file.

    Returns:
        The sorted detections; sorting them again costs little.
    """
    order = np.arange(len(found), dtype=np.int32)
    if image_ids is not None:
        rank = np.empty(num_images, dtype=np.int32)
        rank[np.argsort(image_ids)] = np.arange(num_images, dtype=np.int32)
        order = _counting_sort(order, rank[found.images], num_images)
    order = _counting_sort(order, found.labels, num_classes)
    _sort_classes(order, _class_starts(found.labels, num_classes), found.scores)
    return found if (order[1:] > order[:-1]).all() else found[order]


@njit(cache=True, nogil=True)
def _counting_sort(
    order: NDArray[np.int32], keys: NDArray[np.int32], num_keys: int
) -> NDArray[np.int32]:
    """Sort indices by their keys, ``[N]``; equal ones keep their order."""
    heads = np.zeros(num_keys + 1, dtype=np.int64)
    for index in order:
        heads[keys[index] + 1] += 1
    for key in range(num_keys):
        heads[key + 1] += heads[key]
    result = np.empty_like(order)
    for index in order:
        key = keys[index]
        result[heads[key]] = index
        heads[key] += 1
    return result


@njit(cache=True, nogil=True)
def _sort_classes(
    order: NDArray[np.int32], starts: NDArray[np.int64], scores: NDArray[np.float64]
) -> None:
    """Sort each class's indices by score, in place; equal scores keep their order.

    One call for all classes: other threads may keep Python busy.
    """
    keys = np.empty(len(order), dtype=np.uint64)
    room_keys, room = np.empty_like(keys), np.empty_like(order)
    bits = keys.view(np.float64)
    for label in range(len(starts) - 1):
        own = slice(starts[label], starts[label + 1])
        for i in range(starts[label], starts[label + 1]):
            score = scores[order[i]] + 0.0  # -0.0 equals 0.0
            bits[i] = np.inf if np.isnan(score) else score
            # The bits of floats grow with them, once the negative ones are turned round.
            positive = keys[i] >> np.uint64(63) == np.uint64(0)
            keys[i] = ~keys[i] & ~_SIGN if positive else keys[i]
        _radix_sort(keys[own], order[own], room_keys[own], room[own])


@njit(cache=True, nogil=True)
def _radix_sort(
    keys: NDArray[np.uint64],
    values: NDArray[np.int32],
    room_keys: NDArray[np.uint64],
    room: NDArray[np.int32],
) -> None:
    """Sort values by their keys, both in place; equal ones keep their order (LSD, 11 bits a pass).

    Args:
        keys: The smallest first afterwards, ``[n]``.
        values: What they belong to, ``[n]``.
        room_keys: For the work, ``[n]``.
        room: For the work, ``[n]``.
    """
    mask = np.uint64(_DIGITS - 1)
    heads = np.empty(_DIGITS + 1, dtype=np.int64)
    for shift in range(0, 64, 11):
        by = np.uint64(shift)
        heads[:] = 0
        for key in keys:
            heads[((key >> by) & mask) + np.uint64(1)] += 1
        if len(keys) == 0 or heads[((keys[0] >> by) & mask) + np.uint64(1)] == len(keys):
            continue  # all alike
        for digit in range(_DIGITS):
            heads[digit + 1] += heads[digit]
        for i in range(len(keys)):
            digit = (keys[i] >> by) & mask
            room_keys[heads[digit]] = keys[i]
            room[heads[digit]] = values[i]
            heads[digit] += 1
        keys[:] = room_keys
        values[:] = room


def match(
    found: ScoredBoxes,
    truth: GroundTruth,
    class_names: Sequence[str],
    match_class: MatchClass,
    *,
    rule: Rule,
    to_find: NDArray[np.bool_],
    iou_thresholds: NDArray[np.float64],
) -> Matches:
    """Match every class, several at a time.

    Args:
        found: The detections, sorted by class, best first, ``[N]``.
        truth: The objects, ``[M]``.
        class_names: Names of the classes, ``[C]``.
        match_class: Does it for one class.
        rule: How a curve becomes an average precision.
        to_find: Objects that count, ``[M]``.
        iou_thresholds: IoU from which a detection finds an object, ``[M]``.
    """
    outcomes = np.empty(len(found), dtype=np.int8)
    objects = np.full(len(found), -1, dtype=np.int32)
    every = np.arange(len(truth.labels), dtype=np.int32)
    members = _counting_sort(every, truth.labels, len(class_names))
    starts = _class_starts(found.labels, len(class_names))
    member_starts = _class_starts(truth.labels, len(class_names))

    def work(label: int) -> None:
        own = slice(starts[label], starts[label + 1])
        of_class = members[member_starts[label] : member_starts[label + 1]]
        boxes = ClassBoxes(
            found.corners[own],
            found.images[own],
            truth.corners[of_class],
            truth.images[of_class],
            truth.num_images,
        )
        match_class(label, boxes, of_class, outcomes[own], objects[own])
        given = objects[own] >= 0
        objects[own][given] = of_class[objects[own][given]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, range(len(class_names))))
    return Matches(
        rule=rule,
        class_names=tuple(class_names),
        found=found,
        truth=truth,
        outcomes=outcomes[None],
        objects=objects[None],
        to_find=to_find,
        iou_thresholds=iou_thresholds[None],
    )


def _class_starts(labels: NDArray[np.int32], num_classes: int) -> NDArray[np.intp]:
    """Return where each class would start in sorted labels, and the end, ``[C + 1]``."""
    return np.cumsum([0, *np.bincount(labels, minlength=num_classes)])


@njit(cache=True, nogil=True)
def first_objects(boxes: ClassBoxes) -> NDArray[np.int32]:
    """Return the first of the objects of each image, ``[I]``; the number of all where none is."""
    first = np.full(boxes.num_images, len(boxes.object_images), dtype=np.int32)
    for j in range(len(boxes.object_images) - 1, -1, -1):
        first[boxes.object_images[j]] = j
    return first


@njit(cache=True, nogil=True, inline="always")
def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> np.float64:
    """Return the IoU of a detection and an object, -1 where they do not meet."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if not (width > 0 and height > 0):
        return np.float64(-1)
    area = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return np.float64(width * height / (area - width * height))
