"""Which regions of a segmentation touch, and how sharply they are divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.cells import find_slot
from proposals.segmentation import DIRECTIONS


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


class _Table(NamedTuple):
    """Pairs that were found so far, and an open hash table of them, at most half full."""

    slots: NDArray[np.int64]  # keys, -1 where there is none
    numbers: NDArray[np.int32]  # of the pair in each slot
    pairs: NDArray[np.int64]
    lengths: NDArray[np.int32]
    contrasts: NDArray[np.int64]


@njit(cache=True, nogil=True)
def _make_table(capacity: int) -> _Table:
    return _Table(
        np.full(capacity, -1, dtype=np.int64),
        np.empty(capacity, dtype=np.int32),
        np.empty((capacity // 2, 2), dtype=np.int64),
        np.zeros(capacity // 2, dtype=np.int32),
        np.zeros(capacity // 2, dtype=np.int64),
    )


@njit(cache=True, nogil=True, inline="always")
def _find_pair(table: _Table, key: np.int64, count: int) -> int:
    """Return the number of a pair, which gets the number ``count`` if it is not there yet."""
    slot = find_slot(table.slots, key)
    if table.slots[slot] == -1:
        table.slots[slot], table.numbers[slot] = key, count
        table.pairs[count, 0], table.pairs[count, 1] = key >> 32, key & 0xFFFFFFFF
    return int(table.numbers[slot])


@njit(cache=True, nogil=True, inline="always")
def _pair_key(one: np.int32, other: np.int32) -> np.int64:
    return np.int64(np.int64(min(one, other)) << 32 | np.int64(max(one, other)))


@njit(cache=True, nogil=True)
def _gather_pairs(
    labels: NDArray[np.int32], weights: NDArray[np.uint16], capacity: int
) -> Neighbours:
    """Find up to ``capacity / 2`` pairs; that many mean that there may be more."""
    height, width = labels.shape
    table = _make_table(capacity)
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
                found = _pair_key(here[x], there[x])
                if found != key:  # along a boundary the same pair comes again and again
                    if 2 * count == capacity:
                        return Neighbours(table.pairs, table.lengths, table.contrasts)
                    key = found
                    pair = _find_pair(table, key, count)
                    count += int(pair == count)
                table.lengths[pair] += 1
                table.contrasts[pair] += sharpness[x]
    return Neighbours(table.pairs[:count], table.lengths[:count], table.contrasts[:count])


@njit(cache=True, nogil=True)
def merge_neighbours(neighbours: Neighbours, into: NDArray[np.int32]) -> Neighbours:
    """Find the pairs of larger regions that touch.

    Args:
        neighbours: What touches among ``A`` regions, such as cells.
        into: The larger region that each goes into, ``[A]``.
    """
    capacity = 2
    while capacity < 2 * len(neighbours.pairs):
        capacity *= 2
    table = _make_table(capacity)
    count = 0
    for e in range(len(neighbours.pairs)):
        one, other = into[neighbours.pairs[e, 0]], into[neighbours.pairs[e, 1]]
        if one != other:
            pair = _find_pair(table, _pair_key(one, other), count)
            count += int(pair == count)
            table.lengths[pair] += neighbours.lengths[e]
            table.contrasts[pair] += neighbours.contrasts[e]
    return Neighbours(table.pairs[:count], table.lengths[:count], table.contrasts[:count])
