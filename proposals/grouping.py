"""Hierarchical grouping: join the two most similar neighbouring regions until one is left."""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.similarity import ONE, ORIENTATIONS, intersect, normalise


@njit(cache=True, nogil=True)
def find_neighbours(labels: NDArray[np.int32], num_regions: int) -> NDArray[np.int32]:
    """Return the pairs of 4-connected regions, the smaller number first, ``[E, 2]``, each once."""
    height, width = labels.shape
    # Connected regions of a plane have at most 3 R - 6 neighbour pairs; the table stays half empty.
    capacity = 8
    while capacity < 6 * num_regions:
        capacity *= 2
    table = np.full(capacity, -1, dtype=np.int64)
    pairs = np.empty((3 * num_regions, 2), dtype=np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            for step in range(2):
                if x + (step == 0) == width or y + (step == 1) == height:
                    continue
                there = labels[y + (step == 1), x + (step == 0)]
                if there == here:
                    continue
                a = np.int64(min(here, there))
                b = np.int64(max(here, there))
                key = a * num_regions + b
                slot = (key * 0x9E3779B1 >> 12) & (capacity - 1)
                while table[slot] != -1 and table[slot] != key:
                    slot = (slot + 1) & (capacity - 1)
                if table[slot] == -1:
                    table[slot] = key
                    pairs[count, 0] = a
                    pairs[count, 1] = b
                    count += 1
    return pairs[:count]


@njit(cache=True, nogil=True)
def _similarity(
    a: int,
    b: int,
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    colour: NDArray[np.uint16],
    texture: NDArray[np.uint16],
    weights: NDArray[np.float64],
    area: int,
) -> float:
    """Return the similarity of two regions, a weighted sum of four terms in 0..1."""
    total = 0.0
    if weights[0] > 0:
        total += weights[0] * (intersect(colour[a], colour[b]) / (3.0 * ONE))
    if weights[1] > 0:
        total += weights[1] * (intersect(texture[a], texture[b]) / (3.0 * ORIENTATIONS * ONE))
    together = sizes[a] + sizes[b]
    total += weights[2] * (1.0 - together / area)
    width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
    height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
    total += weights[3] * (1.0 - (np.int64(width) * height - together) / area)
    return total


@njit(cache=True, nogil=True)
def _current(parent: NDArray[np.int32], region: int) -> int:
    """Return what the region has become a part of, shortening the way to it."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@njit(cache=True, nogil=True)
def _link(
    pairs: NDArray[np.int32], num_nodes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Chain each region's neighbours: first and last cell of a region, next cell, neighbour."""
    first = np.full(num_nodes, -1, dtype=np.int32)
    last = np.full(num_nodes, -1, dtype=np.int32)
    following = np.full(2 * len(pairs), -1, dtype=np.int32)
    neighbour = np.empty(2 * len(pairs), dtype=np.int32)
    for cell in range(2 * len(pairs)):
        region = pairs[cell // 2, cell % 2]
        neighbour[cell] = pairs[cell // 2, 1 - cell % 2]
        following[cell] = first[region]
        if first[region] == -1:
            last[region] = cell
        first[region] = cell
    return first, last, following, neighbour


@njit(cache=True, nogil=True)
def group(
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    colour: NDArray[np.int32],
    texture: NDArray[np.int32],
    pairs: NDArray[np.int32],
    weights: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Join regions greedily; the regions must be connected through ``pairs``.

    Of equally similar pairs the one with the smallest numbers ``(i, j)`` goes first; the region
    that the ``m``-th merge makes gets the number ``R + m``.

    Args:
        sizes: Pixels of each region, ``[R]``.
        boxes: Half-open ``xyxy``, ``[R, 4]``.
        colour: Pixels in each colour bin, ``[R, 75]``.
        texture: Pixels in each texture bin, ``[R, 240]``.
        pairs: Neighbouring regions, the smaller number first, ``[E, 2]``.
        weights: Of colour, texture, size and fill similarity, ``[4]``.

    Returns:
        The box of every region, first the given ones, then the merged ones, ``[2 R - 1, 4]``.
    """
    count = len(sizes)
    nodes = 2 * count - 1
    area = sizes.sum()
    all_sizes = np.empty(nodes, dtype=np.int64)
    all_boxes = np.empty((nodes, 4), dtype=np.int32)
    colours = np.empty((nodes, colour.shape[1]), dtype=np.int32)
    textures = np.empty((nodes, texture.shape[1]), dtype=np.int32)
    colour_shares = np.empty((nodes, colour.shape[1]), dtype=np.uint16)
    texture_shares = np.empty((nodes, texture.shape[1]), dtype=np.uint16)
    all_sizes[:count] = sizes
    all_boxes[:count] = boxes
    colours[:count] = colour
    textures[:count] = texture
    for i in range(count):
        normalise(colours[i], sizes[i], colour_shares[i])
        normalise(textures[i], sizes[i], texture_shares[i])

    heap = [(0.0, np.int64(0), np.int64(0)) for _ in range(0)]
    for e in range(len(pairs)):
        i, j = np.int64(pairs[e, 0]), np.int64(pairs[e, 1])
        similarity = _similarity(
            i, j, all_sizes, all_boxes, colour_shares, texture_shares, weights, area
        )
        heap.append((-similarity, i, j))
    heapq.heapify(heap)

    first, last, following, neighbour = _link(pairs, nodes)
    parent = np.arange(nodes).astype(np.int32)
    seen = np.full(nodes, -1, dtype=np.int32)  # the last merge that met this neighbour
    for new in range(count, nodes):
        _, a, b = heapq.heappop(heap)
        while parent[a] != a or parent[b] != b:
            _, a, b = heapq.heappop(heap)
        parent[a] = new
        parent[b] = new
        all_sizes[new] = all_sizes[a] + all_sizes[b]
        all_boxes[new, :2] = np.minimum(all_boxes[a, :2], all_boxes[b, :2])
        all_boxes[new, 2:] = np.maximum(all_boxes[a, 2:], all_boxes[b, 2:])
        if weights[0] > 0:
            for i in range(colours.shape[1]):
                colours[new, i] = colours[a, i] + colours[b, i]
            normalise(colours[new], all_sizes[new], colour_shares[new])
        if weights[1] > 0:
            for i in range(textures.shape[1]):
                textures[new, i] = textures[a, i] + textures[b, i]
            normalise(textures[new], all_sizes[new], texture_shares[new])

        # Neighbours of the new region: those of both parts, each once.
        following[last[a]] = first[b]
        seen[new] = new
        previous = -1
        cell = first[a]
        first[new] = cell
        while cell != -1:
            other = _current(parent, neighbour[cell])
            if seen[other] == new:
                if previous == -1:
                    first[new] = following[cell]
                else:
                    following[previous] = following[cell]
            else:
                seen[other] = new
                neighbour[cell] = other
                previous = cell
                similarity = _similarity(
                    other, new, all_sizes, all_boxes, colour_shares, texture_shares, weights, area
                )
                heapq.heappush(heap, (-similarity, np.int64(other), np.int64(new)))
            cell = following[cell]
        last[new] = previous
    return all_boxes
