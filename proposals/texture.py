"""Texture of pixels: binned Gaussian derivatives (Uijlings et al., IJCV 2013, section 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Row = NDArray[np.float32]

TEXTURE_BINS = 10  # a channel and orientation
ORIENTATIONS = 8
CHANNEL_TEXTURES = ORIENTATIONS * TEXTURE_BINS

# Width of a texture bin in responses of the derivative filter, the largest of which is 48 * 255.
# The last bin is open. Recall on VOC2007 hardly depends on it between 200 and 1200.
_TEXTURE_STEP = 400


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
