"""What is known of the regions of a segmentation: sizes, boxes, colours and textures.

All are pixel counts, so those of a merged region are plain sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.texture import CHANNEL_TEXTURES, TEXTURE_BINS

COLOUR_BINS = 25  # a channel


class Regions(NamedTuple):
    """Regions of one image, as parallel arrays (a tuple because compiled code takes tuples).

    Attributes:
        sizes: Pixels, int64 ``[R]``.
        boxes: Half-open ``xyxy`` pixels, int32 ``[R, 4]``.
        colour: Pixels in each of C x 25 colour bins, int32 ``[R, 25 C]``.
        texture: Pixels in each of C x 8 x 10 texture bins, int32 ``[R, 80 C]``.
    """

    sizes: NDArray[np.int64]
    boxes: NDArray[np.int32]
    colour: NDArray[np.int32]
    texture: NDArray[np.int32]


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
        image: The colours, ``[H, W, C]``.
        codes: Texture codes of ``image``, ``[H, W, 4 C]``.

    Returns:
        The regions, in the order of their labels.
    """
    height, width, channels = image.shape
    sizes = np.zeros(num_regions, dtype=np.int64)
    boxes = np.zeros((num_regions, 4), dtype=np.int32)
    boxes[:, 0] = width
    boxes[:, 1] = height
    colour = np.zeros((num_regions, channels * COLOUR_BINS), dtype=np.int32)
    texture = np.zeros((num_regions, channels * CHANNEL_TEXTURES), dtype=np.int32)
    words = codes.reshape(-1).view(np.uint32)
    if channels == 3:
        numbers = (np.uint64(0), np.uint64(1), np.uint64(2))
        _count(labels, image.reshape(-1), words, numbers, boxes, colour, texture)
    else:
        _count(labels, image.reshape(-1), words, (np.uint64(0),), boxes, colour, texture)
    sizes[:] = colour[:, :COLOUR_BINS].sum(axis=1)
    _count_zero_responses(sizes, texture)
    return Regions(sizes, boxes, colour, texture)


@njit(cache=True, nogil=True)
def merge_regions(regions: Regions, into: NDArray[np.int32]) -> Regions:
    """Sum up regions to larger ones.

    Args:
        regions: ``A`` regions, such as cells.
        into: The larger region that each goes into, ``[A]``.
    """
    count = into.max() + 1
    sizes = np.zeros(count, dtype=np.int64)
    boxes = np.empty((count, 4), dtype=np.int32)
    boxes[:, :2] = regions.boxes.max()
    boxes[:, 2:] = 0
    colour = np.zeros((count, regions.colour.shape[1]), dtype=np.int32)
    texture = np.zeros((count, regions.texture.shape[1]), dtype=np.int32)
    for part in range(into.size):
        whole = into[part]
        sizes[whole] += regions.sizes[part]
        for side in range(2):
            boxes[whole, side] = min(boxes[whole, side], regions.boxes[part, side])
            boxes[whole, side + 2] = max(boxes[whole, side + 2], regions.boxes[part, side + 2])
        _add(regions.colour[part], colour[whole])
        _add(regions.texture[part], texture[whole])
    return Regions(sizes, boxes, colour, texture)


@njit(cache=True, nogil=True)
def _add(counts: NDArray[np.int32], total: NDArray[np.int32]) -> None:
    for i in range(total.size):
        total[i] += counts[i]


@njit(cache=True, nogil=True)
def _count(
    labels: NDArray[np.int32],
    shades: NDArray[np.uint8],
    words: NDArray[np.uint32],
    channels: tuple[np.uint64, ...],
    boxes: NDArray[np.int32],
    colour: NDArray[np.int32],
    texture: NDArray[np.int32],
) -> None:
    """Gather boxes, colours and texture codes other than zero, run by run of the same region.

    A word holds the four texture codes of a pixel and channel. Unsigned indices spare the test
    for negative ones.
    """
    height, width = labels.shape
    byte, mask = np.uint64(8), np.uint64(255)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    pair = np.uint64(2 * TEXTURE_BINS)
    i = np.uint64(0)
    for y in range(height):
        x = 0
        while x < width:
            region, start = labels[y, x], x
            shade_bins, texture_bins = colour[region], texture[region]
            while x < width and labels[y, x] == region:
                for channel in channels:
                    shade = np.uint64(shades[i]) * np.uint64(COLOUR_BINS) >> byte
                    shade_bins[channel * np.uint64(COLOUR_BINS) + shade] += 1
                    word = np.uint64(words[i])
                    if word != 0:  # most are zero: flat surfaces
                        first = channel * np.uint64(CHANNEL_TEXTURES)
                        texture_bins[first + (word & mask)] += 1
                        texture_bins[first + pair + (word >> byte & mask)] += 1
                        texture_bins[first + two * pair + (word >> two * byte & mask)] += 1
                        texture_bins[first + three * pair + (word >> three * byte)] += 1
                    i += one
                x += 1
            boxes[region, 0] = min(boxes[region, 0], start)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x)
            boxes[region, 3] = max(boxes[region, 3], y + 1)


@njit(cache=True, nogil=True)
def _count_zero_responses(sizes: NDArray[np.int64], texture: NDArray[np.int32]) -> None:
    """Pixels that are in no other bin of an orientation are in its first."""
    for region in range(sizes.size):
        for first in range(0, texture.shape[1], TEXTURE_BINS):
            responses = texture[region, first + 1 : first + TEXTURE_BINS].sum()
            texture[region, first] = sizes[region] - responses
