"""Features of regions and the similarity of two regions (Uijlings et al., IJCV 2013, section 3.2).

A region's features are pixel counts, so those of a merged region are plain sums. Normalised
histograms are integers as well: sums of integers do not depend on the order of the additions, so
that results are the same on every machine and in every thread.
"""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

COLOUR_BINS = 25  # a channel
TEXTURE_BINS = 10  # a channel and orientation
ORIENTATIONS = 8
ONE = 65535  # what the bins of a normalised histogram add up to, a little less where rounded

# A texture bin in responses of the derivative filter, whose largest response is 48 * 255.
_TEXTURE_STEP = 400


def texture_codes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Find the texture bins of every pixel.

    The response at an orientation is the positive part of the Gaussian derivative (sigma 1, as
    5 x 5 binomial filters) in that direction. Of two opposite orientations one is zero, so that
    one code in ``0..19`` says both: below 10 the bin of the first, from 10 on that of the second.

    Args:
        image: Three channels, ``[H, W, 3]``.

    Returns:
        One code for each channel and pair of opposite orientations, ``[H, W, 12]``.
    """
    dx = cv2.Sobel(image, cv2.CV_16S, 1, 0, ksize=5)
    dy = cv2.Sobel(image, cv2.CV_16S, 0, 1, ksize=5)
    return _texture_codes(dx.reshape(-1), dy.reshape(-1)).reshape(*image.shape[:2], 12)


@njit(cache=True, nogil=True)
def _texture_codes(dx: NDArray[np.int16], dy: NDArray[np.int16]) -> NDArray[np.uint8]:
    codes = np.empty((dx.size, ORIENTATIONS // 2), dtype=np.uint8)
    straight = np.float32(1 / _TEXTURE_STEP)
    diagonal = np.float32(np.sqrt(0.5) / _TEXTURE_STEP)
    top = np.float32(TEXTURE_BINS - 1)
    for i in range(dx.size):
        x = np.float32(dx[i])
        y = np.float32(dy[i])
        codes[i, 0] = _signed_bin(x * straight, top)
        codes[i, 1] = _signed_bin((x + y) * diagonal, top)
        codes[i, 2] = _signed_bin(y * straight, top)
        codes[i, 3] = _signed_bin((y - x) * diagonal, top)
    return codes


@njit(cache=True, nogil=True, inline="always")
def _signed_bin(response: np.float32, top: np.float32) -> np.uint8:
    code = np.uint8(min(abs(response), top))
    return np.uint8(code + np.uint8(TEXTURE_BINS)) if response < 0 else code


@njit(cache=True, nogil=True)
def count_features(
    labels: NDArray[np.int32],
    num_regions: int,
    image: NDArray[np.uint8],
    codes: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Measure every region of a segmentation.

    Args:
        labels: Region of each pixel, ``[H, W]``.
        num_regions: ``R``, one more than the largest label.
        image: The colours, ``[H, W, 3]``.
        codes: Texture codes of ``image``, ``[H, W, 12]``.

    Returns:
        Sizes in pixels ``[R]``, half-open ``xyxy`` boxes ``[R, 4]``, colour counts ``[R, 75]`` and
        texture counts ``[R, 240]``.
    """
    height, width = labels.shape
    sizes = np.zeros(num_regions, dtype=np.int64)
    boxes = np.empty((num_regions, 4), dtype=np.int32)
    boxes[:, 0], boxes[:, 1] = width, height
    boxes[:, 2], boxes[:, 3] = 0, 0
    colour = np.zeros((num_regions, 3 * COLOUR_BINS), dtype=np.int32)
    pairs = 3 * ORIENTATIONS // 2
    texture = np.zeros((num_regions, pairs * 2 * TEXTURE_BINS), dtype=np.int32)
    for y in range(height):
        for x in range(width):
            region = np.uint64(labels[y, x])
            sizes[region] += 1
            boxes[region, 0] = min(boxes[region, 0], x)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x + 1)
            boxes[region, 3] = max(boxes[region, 3], y + 1)
            for c in range(3):
                shade = np.uint64(image[y, x, c]) * np.uint64(COLOUR_BINS) >> np.uint64(8)
                colour[region, np.uint64(c * COLOUR_BINS) + shade] += 1
            for p in range(pairs):
                texture[region, np.uint64(p * 2 * TEXTURE_BINS) + np.uint64(codes[y, x, p])] += 1

    # Where one orientation responds, the opposite one is zero and falls into its first bin.
    for region in range(num_regions):
        for first in range(0, pairs * 2 * TEXTURE_BINS, TEXTURE_BINS):
            hits = 0
            for b in range(first + 1, first + TEXTURE_BINS):
                hits += texture[region, b]
            texture[region, first] = sizes[region] - hits
    return sizes, boxes, colour, texture


@njit(cache=True, nogil=True)
def normalise(counts: NDArray[np.int32], size: int, histogram: NDArray[np.uint16]) -> None:
    """Write the counts as shares of the region, in units of ``1 / ONE``, into ``histogram``."""
    scale = np.float32(ONE / size)
    for i in range(counts.size):
        histogram[i] = np.uint16(np.float32(counts[i]) * scale)


@njit(cache=True, nogil=True)
def intersect(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> int:
    """Return the intersection of two histograms, the sum of the smaller of each two bins."""
    total = np.uint32(0)
    for i in range(a.size):
        total += np.uint32(min(a[i], b[i]))
    return np.int64(total)
