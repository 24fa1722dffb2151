"""Graph-based segmentation (Felzenszwalb & Huttenlocher, IJCV 2004), several scales at once.

Neighbouring pixels are joined in order of their colour difference: an edge of weight ``w`` joins
two components if ``w <= inner + k / size`` holds for both, where ``inner`` is the largest weight
inside a component. A second pass in the same order joins what is smaller than ``min_size``.

``segment`` rounds weights to 1/16 grey level, so that a counting sort orders them; this is its
only departure. Most of its work does not depend on ``k``: as long as two components satisfy the
rule for the smallest ``k``, and no edge of theirs was refused before, every larger ``k`` joins
them too. That part is done once, and each scale goes on from there with the edges that are left.
The result is exactly what one separate run for each scale gives.

``exact_segmentation`` does without rounding, one scale at a time, and takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.cells import Cells, overlay

UNITS = 16  # weight units in one grey level
_MAX_WEIGHT = 442 * UNITS  # above the distance between black and white, 255 * sqrt(3)
# Rows and columns from a pixel to the neighbours it shares an edge with, for 4 or 8 neighbours.
DIRECTIONS = np.array([(0, 1), (1, 0), (1, 1), (1, -1)])


class _Parts(NamedTuple):
    """Components that every scale joins in the same way, and what is left to decide."""

    parts: NDArray[np.uint32]  # of each pixel, numbered in raster order, [P]
    sizes: NDArray[np.int32]  # of each part, [T]
    inner: NDArray[np.int32]  # largest weight inside each part, [T]
    edges: NDArray[np.uint32]  # pairs of parts in order of their weight, [E, 2]
    weights: NDArray[np.uint16]  # of the edges, [E]


def segment(weights: NDArray[np.uint16], scales: Sequence[tuple[int, int]]) -> Cells:
    """Segment an image at several scales.

    Args:
        weights: The ``edge_weights`` of the image, ``[H, W, D]``.
        scales: For each segmentation the scale of observation ``k``, in grey levels times pixels,
            and ``min_size``, the smallest region in pixels.

    Returns:
        The segmentations; the regions of each are numbered from 0 in raster order.
    """
    height, width, directions = weights.shape
    edges, ends = _sort_edges(weights)
    # How much larger the number of the other pixel of an edge is.
    steps = np.asarray(DIRECTIONS[:directions] @ [width, 1]).astype(np.uint32)
    limit = UNITS * min(k for k, _ in scales)
    common = _join_for_all_scales(edges, ends, steps, height * width, limit)
    numbers = np.stack([_join_for_scale(common, UNITS * k, min_size) for k, min_size in scales])
    cells, regions = overlay(numbers)
    return Cells(_label_pixels(common.parts, cells).reshape(height, width), regions)


def edge_weights(image: NDArray[np.float32], connectivity: int = 4) -> NDArray[np.uint16]:
    """Weigh the edges from each pixel to its neighbours to the right and below.

    Args:
        image: Colours in 0..255, usually blurred a little, ``[H, W, C]``. One channel counts as
            three equal ones, so that scales mean the same in all colour spaces.
        connectivity: Neighbours of a pixel, 4 or 8.

    Returns:
        The Euclidean distances of the colours in ``UNITS``, to the right, below and, with 8
        neighbours, right below and left below, ``[H, W, D]``. Edges that would leave the image
        weigh more than any other.
    """
    height, width, _ = image.shape
    weights = np.full((height, width, connectivity // 2), _MAX_WEIGHT, dtype=np.uint16)
    image = np.ascontiguousarray(image, dtype=np.float32)
    for direction, (dy, dx) in enumerate(DIRECTIONS[: connectivity // 2]):
        here = image[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = image[dy:, max(0, dx) : width + min(0, dx)]
        _weigh(here, there, weights[: height - dy, max(0, -dx) : width - max(0, dx), direction])
    return weights


@njit(cache=True, nogil=True)
def _weigh(
    here: NDArray[np.float32], there: NDArray[np.float32], weights: NDArray[np.uint16]
) -> None:
    units, half = np.float32(UNITS), np.float32(0.5)
    height, width, channels = here.shape
    second, third = (1, 2) if channels == 3 else (0, 0)
    for y in range(height):
        for x in range(width):
            a = there[y, x, 0] - here[y, x, 0]
            b = there[y, x, second] - here[y, x, second]
            c = there[y, x, third] - here[y, x, third]
            weights[y, x] = np.uint16(np.sqrt(a * a + b * b + c * c) * units + half)


@njit(cache=True, nogil=True)
def _sort_edges(weights: NDArray[np.uint16]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Sort edges by weight, then raster order (counting sort).

    Returns:
        Edges as ``D * pixel + direction``, and where the edges of each weight end.
    """
    flat = weights.ravel()
    heads = np.zeros(_MAX_WEIGHT + 2, dtype=np.uint32)
    one = np.uint32(1)
    for entry in flat:
        heads[np.uint64(entry) + np.uint64(1)] += one
    for weight in range(_MAX_WEIGHT + 1):  # where the edges of each one start
        heads[weight + 1] += heads[weight]
    edges = np.empty(heads[_MAX_WEIGHT], dtype=np.uint32)
    for e in range(flat.size):
        key = np.uint64(flat[e])
        if key < _MAX_WEIGHT:
            edges[np.uint64(heads[key])] = e
            heads[key] += one
    return edges, heads[:_MAX_WEIGHT]


@njit(cache=True, nogil=True, inline="always")
def find(parent: NDArray[np.uint32], node: np.uint32) -> np.uint32:
    """Return the root of a node, halving the path to it.

    The first two steps are taken without asking whether they lead anywhere: nearly all paths are
    of no more than two, and a branch that cannot be foretold costs more than the steps.
    """
    above = parent[parent[node]]
    parent[node] = above
    node = above
    while parent[node] != node:
        above = parent[parent[node]]
        parent[node] = above
        node = above
    return node


@njit(cache=True, nogil=True)
def _join_for_all_scales(
    edges: NDArray[np.uint32],
    ends: NDArray[np.uint32],
    steps: NDArray[np.uint32],
    num_pixels: int,
    limit: int,
) -> _Parts:
    """Join pixels as long as the smallest scale, and with it every scale, does so.

    A component is closed by the first refused edge that touches it, on both sides: from there on
    scales may differ. All later edges at a closed component are kept for them.
    """
    parent = np.arange(np.uint32(num_pixels), dtype=np.uint32)
    size = np.ones(num_pixels, dtype=np.int32)
    threshold = np.full(num_pixels, limit, dtype=np.int32)  # its complement, below 0, once closed
    kept = np.empty((edges.size, 2), dtype=np.uint32)
    kept_weights = np.empty(edges.size, dtype=np.uint16)
    num_kept = np.uint64(0)
    shift = np.uint32(steps.size // 2)  # 2 or 4 directions
    mask = np.uint32(steps.size - 1)
    i = np.uint64(0)
    for weight in range(ends.size):
        w = np.int32(weight)
        while i < ends[weight]:
            edge = edges[i]
            i += np.uint64(1)
            pixel = edge >> shift
            a = find(parent, pixel)
            b = find(parent, np.uint32(pixel + steps[edge & mask]))
            if a == b:
                continue
            if w <= min(threshold[a], threshold[b]):
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
                threshold[a] = w + limit // size[a]
            else:
                threshold[a] = min(threshold[a], ~threshold[a])
                threshold[b] = min(threshold[b], ~threshold[b])
                kept[num_kept, 0] = a
                kept[num_kept, 1] = b
                kept_weights[num_kept] = w
                num_kept += np.uint64(1)
    parts, sizes, inner = _number_parts(parent, size, threshold, limit, kept[:num_kept])
    edges = kept[:num_kept].copy()
    return _Parts(parts, sizes, inner, edges, kept_weights[:num_kept].copy())


@njit(cache=True, nogil=True)
def _number_parts(
    parent: NDArray[np.uint32],
    size: NDArray[np.int32],
    threshold: NDArray[np.int32],
    limit: int,
    kept: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.int32]]:
    """Number components in raster order of their first pixels, in ``kept`` as well.

    Returns:
        The part of each pixel, the sizes of the parts, and the largest weights inside them.
    """
    unseen = np.uint32(parent.size)
    number = np.full(parent.size, unseen, dtype=np.uint32)
    parts = np.empty(parent.size, dtype=np.uint32)
    sizes = np.empty(parent.size, dtype=np.int32)
    inner = np.empty(parent.size, dtype=np.int32)
    count = np.uint32(0)
    for pixel in range(parent.size):
        root = find(parent, np.uint32(pixel))
        if number[root] == unseen:
            number[root] = count
            sizes[count] = size[root]
            inner[count] = max(threshold[root], ~threshold[root]) - limit // size[root]
            count += np.uint32(1)
        parts[pixel] = number[root]
    for i in range(len(kept)):
        kept[i, 0] = number[kept[i, 0]]
        kept[i, 1] = number[kept[i, 1]]
    return parts, sizes[:count].copy(), inner[:count].copy()


@njit(cache=True, nogil=True)
def _join_for_scale(common: _Parts, limit: int, min_size: int) -> NDArray[np.int32]:
    """Finish the segmentation for one scale; return the region of each part, ``[T]``.

    The home of each part is found in one step, which is faster than a tree where edges outnumber
    parts; the members of a component are chained in a ring, and the smaller ring is renamed.
    """
    edges, weights = common.edges, common.weights
    size = common.sizes.copy()
    home = np.arange(size.size).astype(np.uint32)
    ring = np.arange(size.size).astype(np.uint32)
    members = np.ones(size.size, dtype=np.int32)
    threshold = common.inner + limit // size
    left = np.empty(len(edges) + 1, dtype=np.uint32)  # edges between different components
    num_left = np.uint64(0)
    for i in range(len(edges)):
        a, b, w = home[edges[i, 0]], home[edges[i, 1]], np.int32(weights[i])
        left[num_left] = i
        if a != b:
            if w <= min(threshold[a], threshold[b]):
                a = _rename_smaller(a, b, home, ring, members, size)
                threshold[a] = w + limit // size[a]
            else:
                num_left += np.uint64(1)
    for i in left[:num_left]:
        a, b = home[edges[i, 0]], home[edges[i, 1]]
        if a != b and min(size[a], size[b]) < min_size:
            _rename_smaller(a, b, home, ring, members, size)

    # Parts are numbered in raster order; in the order of its first part each region gets a number.
    number = np.full(size.size, -1, dtype=np.int32)
    count = 0
    for part in range(size.size):
        if number[home[part]] == -1:
            number[home[part]] = count
            count += 1
    return number[home]


@njit(cache=True, nogil=True)
def _rename_smaller(
    a: np.uint32,
    b: np.uint32,
    home: NDArray[np.uint32],
    ring: NDArray[np.uint32],
    members: NDArray[np.int32],
    size: NDArray[np.int32],
) -> np.uint32:
    """Join two components under the name of the one with more members; return it."""
    if members[a] < members[b]:
        a, b = b, a
    node = b
    while True:
        home[node] = a
        node = ring[node]
        if node == b:
            break
    ring[a], ring[b] = ring[b], ring[a]
    members[a] += members[b]
    size[a] += size[b]
    return a


@njit(cache=True, nogil=True)
def _label_pixels(parts: NDArray[np.uint32], cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the cell of each pixel, ``[P]``, from the cell of each part."""
    labels = np.empty(parts.size, dtype=np.int32)
    for pixel in range(parts.size):
        labels[pixel] = cells[parts[pixel]]
    return labels
