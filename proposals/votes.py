"""In how many hierarchies a box is found, about and exactly, and how much boxes overlap."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_AGREEMENT = 0.7, 0.9  # IoU at which two boxes count as the same finding; also exactly the same


@njit(cache=True, nogil=True)
def count_votes(
    boxes: NDArray[np.int32], regions: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count in how many hierarchies each box is found, about and exactly.

    Args:
        boxes: Distinct boxes, sorted by area, ``[N, 4]``.
        regions: The box of each region, one hierarchy after the other, ``[M]``.
        ends: Where the regions of each hierarchy end, ``[S]``.

    Returns:
        ``[N, 3]``: hierarchies with this box, summed over all boxes that overlap it by at least
        each IoU of ``_AGREEMENT``, and for the box itself.
    """
    count = len(boxes)
    found = np.zeros(count, dtype=np.int32)
    latest = np.full(count, -1)
    start = 0
    for number, end in enumerate(ends):
        for i in range(start, end):
            if latest[regions[i]] != number:
                latest[regions[i]] = number
                found[regions[i]] += 1
        start = end

    about, almost = _agree(boxes, found)
    return np.stack((about, almost, found), axis=1).astype(np.int64)


@njit(cache=True, nogil=True)
def _agree(
    boxes: NDArray[np.int32], found: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Add up over similar boxes how often each is found, for both of ``_AGREEMENT``.

    A box is compared with those that are not too different in area and left side: what overlaps
    it by an IoU of t covers at least t of its area, and of its width.
    """
    low = np.float32(_AGREEMENT[0])
    order, classes, starts = _sort_by_class(boxes, low)
    stride = boxes.max() + 1  # of a class in starts
    boxes = boxes[order]
    found = found[order]
    areas = measure_areas(boxes)
    corners = np.ascontiguousarray(boxes.T).astype(np.float32)
    iou = np.empty(len(boxes), dtype=np.float32)
    about, almost = found.copy(), found.copy()
    for i in range(len(boxes)):
        left, width = boxes[i, 0], boxes[i, 2] - boxes[i, 0]
        base = classes[i] * stride
        # One more to either side, for sums that were rounded.
        first = max(0, int(left - (1 - low) / low * width) - 1)
        last = min(stride - 1, int(left + (1 - low) * width) + 2)
        # Each pair once: the boxes that follow in this class, and those in the next one.
        following = i + 1, starts[base + last]
        larger = starts[base + stride + first], starts[base + stride + last]
        for begin, end in (following, larger):
            overlaps = iou[: end - begin]
            overlaps_with(corners, areas, i, begin, end, overlaps)
            given = _vote(overlaps, found[begin:end], found[i], about[begin:end], almost[begin:end])
            about[i] += given[0]
            almost[i] += given[1]
    places = np.argsort(order)
    return about[places], almost[places]


@njit(cache=True, nogil=True)
def _sort_by_class(
    boxes: NDArray[np.int32], ratio: np.float32
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort boxes into classes of area, and by left side in each (counting sort).

    Args:
        boxes: Sorted by area, ``[N, 4]``.
        ratio: Of the smallest to the largest area in a class, so that boxes in classes that are
            no neighbours differ by more.

    Returns:
        The order; the class at each place; and where the boxes of each class and left side start,
        ``[K * (largest coordinate + 1)]``, with an empty class at the end.
    """
    areas = measure_areas(boxes)
    classes = np.zeros(len(boxes), dtype=np.int64)
    begin, number = 0, 0
    while begin < len(boxes):
        end = np.searchsorted(areas, areas[begin] / ratio, side="right")
        classes[begin:end] = number
        begin, number = end, number + 1
    stride = np.int64(boxes.max() + 1)
    starts = np.zeros((number + 1) * stride + 1, dtype=np.int64)
    keys = classes * stride + boxes[:, 0]
    for key in keys:
        starts[key + 1] += 1
    starts = np.cumsum(starts)
    heads = starts.copy()
    order = np.empty(len(boxes), dtype=np.int64)
    for i in range(len(boxes)):
        order[heads[keys[i]]] = i
        heads[keys[i]] += 1
    return order, classes, starts


@njit(cache=True, nogil=True)
def _vote(
    overlaps: NDArray[np.float32],
    found: NDArray[np.int32],
    own: np.int32,
    about: NDArray[np.int32],
    almost: NDArray[np.int32],
) -> tuple[np.int32, np.int32]:
    """Give a box's votes to those that overlap it; return what they give to it."""
    low, high = np.float32(_AGREEMENT[0]), np.float32(_AGREEMENT[1])
    roughly = closely = np.int32(0)
    for j in range(len(overlaps)):
        near, same = np.int32(overlaps[j] >= low), np.int32(overlaps[j] >= high)
        about[j] += np.int32(own * near)
        almost[j] += np.int32(own * same)
        roughly += np.int32(found[j] * near)
        closely += np.int32(found[j] * same)
    return roughly, closely


@njit(cache=True, nogil=True)
def measure_areas(boxes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the areas of boxes, ``[N]``."""
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32)
    return sides[:, 0] * sides[:, 1]


@njit(cache=True, nogil=True, error_model="numpy")  # a test for zero would not be vectorised
def overlaps_with(
    corners: NDArray[np.float32],
    areas: NDArray[np.float32],
    i: int,
    begin: int,
    end: int,
    iou: NDArray[np.float32],
) -> None:
    """Write the IoU of box ``i`` with boxes ``begin`` to ``end``; no branches, hence vectorised."""
    zero = np.float32(0)
    left, top, right, bottom = corners[:, i]
    area = areas[i]
    x1, y1 = corners[0][begin:end], corners[1][begin:end]
    x2, y2 = corners[2][begin:end], corners[3][begin:end]
    others = areas[begin:end]
    for j in range(len(iou)):
        w = (x2[j] if x2[j] < right else right) - (x1[j] if x1[j] > left else left)
        h = (y2[j] if y2[j] < bottom else bottom) - (y1[j] if y1[j] > top else top)
        common = (w if w > zero else zero) * (h if h > zero else zero)
        iou[j] = common / (area + others[j] - common)
