"""Soft-NMS, compiled: boxes that overlap a better one lose score in place of going altogether.

Bodla et al., "Soft-NMS - improving object detection with one line of code", 2017, in the Gaussian
form: two objects of a class that stand close together can both be found.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.merging_kernels import Candidates
from detect.near_boxes import measure_overlaps


@njit(cache=True, nogil=True)
def keep_softly(
    boxes: NDArray[np.floating],
    candidates: Candidates,
    sigma: float,
    threshold: float,
    max_per_class: int,
    max_detections: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which candidates of the image are left and their scores, best first, ``[K]`` each.

    Args:
        boxes: Shared by all classes, ``[N, 1, 4]``, or one for each, ``[N, C, 4]``.
        candidates: By class.
        sigma: A score falls by ``exp(-IoU ** 2 / sigma)`` for each better box of its class.
        threshold: The lowest score with which a candidate is kept.
        max_per_class: The most that a class may keep.
        max_detections: The most that the image may keep.
    """
    rows, scores, starts = candidates
    kept = np.empty(len(rows), dtype=np.int64)
    left = np.empty(len(rows), dtype=np.float32)
    count = 0
    for label in range(len(starts) - 1):
        begin, end = starts[label], starts[label + 1]
        if end > begin:
            corners = _corners_of(boxes[:, label if boxes.shape[1] > 1 else 0], rows[begin:end])
            values = scores[begin:end].astype(np.float64)
            found = _pick(corners, values, sigma, threshold, max_per_class, kept[count:])
            for i in range(count, count + found):
                left[i] = values[kept[i]]
                kept[i] += begin
            count += found
    # The sort is stable: equal scores stay ordered by class, then in the order of picking.
    order = np.argsort(-left[:count], kind="mergesort")[:max_detections]
    return kept[order], left[order]


@njit(cache=True, nogil=True)
def _corners_of(boxes: NDArray[np.floating], rows: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return left, top, right, bottom and area of some boxes, ``[5, M]``."""
    corners = np.empty((5, len(rows)))
    for i in range(len(rows)):
        for side in range(4):
            corners[side, i] = boxes[rows[i], side]
        corners[4, i] = (corners[2, i] - corners[0, i]) * (corners[3, i] - corners[1, i])
    return corners


@njit(cache=True, nogil=True)
def _pick(
    corners: NDArray[np.float64],
    values: NDArray[np.float64],
    sigma: float,
    threshold: float,
    limit: int,
    picked: NDArray[np.int64],
) -> int:
    """Pick the best box of a class again and again, each time lowering the others' scores.

    Args:
        corners: Of a class, ``[5, M]``.
        values: Their scores, ``[M]``; those of picked boxes are final, in place.
        sigma: See ``keep_softly``.
        threshold: The lowest score of a box that is picked.
        limit: The most to pick.
        picked: Room for the places of the boxes, in the order of picking.

    Returns:
        How many were picked.
    """
    waiting = np.ones(len(values), dtype=np.bool_)
    overlaps = np.empty(len(values))
    for count in range(min(limit, len(values))):
        best = -1
        for i in range(len(values)):
            if waiting[i] and values[i] >= threshold and (best < 0 or values[i] > values[best]):
                best = i
        if best < 0:
            return count
        picked[count] = best
        waiting[best] = False
        measure_overlaps(corners, best, 0, overlaps)
        for i in range(len(values)):
            # Negative scores, of detectors whose scores are none of probabilities, stay.
            if waiting[i] and overlaps[i] > 0 and values[i] > 0:
                values[i] *= np.exp(-(overlaps[i] ** 2) / sigma)
    return min(limit, len(values))
