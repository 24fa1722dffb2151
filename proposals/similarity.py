"""The similarity of two regions (Uijlings et al., IJCV 2013, section 3.2).

Normalised histograms are integers: sums of integers do not depend on the order of the additions,
so that results are the same on every machine and in every thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.regions import COLOUR_BINS, Regions
from proposals.texture import TEXTURE_BINS

ONE = 65535  # what the bins of a normalised histogram add up to, a little less where rounded

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
    """Regions that touch and what they are compared by; they connect all of a segmentation.

    Attributes:
        regions: Two regions, the smaller number first, each pair once, int64 ``[E, 2]``.
        colour: Their colour similarity in 0..1, float64 ``[E]``.
        texture: Their texture similarity in 0..1, float64 ``[E]``.
        colours: Normalised colour histograms of the regions, uint16 ``[R, 25 C]``.
        textures: Their normalised texture histograms, uint16 ``[R, 80 C]``.
    """

    regions: NDArray[np.int64]
    colour: NDArray[np.float64]
    texture: NDArray[np.float64]
    colours: NDArray[np.uint16]
    textures: NDArray[np.uint16]


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
    return Pairs(pairs, colour, texture, colours, textures)


@njit(cache=True, nogil=True)
def colour_similarity(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Return the similarity in 0..1 of two normalised colour histograms."""
    return intersect(a, b) / (a.size // COLOUR_BINS * float(ONE))


@njit(cache=True, nogil=True)
def texture_similarity(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Return the similarity in 0..1 of two normalised texture histograms."""
    return intersect(a, b) / (a.size // TEXTURE_BINS * float(ONE))


@njit(cache=True, nogil=True, inline="always")
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
