"""Hierarchical grouping: join the two most similar neighbouring regions until one is left."""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.similarity import COLOURS, TEXTURES, Regions, normalise, similarity


@njit(cache=True, nogil=True)
def find_neighbours(labels: NDArray[np.int32], num_regions: int) -> NDArray[np.int64]:
    """Find the pairs of regions that touch (4-connected).

    Args:
        labels: Region of each pixel, every region connected, ``[H, W]``.
        num_regions: ``R``, one more than the largest label.

    Returns:
        Each pair once, the smaller number first, ``[E, 2]``.
    """
    height, width = labels.shape
    # Connected regions of a plane have less than 3 R pairs: the hash table stays half empty.
    pairs = np.empty((3 * num_regions, 2), dtype=np.int64)
    capacity = 8
    while capacity < 6 * num_regions:
        capacity *= 2
    table = np.full(capacity, -1, dtype=np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            right = labels[y, min(x + 1, width - 1)]
            below = labels[min(y + 1, height - 1), x]
            for there in (right, below):
                if there != here:
                    a, b = min(here, there), max(here, there)
                    if _insert(table, np.int64(a) * num_regions + b):
                        pairs[count, 0] = a
                        pairs[count, 1] = b
                        count += 1
    return pairs[:count]


@njit(cache=True, nogil=True)
def _insert(table: NDArray[np.int64], key: int) -> bool:
    """Put a key into an open hash table whose size is a power of two; tell if it was new."""
    slot = (key * 0x9E3779B1 >> 12) & (table.size - 1)
    while table[slot] != -1:
        if table[slot] == key:
            return False
        slot = (slot + 1) & (table.size - 1)
    table[slot] = key
    return True


@njit(cache=True, nogil=True)
def _current(parent: NDArray[np.int64], region: int) -> int:
    """Return the region that this one is a part of by now, shortening the way to it."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@njit(cache=True, nogil=True)
def _link(
    pairs: NDArray[np.int64], num_nodes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Chain the neighbours of each region: its first and last cell; of a cell, next and region."""
    first = np.full(num_nodes, -1, dtype=np.int32)
    last = np.full(num_nodes, -1, dtype=np.int32)
    following = np.full(2 * len(pairs), -1, dtype=np.int32)
    neighbour = np.empty(2 * len(pairs), dtype=np.int64)
    for cell in range(2 * len(pairs)):
        region = pairs[cell // 2, cell % 2]
        neighbour[cell] = pairs[cell // 2, 1 - cell % 2]
        following[cell] = first[region]
        if first[region] == -1:
            last[region] = cell
        first[region] = cell
    return first, last, following, neighbour


@njit(cache=True, nogil=True)
def _join(
    a: int,
    b: int,
    new: int,
    nodes: Regions,
    colour: NDArray[np.uint16],
    texture: NDArray[np.uint16],
    weights: NDArray[np.float64],
) -> None:
    """Measure the union of two regions; histograms only where a weight asks for them."""
    nodes.sizes[new] = nodes.sizes[a] + nodes.sizes[b]
    for side in range(2):
        nodes.boxes[new, side] = min(nodes.boxes[a, side], nodes.boxes[b, side])
        nodes.boxes[new, side + 2] = max(nodes.boxes[a, side + 2], nodes.boxes[b, side + 2])
    if weights[0] > 0:
        nodes.colour[new] = nodes.colour[a] + nodes.colour[b]
        normalise(nodes.colour[new], nodes.sizes[new], colour[new])
    if weights[1] > 0:
        nodes.texture[new] = nodes.texture[a] + nodes.texture[b]
        normalise(nodes.texture[new], nodes.sizes[new], texture[new])


@njit(cache=True, nogil=True)
def _make_room(regions: Regions, num_nodes: int) -> Regions:
    """Copy regions to the head of longer arrays."""
    count = len(regions.sizes)
    sizes = np.empty(num_nodes, dtype=np.int64)
    boxes = np.empty((num_nodes, 4), dtype=np.int32)
    colour = np.empty((num_nodes, COLOURS), dtype=np.int32)
    texture = np.empty((num_nodes, TEXTURES), dtype=np.int32)
    sizes[:count] = regions.sizes
    boxes[:count] = regions.boxes
    colour[:count] = regions.colour
    texture[:count] = regions.texture
    return Regions(sizes, boxes, colour, texture)


@njit(cache=True, nogil=True)
def group(
    regions: Regions, pairs: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Join regions greedily, the most similar neighbours first.

    Of equally similar pairs the one with the smallest numbers ``(i, j)``, ``i < j``, goes first;
    the ``m``-th merge makes region ``R + m``.

    Args:
        regions: The ``R`` regions of a segmentation.
        pairs: Those that touch, the smaller number first, ``[E, 2]``; they connect all regions.
        weights: Of colour, texture, size and fill similarity, ``[4]``.

    Returns:
        The half-open box of every region, the given ones first, ``[2 R - 1, 4]``.
    """
    count = len(regions.sizes)
    num_nodes = 2 * count - 1
    area = regions.sizes.sum()
    nodes = _make_room(regions, num_nodes)
    sizes, boxes = nodes.sizes, nodes.boxes
    colour = np.empty((num_nodes, COLOURS), dtype=np.uint16)
    texture = np.empty((num_nodes, TEXTURES), dtype=np.uint16)
    for i in range(count):
        normalise(nodes.colour[i], sizes[i], colour[i])
        normalise(nodes.texture[i], sizes[i], texture[i])

    heap = [(0.0, 0, 0) for _ in range(0)]  # typed, but empty
    for e in range(len(pairs)):
        i, j = pairs[e]
        score = similarity(i, j, sizes, boxes, colour, texture, weights, area)
        heap.append((-score, i, j))
    heapq.heapify(heap)

    first, last, following, neighbour = _link(pairs, num_nodes)
    parent = np.arange(num_nodes)
    met = np.zeros(num_nodes, dtype=np.int32)  # the last new region that met this one
    for new in range(count, num_nodes):
        _, a, b = heapq.heappop(heap)
        while parent[a] != a or parent[b] != b:  # a pair whose regions are gone
            _, a, b = heapq.heappop(heap)
        _join(a, b, new, nodes, colour, texture, weights)
        parent[a] = parent[b] = new

        # The new region's neighbours are those of both parts, each once and by its present number.
        following[last[a]] = first[b]
        met[new] = new
        cell, kept = first[a], -1
        while cell != -1:
            other = _current(parent, neighbour[cell])
            if met[other] != new:
                met[other] = new
                score = similarity(other, new, sizes, boxes, colour, texture, weights, area)
                heapq.heappush(heap, (-score, other, new))
                if kept == -1:
                    first[new] = cell
                else:
                    following[kept] = cell
                kept = cell
            cell = following[cell]
        last[new] = kept
        if kept != -1:
            following[kept] = -1
    return boxes
