"""Graph-based segmentation as published (Felzenszwalb & Huttenlocher, IJCV 2004).

The yardstick of ``segmentation.segment``, which rounds weights and is much faster.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.segmentation import DIRECTIONS, find


def segment_exactly(
    image: NDArray[np.float32], k: float, min_size: int, *, connectivity: int = 4
) -> NDArray[np.int32]:
    """Segment an image as published, without rounding weights.

    Args:
        image: Colours in 0..255, usually blurred a little, ``[H, W, C]``.
        k: The scale of observation in grey levels times pixels.
        min_size: The smallest region in pixels.
        connectivity: Neighbours of a pixel, 4 or 8.

    Returns:
        The region of every pixel, ``[H, W]``, numbered from 0 in raster order.
    """
    height, width, _ = image.shape
    pairs, weights = [], []
    numbers = np.arange(height * width).reshape(height, width)
    for dy, dx in DIRECTIONS[: connectivity // 2]:
        here = np.s_[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = np.s_[dy:, max(0, dx) : width + min(0, dx)]
        difference = image[here].astype(np.float64) - image[there]
        pairs.append(np.stack([numbers[here], numbers[there]], axis=-1).reshape(-1, 2))
        weights.append(np.sqrt((difference**2).sum(axis=-1)).ravel())
    edges, lengths = np.concatenate(pairs), np.concatenate(weights)
    order = np.lexsort((edges[:, 1], edges[:, 0], lengths))
    labels = _join_exactly(edges[order], lengths[order], height * width, float(k), min_size)
    return np.asarray(labels.reshape(height, width))


@njit(cache=True, nogil=True)
def _join_exactly(
    edges: NDArray[np.int64],
    weights: NDArray[np.float64],
    num_pixels: int,
    k: float,
    min_size: int,
) -> NDArray[np.int32]:
    """Segment by sorted edges; return the region of each pixel, ``[P]``."""
    parent = np.arange(num_pixels).astype(np.uint32)
    size = np.ones(num_pixels, dtype=np.int64)
    threshold = np.full(num_pixels, k)
    for small_only in (False, True):
        for i in range(len(edges)):
            a = find(parent, np.uint32(edges[i, 0]))
            b = find(parent, np.uint32(edges[i, 1]))
            if a == b:
                continue
            if small_only:
                join = min(size[a], size[b]) < min_size
            else:
                join = weights[i] <= min(threshold[a], threshold[b])
            if join:
                parent[b] = a
                size[a] += size[b]
                threshold[a] = weights[i] + k / size[a]
    number = np.full(num_pixels, -1, dtype=np.int32)
    labels = np.empty(num_pixels, dtype=np.int32)
    count = 0
    for pixel in range(num_pixels):
        root = find(parent, np.uint32(pixel))
        if number[root] == -1:
            number[root] = count
            count += 1
        labels[pixel] = number[root]
    return labels
