"""Features of regions and the similarity of two regions (Uijlings et al., IJCV 2013, section 3.2).

A region's features are pixel counts, so those of a merged region are plain sums. Normalised
histograms are integers as well: sums of integers do not depend on the order of the additions, so
that results are the same on every machine and in every thread.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Row = NDArray[np.float32]

COLOUR_BINS = 25  # a channel
TEXTURE_BINS = 10  # a channel and orientation
ORIENTATIONS = 8
CHANNEL_TEXTURES = ORIENTATIONS * TEXTURE_BINS
ONE = 65535  # what the bins of a normalised histogram add up to, a little less where rounded

# Width of a texture bin in responses of the derivative filter, the largest of which is 48 * 255.
# The last bin is open. Recall on VOC2007 hardly depends on it between 200 and 1200.
_TEXTURE_STEP = 400


SIMILARITIES = ("colour", "texture", "size", "fill")


def parse_similarity(text: str) -> NDArray[np.float64]:
    """Read a similarity, terms joined by ``+``, each with a factor before ``*`` if it is not 1.

    Args:
        text: Such as ``"colour+texture+size+fill"`` or ``"0.5*colour+fill"``.

    Returns:
        Weights of colour, texture, size and fill, ``[4]``.

    Raises:
        ValueError: If a term is unknown or twice there, or a factor is no positive number.
    """
    weights = np.zeros(len(SIMILARITIES))
    for term in text.split("+"):
        factor, _, name = term.rpartition("*")
        if name.strip() not in SIMILARITIES:
            raise ValueError(
                f"no similarity {name.strip()!r} in {text!r}: there are {', '.join(SIMILARITIES)}"
            )
        index = SIMILARITIES.index(name.strip())
        if weights[index]:
            raise ValueError(f"similarity {text!r} has {name.strip()} twice")
        try:
            weights[index] = float(factor or 1)
        except ValueError:
            weights[index] = np.nan
        if not 0 < weights[index] < np.inf:
            raise ValueError(f"factors of a similarity are positive numbers: got {text!r}")
    return weights


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


def texture_codes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Find the texture bins of every pixel.

    The response at an orientation is the positive part of the Gaussian derivative (sigma 1, as
    5 x 5 binomial filters, the image mirrored at its borders) in that direction. Of two opposite
    orientations one is always zero, so one code says both: below 10 the bin of the first, from 10
    on that of the second.

    Args:
        image: Colours in 0..255, ``[H, W, C]``.

    Returns:
        A code for each channel and pair of opposite orientations, ``[H, W, 4 C]``.
    """
    height, width, channels = image.shape
    codes = np.empty((height, width, channels * ORIENTATIONS // 2), dtype=np.uint8)
    _texture_codes(image.reshape(height, -1), channels, codes.reshape(height, -1))
    return codes


@njit(cache=True, nogil=True, inline="always")
def _mirrored(index: int, size: int) -> int:
    """Return the pixel that stands for one up to two pixels outside, not repeating the border."""
    while index < 0 or index >= size:
        index = -index if index < 0 else 2 * size - 2 - index
        if size == 1:
            index = 0
    return index


@njit(cache=True, nogil=True, inline="always")
def _signed_bin(response: np.float32, top: np.float32) -> np.uint8:
    code = np.uint8(min(abs(response), top))
    return np.uint8(code + np.uint8(TEXTURE_BINS)) if response < 0 and code > 0 else code


@njit(cache=True, nogil=True)
def _texture_codes(rows: NDArray[np.uint8], channels: int, codes: NDArray[np.uint8]) -> None:
    """Fill ``codes``, row by row: the vertical halves of both filters, the horizontal ones, bins.

    All sums are small integers, exact in 32-bit floats. Each loop reads few arrays: of many the
    compiler would not prove that they are distinct, and not vectorise.
    """
    height, length = rows.shape
    width = length // channels
    smooth = np.empty(length + 4 * channels, dtype=np.float32)
    slope = np.empty(length + 4 * channels, dtype=np.float32)
    dx = np.empty(length, dtype=np.float32)
    dy = np.empty(length, dtype=np.float32)
    for y in range(height):
        a, b = rows[_mirrored(y - 2, height)], rows[_mirrored(y - 1, height)]
        d, e = rows[_mirrored(y + 1, height)], rows[_mirrored(y + 2, height)]
        _weigh_14641(a, b, rows[y], d, e, smooth[2 * channels : 2 * channels + length])
        _weigh_12021(a, b, d, e, slope[2 * channels : 2 * channels + length])
        for x in (-2, -1, width, width + 1):
            for channel in range(channels):
                source = (_mirrored(x, width) + 2) * channels + channel
                smooth[(x + 2) * channels + channel] = smooth[source]
                slope[(x + 2) * channels + channel] = slope[source]
        n = channels
        _weigh_12021(smooth, smooth[n:], smooth[3 * n :], smooth[4 * n :], dx)
        _weigh_14641(slope, slope[n:], slope[2 * n :], slope[3 * n :], slope[4 * n :], dy)
        _find_bins(dx, dy, codes[y])


@njit(cache=True, nogil=True)
def _weigh_14641(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any], e: NDArray[Any], out: Row
) -> None:
    for i in range(out.size):
        near, far = np.float32(b[i]) + np.float32(d[i]), np.float32(a[i]) + np.float32(e[i])
        out[i] = far + np.float32(4) * near + np.float32(6) * np.float32(c[i])


@njit(cache=True, nogil=True)
def _weigh_12021(
    a: NDArray[Any], b: NDArray[Any], d: NDArray[Any], e: NDArray[Any], out: Row
) -> None:
    for i in range(out.size):
        near, far = np.float32(d[i]) - np.float32(b[i]), np.float32(e[i]) - np.float32(a[i])
        out[i] = far + np.float32(2) * near


@njit(cache=True, nogil=True)
def _find_bins(dx: Row, dy: Row, codes: NDArray[np.uint8]) -> None:
    # A two-dimensional array would have a stride unknown to the compiler, and no vector stores.
    straight = np.float32(1 / _TEXTURE_STEP)
    diagonal = np.float32(np.sqrt(0.5) / _TEXTURE_STEP)
    top = np.float32(TEXTURE_BINS - 1)
    for i in range(dx.size):
        codes[4 * i + 0] = _signed_bin(dx[i] * straight, top)
        codes[4 * i + 1] = _signed_bin((dx[i] + dy[i]) * diagonal, top)
        codes[4 * i + 2] = _signed_bin(dy[i] * straight, top)
        codes[4 * i + 3] = _signed_bin((dy[i] - dx[i]) * diagonal, top)


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


class Pairs(NamedTuple):
    """Regions that touch, as parallel arrays; they connect all regions of a segmentation.

    Attributes:
        regions: Two regions, the smaller number first, each pair once, int64 ``[E, 2]``.
        colour: Their colour similarity in 0..1, float64 ``[E]``.
        texture: Their texture similarity in 0..1, float64 ``[E]``.
    """

    regions: NDArray[np.int64]
    colour: NDArray[np.float64]
    texture: NDArray[np.float64]


@njit(cache=True, nogil=True)
def compare(regions: Regions, pairs: NDArray[np.int64]) -> Pairs:
    """Compare the histograms of neighbours, once for all similarities.

    Args:
        regions: The ``R`` regions of a segmentation.
        pairs: Those that touch, the smaller number first, each pair once, ``[E, 2]``.
    """
    count = len(regions.sizes)
    colour, texture = np.empty(len(pairs)), np.empty(len(pairs))
    colours = np.empty(regions.colour.shape, dtype=np.uint16)
    textures = np.empty(regions.texture.shape, dtype=np.uint16)
    for i in range(count):
        normalise(regions.colour[i], regions.sizes[i], colours[i])
        normalise(regions.texture[i], regions.sizes[i], textures[i])
    for e in range(len(pairs)):
        i, j = pairs[e]
        colour[e] = colour_similarity(colours[i], colours[j])
        texture[e] = texture_similarity(textures[i], textures[j])
    return Pairs(pairs, colour, texture)


@njit(cache=True, nogil=True)
def colour_similarity(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Return the similarity in 0..1 of two normalised colour histograms."""
    return intersect(a, b) / (a.size // COLOUR_BINS * float(ONE))


@njit(cache=True, nogil=True)
def texture_similarity(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Return the similarity in 0..1 of two normalised texture histograms."""
    return intersect(a, b) / (a.size // TEXTURE_BINS * float(ONE))


@njit(cache=True, nogil=True)
def shape_similarity(
    i: int,
    j: int,
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    weights: NDArray[np.float64],
    area: int,
) -> float:
    """Return the weighted sum of the size and fill similarities of regions ``i`` and ``j``.

    Args:
        i: One region.
        j: The other one.
        sizes: Pixels of every region, ``[R]``.
        boxes: Their half-open boxes, ``[R, 4]``.
        weights: Of colour, texture, size and fill, ``[4]``.
        area: Pixels of the image.
    """
    together = sizes[i] + sizes[j]
    width = np.int64(max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0]))
    height = np.int64(max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1]))
    size = weights[2] * (1.0 - together / area)
    fill = weights[3] * (1.0 - (width * height - together) / area)
    return float(size + fill)
