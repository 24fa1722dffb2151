"""Overlaps of a box with those near it, compiled.

Boxes are arranged by their middles, from left to right, so that a box can be compared with a
range of them that holds all which overlap it enough, without branches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BINS = 128  # of middles
_LEAST = 0.999  # of the threshold; the rest covers rounding
_ROUNDING = 1e-15  # of a coordinate; sums of two of them in float64 are off by less


class Table(NamedTuple):
    """Boxes by bins of their middles.

    Attributes:
        corners: Left, top, right, bottom and area, ``[5, N]``.
        starts: Where each bin starts, and the number of boxes, ``[_BINS + 1]``.
        origin: Smallest sum of a left and a right side, twice a middle, in pixels.
        scale: Bins in a pixel of such a sum.
    """

    corners: NDArray[np.float64]
    starts: NDArray[np.int64]
    origin: float
    scale: float


@njit(cache=True, nogil=True)
def arrange_boxes(
    boxes: NDArray[np.floating], rows: NDArray[np.int32]
) -> tuple[Table, NDArray[np.int64]]:
    """Sort boxes by bins of their middles (counting sort).

    Args:
        boxes: Half-open ``xyxy`` pixels, ``[N, 4]``.
        rows: Which of them, at least one, ``[M]``.

    Returns:
        The boxes ``rows``, and the place of each in the table, ``[M]``.
    """
    sums = np.empty(len(rows))
    for i in range(len(rows)):
        sums[i] = np.float64(boxes[rows[i], 0]) + np.float64(boxes[rows[i], 2])
    origin = sums.min()
    extent = sums.max() - origin
    scale = _BINS / extent if extent > 0 else 0.0
    counts = np.zeros(_BINS + 1, dtype=np.int64)
    for middle in sums:
        counts[_bin(middle, origin, scale) + 1] += 1
    starts = np.cumsum(counts)
    heads = starts.copy()
    corners = np.empty((5, len(rows)))
    places = np.empty(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        number = _bin(sums[i], origin, scale)
        place = places[i] = heads[number]
        heads[number] += 1
        for side in range(4):
            corners[side, place] = boxes[rows[i], side]
        x1, y1, x2, y2 = corners[0, place], corners[1, place], corners[2, place], corners[3, place]
        corners[4, place] = (x2 - x1) * (y2 - y1)
    return Table(corners, starts, origin, scale), places


@njit(cache=True, nogil=True, inline="always")
def _bin(middle: float, origin: float, scale: float) -> int:
    number = (middle - origin) * scale
    return int(min(number, _BINS - 1)) if number > 0 else 0


@njit(cache=True, nogil=True)
def reach_of(threshold: float) -> float:
    """Return how far apart the middles of boxes with this IoU can be, in half widths of either.

    With an IoU of t, the horizontal ranges of two boxes share at least t of their union u. Either
    width is thus at least t * u, and both make at least (1 + t) * u. The middles, u less half of
    both widths apart, are within (1 - t) / 2 * u, which is at most (1 / t - 1) / 2 of a width.
    """
    least = _LEAST * threshold
    return 1 / least - 1 if least > 0 else np.inf


@njit(cache=True, nogil=True, inline="always")
def find_near(table: Table, place: int, reach: float) -> tuple[int, int]:
    """Return where the boxes within reach of the one at ``place`` begin and end in the table."""
    x1, x2 = table.corners[0, place], table.corners[2, place]
    middle = x1 + x2
    farthest = reach * (x2 - x1) + _ROUNDING * (abs(x1) + abs(x2))
    first = _bin(middle - farthest, table.origin, table.scale)
    last = _bin(middle + farthest, table.origin, table.scale)
    return table.starts[first], table.starts[last + 1]


@njit(cache=True, nogil=True, error_model="numpy")  # a test for zero would not be vectorised
def measure_overlaps(
    corners: NDArray[np.float64], place: int, first: int, iou: NDArray[np.float64]
) -> None:
    """Write the IoU of a box with those from ``first`` on; no branches, hence vectorised.

    Args:
        corners: Of a table, ``[5, N]``.
        place: The box.
        first: Where the others begin.
        iou: Of as many as there is room for.
    """
    left, top, area = corners[0, place], corners[1, place], corners[4, place]
    right, bottom = corners[2, place], corners[3, place]
    last = first + len(iou)
    x1, y1 = corners[0][first:last], corners[1][first:last]
    x2, y2 = corners[2][first:last], corners[3][first:last]
    others = corners[4][first:last]
    for j in range(len(iou)):
        w = (x2[j] if x2[j] < right else right) - (x1[j] if x1[j] > left else left)
        h = (y2[j] if y2[j] < bottom else bottom) - (y1[j] if y1[j] > top else top)
        common = (w if w > 0 else 0.0) * (h if h > 0 else 0.0)
        iou[j] = common / (area + others[j] - common)
