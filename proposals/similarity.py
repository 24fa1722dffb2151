"""Features of regions and the similarity of two regions (Uijlings et al., IJCV 2013, section 3.2).

A region's features are pixel counts, so those of a merged region are plain sums. Normalised
histograms are integers as well: sums of integers do not depend on the order of the additions, so
that results are the same on every machine and in every thread.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

COLOUR_BINS = 25  # a channel
TEXTURE_BINS = 10  # a channel and orientation
ORIENTATIONS = 8
COLOURS = 3 * COLOUR_BINS
TEXTURES = 3 * ORIENTATIONS * TEXTURE_BINS
ONE = 65535  # what the bins of a normalised histogram add up to, a little less where rounded

# Width of a texture bin in responses of the derivative filter, the largest of which is 48 * 255.
# The last bin is open. Recall on VOC2007 hardly depends on it between 200 and 1200.
_TEXTURE_STEP = 400


class Regions(NamedTuple):
    """Regions of one image, as parallel arrays (a tuple because compiled code takes tuples).

    Attributes:
        sizes: Pixels, int64 ``[R]``.
        boxes: Half-open ``xyxy`` pixels, int32 ``[R, 4]``.
        colour: Pixels in each of 3 x 25 colour bins, int32 ``[R, 75]``.
        texture: Pixels in each of 3 x 8 x 10 texture bins, int32 ``[R, 240]``.
    """

    sizes: NDArray[np.int64]
    boxes: NDArray[np.int32]
    colour: NDArray[np.int32]
    texture: NDArray[np.int32]


def texture_codes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Find the texture bins of every pixel.

    The response at an orientation is the positive part of the Gaussian derivative (sigma 1, as
    5 x 5 binomial filters) in that direction. Of two opposite orientations one is always zero, so
    one code says both: below 10 the bin of the first, from 10 on that of the second.

    Args:
        image: Three channels, ``[H, W, 3]``.

    Returns:
        A code for each channel and pair of opposite orientations, ``[H, W, 12]``.
    """
    dx = np.asarray(cv2.Sobel(image, cv2.CV_16S, 1, 0, ksize=5), dtype=np.int16)
    dy = np.asarray(cv2.Sobel(image, cv2.CV_16S, 0, 1, ksize=5), dtype=np.int16)
    return _texture_codes(dx.ravel(), dy.ravel()).reshape(*image.shape[:2], 12)


@njit(cache=True, nogil=True, inline="always")
def _signed_bin(response: np.float32, top: np.float32) -> np.uint8:
    code = np.uint8(min(abs(response), top))
    return np.uint8(code + np.uint8(TEXTURE_BINS)) if response < 0 else code


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


@njit(cache=True, nogil=True)
def measure(
    labels: NDArray[np.int32],
    num_regions: int,
    image: NDArray[np.uint8],
    codes: NDArray[np.uint8],
) -> Regions:
    """Measure every region of a segmentation.

    Args:
        labels: Region of each pixel, ``[H, W]``.
        num_regions: ``R``, one more than the largest label.
        image: The colours, ``[H, W, 3]``.
        codes: Texture codes of ``image``, ``[H, W, 12]``.

    Returns:
        The regions, in the order of their labels.
    """
    height, width = labels.shape
    sizes = np.zeros(num_regions, dtype=np.int64)
    boxes = np.zeros((num_regions, 4), dtype=np.int32)
    boxes[:, 0] = width
    boxes[:, 1] = height
    colour = np.zeros((num_regions, COLOURS), dtype=np.int32)
    texture = np.zeros((num_regions, TEXTURES), dtype=np.int32)
    # Unsigned indices spare the test for negative ones.
    for y in range(height):
        for x in range(width):
            region = np.uint64(labels[y, x])
            sizes[region] += 1
            boxes[region, 0] = min(boxes[region, 0], x)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x + 1)
            boxes[region, 3] = max(boxes[region, 3], y + 1)
            for channel in range(3):
                shade = np.uint64(image[y, x, channel]) * np.uint64(COLOUR_BINS) >> np.uint64(8)
                colour[region, np.uint64(channel * COLOUR_BINS) + shade] += 1
            for pair in range(codes.shape[2]):
                code = np.uint64(codes[y, x, pair])
                texture[region, np.uint64(pair * 2 * TEXTURE_BINS) + code] += 1
    _count_zero_responses(sizes, texture)
    return Regions(sizes, boxes, colour, texture)


@njit(cache=True, nogil=True)
def _count_zero_responses(sizes: NDArray[np.int64], texture: NDArray[np.int32]) -> None:
    """Where one orientation responds, the opposite one is zero and belongs in its first bin."""
    for region in range(sizes.size):
        for first in range(0, TEXTURES, TEXTURE_BINS):
            responses = texture[region, first + 1 : first + TEXTURE_BINS].sum()
            texture[region, first] = sizes[region] - responses


@njit(cache=True, nogil=True)
def normalise(counts: NDArray[np.int32], size: int, shares: NDArray[np.uint16]) -> None:
    """Write what share of a region's pixels each bin holds into ``shares``, in ``1 / ONE``."""
    scale = np.float32(ONE / size)
    for i in range(counts.size):
        shares[i] = np.uint16(np.float32(counts[i]) * scale)


@njit(cache=True, nogil=True)
def intersect(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> int:
    """Return the intersection of two histograms, the sum of the smaller of each two bins."""
    total = np.uint32(0)
    for i in range(a.size):
        total = np.uint32(total + min(a[i], b[i]))
    return int(total)


@njit(cache=True, nogil=True)
def similarity(
    i: int,
    j: int,
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    colour: NDArray[np.uint16],
    texture: NDArray[np.uint16],
    weights: NDArray[np.float64],
    area: int,
) -> float:
    """Return the similarity of regions ``i`` and ``j``, a weighted sum of four terms in 0..1.

    Args:
        i: One region.
        j: The other one.
        sizes: Pixels of every region, ``[R]``.
        boxes: Their half-open boxes, ``[R, 4]``.
        colour: Their normalised colour histograms, ``[R, 75]``.
        texture: Their normalised texture histograms, ``[R, 240]``.
        weights: Of colour, texture, size and fill, ``[4]``.
        area: Pixels of the image.
    """
    total = 0.0
    if weights[0] > 0:
        total += weights[0] * (intersect(colour[i], colour[j]) / (3.0 * ONE))
    if weights[1] > 0:
        total += weights[1] * (intersect(texture[i], texture[j]) / (3.0 * ORIENTATIONS * ONE))
    together = sizes[i] + sizes[j]
    total += weights[2] * (1.0 - together / area)
    width = np.int64(max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0]))
    height = np.int64(max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1]))
    total += weights[3] * (1.0 - (width * height - together) / area)
    return float(total)
