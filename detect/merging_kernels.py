"""NMS and box voting, compiled: what merging does on a CPU.

A candidate is a box and a class that the box may be a detection of. NMS ends as soon as the best
detections of the image are certain, so that most candidates are never compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.near_boxes import arrange_boxes, find_near, measure_overlaps, reach_of

_FIRST_SHARE = 8  # candidates looked at first for each detection that may be returned
_GROWTH = 4  # times as many, where those were not enough
_LEAST_WEIGHT = float(np.finfo(np.float32).tiny)  # so that boxes which all score zero have a mean


class Candidates(NamedTuple):
    """Boxes and classes, by class and within a class by box.

    Attributes:
        rows: Box of each candidate, ``[M]``.
        scores: Score of each candidate, ``[M]``.
        starts: Where the candidates of each class start, and their number, ``[C + 1]``.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    starts: NDArray[np.int64]


@njit(cache=True, nogil=True)
def find_candidates(
    boxes: NDArray[np.floating], scores: NDArray[np.float32], threshold: np.float32
) -> Candidates:
    """Find the boxes with area and enough score, for each class.

    Args:
        boxes: Shared by all classes, ``[N, 1, 4]``, or one for each, ``[N, C, 4]``.
        scores: ``[N, C + 1]``; the last column is left out.
        threshold: The lowest score of a candidate.
    """
    classes = scores.shape[1] - 1
    counts = np.zeros(classes + 1, dtype=np.int64)
    for row in range(len(scores)):
        for label in range(classes):
            if scores[row, label] >= threshold and _has_area(boxes, row, label):
                counts[label + 1] += 1
    starts = np.cumsum(counts)
    heads = starts.copy()
    rows = np.empty(starts[classes], dtype=np.int32)
    chosen = np.empty(starts[classes], dtype=np.float32)
    for row in range(len(scores)):
        for label in range(classes):
            if scores[row, label] >= threshold and _has_area(boxes, row, label):
                rows[heads[label]] = row
                chosen[heads[label]] = scores[row, label]
                heads[label] += 1
    return Candidates(rows, chosen, starts)


@njit(cache=True, nogil=True, inline="always")
def _has_area(boxes: NDArray[np.floating], row: int, label: int) -> bool:
    box = boxes[row, label if boxes.shape[1] > 1 else 0]
    return bool(box[2] > box[0] and box[3] > box[1])


@njit(cache=True, nogil=True)
def keep_best(
    boxes: NDArray[np.floating],
    candidates: Candidates,
    threshold: float,
    max_per_class: int,
    max_detections: int,
) -> NDArray[np.int64]:
    """Return which candidates of the image NMS leaves, best first, ``[K]``.

    Args:
        boxes: Shared by all classes, ``[N, 1, 4]``, or one for each, ``[N, C, 4]``.
        candidates: By class.
        threshold: IoU with a better box of its class above which a candidate goes.
        max_per_class: The most that a class may keep.
        max_detections: The most that the image may keep.
    """
    keys = _as_keys(candidates.scores)
    share = _FIRST_SHARE * max_detections
    while True:
        # What NMS does with the best of a class does not depend on the rest; and where the best
        # of all classes fill the image, the rest is not needed.
        bound = _bound(keys, share)
        kept = _keep_in_classes(boxes, candidates, keys, bound, threshold, max_per_class)
        if len(kept) >= max_detections or share >= len(keys):
            break
        share *= _GROWTH
    # The sort is stable: equal scores stay ordered by class, then by box.
    return kept[_sort(keys[kept])][:max_detections]


@njit(cache=True, nogil=True)
def _as_keys(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Turn scores into numbers that fall while they rise, equal for equal scores."""
    bits = scores.view(np.int32)
    keys = np.empty(len(scores), dtype=np.uint32)
    for i in range(len(scores)):
        number = np.int64(bits[i])
        if number < 0:  # a sign and a magnitude; minus zero becomes zero
            number = -(number & 0x7FFFFFFF)
        keys[i] = 0x7FFFFFFF - number
    return keys


@njit(cache=True, nogil=True)
def _bound(keys: NDArray[np.uint32], share: int) -> np.int64:
    """Return a number that is larger than the ``share`` smallest keys; few others are below it."""
    if share < len(keys):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for key in keys:
            counts[key >> 16] += 1
        found = 0
        for high in range(len(counts)):
            found += counts[high]
            if found >= share:
                return np.int64(high + 1) << 16
    return np.int64(1) << 32


@njit(cache=True, nogil=True)
def _keep_in_classes(
    boxes: NDArray[np.floating],
    candidates: Candidates,
    keys: NDArray[np.uint32],
    bound: np.int64,
    threshold: float,
    max_per_class: int,
) -> NDArray[np.int64]:
    """Return what NMS leaves of the candidates with keys below a bound, by class, best first."""
    rows, _, starts = candidates
    kept = np.empty(len(rows), dtype=np.int64)
    count = 0
    for label in range(len(starts) - 1):
        begin, end = starts[label], starts[label + 1]
        chosen = begin + np.nonzero(keys[begin:end] < bound)[0]
        if len(chosen):
            chosen = chosen[_sort(keys[chosen])]
            corners = boxes[:, label if boxes.shape[1] > 1 else 0]
            left = _suppress(corners, rows[chosen], threshold, max_per_class)
            kept[count : count + len(left)] = chosen[left]
            count += len(left)
    return kept[:count]


@njit(cache=True, nogil=True)
def _sort(keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the order of keys; equal ones stay as they are (radix sort, a byte at a time)."""
    counts = np.zeros((4, 256), dtype=np.int64)
    for key in keys:
        for byte in range(4):
            counts[byte, key >> (8 * byte) & 255] += 1
    order, spare = np.arange(len(keys)), np.empty(len(keys), dtype=np.int64)
    for byte in range(4):
        heads = counts[byte]
        total = 0
        for value in range(256):
            heads[value], total = total, total + heads[value]
        for i in order:
            value = keys[i] >> (8 * byte) & 255
            spare[heads[value]] = i
            heads[value] += 1
        order, spare = spare, order
    return order


@njit(cache=True, nogil=True)
def _suppress(
    boxes: NDArray[np.floating], rows: NDArray[np.int32], threshold: float, limit: int
) -> NDArray[np.int64]:
    """Return which of the boxes ``rows`` of a class NMS leaves, the first ``limit`` of them.

    Args:
        boxes: Of the class, ``[N, 4]``.
        rows: Those to look at, best first, at least one.
        threshold: IoU with a better box above which a box goes.
        limit: The most that may stay.
    """
    table, places = arrange_boxes(boxes, rows)
    reach = reach_of(threshold)
    iou = np.empty(len(rows))
    alive = np.ones(len(rows), dtype=np.uint8)
    left = np.empty(len(rows), dtype=np.int64)
    count = 0
    for i in range(len(rows)):
        if alive[places[i]]:
            left[count] = i
            count += 1
            if count == limit:
                break
            first, last = find_near(table, places[i], reach)
            overlaps, others = iou[: last - first], alive[first:last]
            measure_overlaps(table.corners, places[i], first, overlaps)
            for j in range(len(others)):  # better ones, too: they stay as they are
                others[j] = np.uint8(0) if overlaps[j] > threshold else others[j]
    return left[:count]


@njit(cache=True, nogil=True)
def vote(
    boxes: NDArray[np.floating],
    candidates: Candidates,
    kept: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.float64]:
    """Move kept candidates to the score-weighted mean of the boxes of their class that overlap.

    Args:
        boxes: Shared by all classes, ``[N, 1, 4]``, or one for each, ``[N, C, 4]``.
        candidates: By class.
        kept: Those to move, ``[K]``.
        threshold: Boxes vote for a kept box they overlap by at least this IoU.

    Returns:
        The moved boxes, ``[K, 4]``.
    """
    rows, scores, starts = candidates
    moved = np.empty((len(kept), 4))
    order = _sort(kept.astype(np.uint32))  # by class
    kept = kept[order]
    begin = 0
    while begin < len(kept):
        label = np.searchsorted(starts, kept[begin], side="right") - 1
        low, high = starts[label], starts[label + 1]
        end = np.searchsorted(kept, high)
        corners = boxes[:, label if boxes.shape[1] > 1 else 0]
        moved[order[begin:end]] = _vote_in_class(
            corners, rows[low:high], scores[low:high], kept[begin:end] - low, threshold
        )
        begin = end
    return moved


@njit(cache=True, nogil=True, error_model="numpy")  # NaN where an area is infinite, as torch has it
def _vote_in_class(
    boxes: NDArray[np.floating],
    rows: NDArray[np.int32],
    scores: NDArray[np.float32],
    kept: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.float64]:
    """Return where the boxes ``rows[kept]`` are moved by the boxes ``rows``, ``[K, 4]``."""
    table, places = arrange_boxes(boxes, rows)
    weights = np.empty(len(rows))
    for i in range(len(rows)):
        weights[places[i]] = max(np.float64(scores[i]), _LEAST_WEIGHT)
    reach = reach_of(threshold)
    iou = np.empty(len(rows))
    moved = np.empty((len(kept), 4))
    for i in range(len(kept)):
        first, last = find_near(table, places[kept[i]], reach)
        overlaps = iou[: last - first]
        measure_overlaps(table.corners, places[kept[i]], first, overlaps)
        total = x1 = y1 = x2 = y2 = 0.0
        for j in range(len(overlaps)):
            if overlaps[j] >= threshold:
                place = first + j
                total += weights[place]
                x1 += weights[place] * table.corners[0, place]
                y1 += weights[place] * table.corners[1, place]
                x2 += weights[place] * table.corners[2, place]
                y2 += weights[place] * table.corners[3, place]
        moved[i, 0], moved[i, 1] = x1 / total, y1 / total
        moved[i, 2], moved[i, 3] = x2 / total, y2 / total
    return moved
