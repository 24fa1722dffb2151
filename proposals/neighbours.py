"""Which regions of a segmentation touch, and how sharply they are divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.segmentation import DIRECTIONS

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads keys evenly


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
    slots = np.full(capacity, -1, dtype=np.int64)  # open hash table of keys, at most half full
    numbers = np.empty(capacity, dtype=np.int32)  # of the pair in each slot
    mask = np.uint64(capacity - 1)
    pairs = np.empty((capacity // 2, 2), dtype=np.int64)
    lengths = np.zeros(capacity // 2, dtype=np.int32)
    contrasts = np.zeros(capacity // 2, dtype=np.int64)
    count = 0
    for direction in range(weights.shape[2]):
        dy, dx = DIRECTIONS[direction]
        start, stop = max(0, -dx), width - max(0, dx)
        for y in range(height - dy):
            here, there = labels[y, start:stop], labels[y + dy, start + dx : stop + dx]
            sharpness = weights[y, start:stop, direction]
            key, pair = np.int64(-1), 0
            for x in range(here.size):
                if here[x] == there[x]:
                    continue
                a, b = min(here[x], there[x]), max(here[x], there[x])
                found = np.int64(a) << 32 | np.int64(b)
                if found != key:  # along a boundary the same pair comes again and again
                    key = found
                    slot = np.uint64(key) * _SPREAD >> np.uint64(40) & mask
                    while slots[slot] != key and slots[slot] != -1:
                        slot = (slot + np.uint64(1)) & mask
                    if slots[slot] == -1:
                        if count == len(pairs):
                            return Neighbours(pairs, lengths, contrasts)
                        slots[slot], numbers[slot] = key, count
                        pairs[count, 0], pairs[count, 1] = a, b
                        count += 1
                    pair = numbers[slot]
                lengths[pair] += 1
                contrasts[pair] += sharpness[x]
    return Neighbours(pairs[:count], lengths[:count], contrasts[:count])
