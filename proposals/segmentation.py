"""Graph-based segmentation (Felzenszwalb & Huttenlocher, IJCV 2004), several scales at once.

Neighbouring pixels (4-connected) are joined in order of their colour difference: an edge of weight
``w`` joins two components if ``w <= inner + k / size`` holds for both, where ``inner`` is the
largest weight inside a component. A second pass in the same order joins what is smaller than
``min_size``.

Weights are integers, 1/16 grey level each, so that a counting sort orders them. Most of the work
does not depend on ``k``: as long as two components satisfy the rule for the smallest ``k``, and no
edge of theirs was refused before, every larger ``k`` joins them too. That part is done once, and
each scale goes on from there with the few edges that are left. The result is exactly what one
separate run for each scale gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNITS = 16  # weight units in one grey level
_MAX_WEIGHT = 442 * UNITS  # above the distance between black and white, 255 * sqrt(3)


def segment(
    image: NDArray[np.float32], scales: Sequence[tuple[int, int]]
) -> list[NDArray[np.int32]]:
    """Segment an image at several scales.

    Args:
        image: Three channels in 0..255, usually blurred a little, ``[H, W, 3]``.
        scales: Pairs ``(k, min_size)``: the scale of observation in grey levels times pixels, and
            the smallest region in pixels.

    Returns:
        For each scale the region of every pixel, ``[H, W]``, numbered from 0 in raster order.
    """
    height, width = image.shape[:2]
    weights = _edge_weights(np.ascontiguousarray(image, dtype=np.float32))
    order, starts = _sort_edges(weights)
    limit = UNITS * min(k for k, _ in scales)
    tops, sizes, inner, edges = _join_for_all_scales(order, starts, width, height * width, limit)
    return [
        _join_for_scale(tops, sizes, inner, edges, UNITS * k, min_size).reshape(height, width)
        for k, min_size in scales
    ]


@njit(cache=True, nogil=True)
def _edge_weights(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Weigh the edges to the right and lower neighbour of each pixel, ``[H, W, 2]``.

    Edges that would leave the image weigh ``_MAX_WEIGHT``, more than any real one.
    """
    height, width, _ = image.shape
    weights = np.full((height, width, 2), _MAX_WEIGHT, dtype=np.uint16)
    units = np.float32(UNITS)
    half = np.float32(0.5)
    for y in range(height):
        for x in range(width - 1):
            a = image[y, x + 1, 0] - image[y, x, 0]
            b = image[y, x + 1, 1] - image[y, x, 1]
            c = image[y, x + 1, 2] - image[y, x, 2]
            weights[y, x, 0] = np.uint16(np.sqrt(a * a + b * b + c * c) * units + half)
    for y in range(height - 1):
        for x in range(width):
            a = image[y + 1, x, 0] - image[y, x, 0]
            b = image[y + 1, x, 1] - image[y, x, 1]
            c = image[y + 1, x, 2] - image[y, x, 2]
            weights[y, x, 1] = np.uint16(np.sqrt(a * a + b * b + c * c) * units + half)
    return weights


@njit(cache=True, nogil=True)
def _sort_edges(weights: NDArray[np.uint16]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Sort edges by weight, then raster order (counting sort).

    Returns:
        Edges as ``2 * pixel + direction``, and where the edges of each weight start.
    """
    flat = weights.ravel()
    starts = np.zeros(_MAX_WEIGHT + 2, dtype=np.int64)
    for w in flat:
        starts[np.uint64(w) + np.uint64(1)] += 1
    starts[_MAX_WEIGHT + 1] = 0
    starts = np.cumsum(starts)
    order = np.empty(starts[_MAX_WEIGHT], dtype=np.uint32)
    heads = starts.copy()
    for e in range(flat.size):
        weight = np.uint64(flat[e])
        if weight < _MAX_WEIGHT:
            order[np.uint64(heads[weight])] = e
            heads[weight] += 1
    return order, starts[: _MAX_WEIGHT + 1]


@njit(cache=True, nogil=True, inline="always")
def _find(parent: NDArray[np.uint32], node: np.uint32) -> np.uint32:
    """Return the root of a node, halving the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _join_for_all_scales(
    order: NDArray[np.uint32],
    starts: NDArray[np.int64],
    width: int,
    num_pixels: int,
    limit: int,
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32]]:
    """Join pixels as long as the smallest scale, and with it every scale, does so.

    A component is closed by the first refused edge that touches it, on both sides: from there on
    scales may differ. All later edges at a closed component are kept for them.

    Returns:
        The component of each pixel ``[P]``, the components' sizes ``[T]`` and inner weights
        ``[T]``, and the kept edges in order, ``[E, 3]``: two components and the weight.
    """
    parent = np.arange(num_pixels).astype(np.uint32)
    size = np.ones(num_pixels, dtype=np.int32)
    inner = np.zeros(num_pixels, dtype=np.int32)
    threshold = np.full(num_pixels, limit, dtype=np.int32)  # -1 once closed
    kept = np.empty((order.size, 3), dtype=np.uint32)
    num_kept = 0
    steps = np.array([1, width], dtype=np.uint32)
    for w in range(starts.size - 1):
        for position in range(starts[w], starts[w + 1]):
            edge = order[np.uint64(position)]
            u = edge >> np.uint32(1)
            a = _find(parent, u)
            b = _find(parent, np.uint32(u + steps[edge & np.uint32(1)]))
            if a == b:
                continue
            if w <= threshold[a] and w <= threshold[b]:
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
                inner[a] = w
                threshold[a] = w + limit // size[a]
            else:
                threshold[a] = -1
                threshold[b] = -1
                kept[num_kept, 0] = a
                kept[num_kept, 1] = b
                kept[num_kept, 2] = w
                num_kept += 1

    roots = np.flatnonzero(parent == np.arange(num_pixels))
    number = np.empty(num_pixels, dtype=np.uint32)
    number[roots] = np.arange(roots.size)
    tops = np.empty(num_pixels, dtype=np.uint32)
    for pixel in range(num_pixels):
        tops[pixel] = number[_find(parent, np.uint32(pixel))]
    for i in range(num_kept):
        kept[i, 0] = number[kept[i, 0]]
        kept[i, 1] = number[kept[i, 1]]
    return tops, size[roots], inner[roots], kept[:num_kept]


@njit(cache=True, nogil=True)
def _join_for_scale(
    tops: NDArray[np.uint32],
    sizes: NDArray[np.int32],
    inner: NDArray[np.int32],
    edges: NDArray[np.uint32],
    limit: int,
    min_size: int,
) -> NDArray[np.int32]:
    """Finish the segmentation for one scale; return the region of each pixel, ``[P]``."""
    parent = np.arange(sizes.size).astype(np.uint32)
    size = sizes.copy()
    threshold = inner + limit // sizes
    for i in range(edges.shape[0]):
        a = _find(parent, edges[i, 0])
        b = _find(parent, edges[i, 1])
        w = edges[i, 2]
        if a != b and w <= threshold[a] and w <= threshold[b]:
            parent[b] = a
            size[a] += size[b]
            threshold[a] = w + limit // size[a]
    for i in range(edges.shape[0]):
        a = _find(parent, edges[i, 0])
        b = _find(parent, edges[i, 1])
        if a != b and (size[a] < min_size or size[b] < min_size):
            parent[b] = a
            size[a] += size[b]

    unseen = sizes.size
    number = np.full(sizes.size, unseen, dtype=np.int32)
    labels = np.empty(tops.size, dtype=np.int32)
    count = 0
    for pixel in range(tops.size):
        root = _find(parent, tops[pixel])
        if number[root] == unseen:
            number[root] = count
            count += 1
        labels[pixel] = number[root]
    return labels
