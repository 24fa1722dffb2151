"""Cells: the pieces that several segmentations of an image have in common.

Whatever is a sum over pixels is taken once for every cell and then summed up to the regions of
each segmentation, which spares a look at all pixels for each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads keys evenly


class Cells(NamedTuple):
    """Pixels that are in the same region of each segmentation are in the same cell.

    Attributes:
        labels: Cell of each pixel, int32 ``[H, W]``.
        regions: Region of each cell in every segmentation, int32 ``[S, A]``.
    """

    labels: NDArray[np.int32]
    regions: NDArray[np.int32]

    def maps(self) -> list[NDArray[np.int32]]:
        """Return the region of every pixel in each segmentation, ``S`` arrays ``[H, W]``."""
        return [regions[self.labels] for regions in self.regions]


@njit(cache=True, nogil=True, inline="always")
def find_slot(slots: NDArray[np.int64], key: np.int64) -> np.uint64:
    """Return the place of a key in an open hash table; it holds -1 if the key is not there.

    Args:
        slots: Keys, -1 where there is none, a power of two of places, some of them free.
        key: To be found, 0 or more.
    """
    mask = np.uint64(slots.size - 1)
    slot = np.uint64(key) * _SPREAD >> np.uint64(32) & mask
    while slots[slot] != key and slots[slot] != -1:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def overlay(numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lay segmentations over each other.

    Args:
        numbers: Region of each pixel, or of each part of the image, in every one, ``[S, T]``.

    Returns:
        The cell of each, ``[T]``, and the region of each cell in every segmentation, ``[S, A]``.
    """
    cells = numbers[0].copy()
    count = int(cells.max()) + 1
    for others in numbers[1:]:
        capacity = 64
        while capacity < 4 * count:
            capacity *= 2
        refined, more = _refine(cells, others, capacity)
        while 2 * more >= capacity:  # there may be more than it found
            capacity *= 2
            refined, more = _refine(cells, others, capacity)
        cells, count = refined, more
    regions = np.empty((len(numbers), count), dtype=np.int32)
    for s in range(len(numbers)):
        for i in range(cells.size):
            regions[s, cells[i]] = numbers[s, i]
    return cells, regions


@njit(cache=True, nogil=True)
def _refine(
    cells: NDArray[np.int32], others: NDArray[np.int32], capacity: int
) -> tuple[NDArray[np.int32], int]:
    """Split cells by another segmentation, into up to ``capacity / 2``; return how many."""
    slots = np.full(capacity, -1, dtype=np.int64)
    numbers = np.empty(capacity, dtype=np.int32)  # of the new cell in each slot
    refined = np.empty(cells.size, dtype=np.int32)
    count = 0
    for i in range(cells.size):
        key = np.int64(cells[i]) << 32 | np.int64(others[i])
        slot = find_slot(slots, key)
        if slots[slot] == -1:
            if 2 * count == capacity:
                break
            slots[slot], numbers[slot] = key, count
            count += 1
        refined[i] = numbers[slot]
    return refined, count
