"""Which regions of a segmentation touch, and how sharply they are divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Neighbours(NamedTuple):
    """The pairs of regions that touch.

    Attributes:
        pairs: Each pair once, the smaller number first, int64 ``[E, 2]``.
        lengths: Pixel edges between the two, int32 ``[E]``.
        contrasts: Sum of the weights of these edges, int64 ``[E]``.
    """

    pairs: NDArray[np.int64]
    lengths: NDArray[np.int32]
    contrasts: NDArray[np.int64]


@njit(cache=True, nogil=True)
def find_neighbours(
    labels: NDArray[np.int32], num_regions: int, weights: NDArray[np.uint16]
) -> Neighbours:
    """Find the pairs of regions that touch and how sharply they are divided.

    Args:
        labels: Region of each pixel, ``[H, W]``.
        num_regions: ``R``, one more than the largest label.
        weights: The ``edge_weights`` of the image, ``[H, W, D]``.
    """
    # Connected regions of a plane have less than 3 R pairs. Crossing diagonals may make more.
    capacity = 8
    while capacity < 6 * num_regions:
        capacity *= 2
    while True:
        neighbours = _gather_pairs(labels, weights, capacity)
        if 2 * len(neighbours.pairs) < capacity:
            return neighbours
        capacity *= 2


@njit(cache=True, nogil=True)
def _gather_pairs(
    labels: NDArray[np.int32], weights: NDArray[np.uint16], capacity: int
) -> Neighbours:
    """Find up to ``capacity / 2`` pairs; that many mean that there may be more."""
    height, width = labels.shape
    table = np.full(capacity, -1, dtype=np.int32)
    pairs = np.empty((capacity // 2, 2), dtype=np.int64)
    lengths = np.zeros(capacity // 2, dtype=np.int32)
    contrasts = np.zeros(capacity // 2, dtype=np.int64)
    count = 0
    for y in range(height):
        below = min(y + 1, height - 1)
        for x in range(width):
            right = min(x + 1, width - 1)
            here = labels[y, x]
            if weights.shape[2] == 2 and here == labels[y, right] and here == labels[below, x]:
                continue
            for direction in range(weights.shape[2]):
                if direction == 0:
                    there = labels[y, right]
                elif direction == 1:
                    there = labels[below, x]
                elif direction == 2:
                    there = labels[below, right] if below > y and right > x else here
                else:
                    there = labels[below, x - 1] if below > y and x > 0 else here
                if there != here:
                    a, b = min(here, there), max(here, there)
                    pair = _find_pair(table, pairs, count, a, b)
                    count = max(count, pair + 1)
                    lengths[pair] += 1
                    contrasts[pair] += weights[y, x, direction]
                    if count == len(pairs):
                        return Neighbours(pairs, lengths, contrasts)
    return Neighbours(pairs[:count], lengths[:count], contrasts[:count])


@njit(cache=True, nogil=True)
def _find_pair(
    table: NDArray[np.int32], pairs: NDArray[np.int64], count: int, a: int, b: int
) -> int:
    """Return the number of a pair, the next one if it is new.

    The table is an open hash table of pair numbers whose size is a power of two.
    """
    slot = ((np.int64(a) * 0x9E3779B1 + np.int64(b)) * 0x9E3779B1 >> 12) & (table.size - 1)
    while table[slot] != -1:
        pair = table[slot]
        if pairs[pair, 0] == a and pairs[pair, 1] == b:
            return int(pair)
        slot = (slot + 1) & (table.size - 1)
    table[slot] = count
    pairs[count, 0] = a
    pairs[count, 1] = b
    return count
