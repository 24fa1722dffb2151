"""The colour spaces of selective search (Uijlings et al., IJCV 2013, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numba import njit

from proposals.pixels import Pixels


def _hsv(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)


def _lab(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), dtype=np.uint8)


def _rgi(image: Pixels) -> Pixels:
    """Return red and green as shares of the sum, and the intensity."""
    return np.asarray(_normalised(image.reshape(-1, 3))).reshape(image.shape)


@njit(cache=True, nogil=True)
def _normalised(pixels: Pixels) -> Pixels:
    result = np.empty(pixels.shape, dtype=np.uint8)
    for i in range(len(pixels)):
        red, green = np.float32(pixels[i, 0]), np.float32(pixels[i, 1])
        total = red + green + np.float32(pixels[i, 2])
        scale = np.float32(255) / max(total, np.float32(1))
        result[i, 0] = np.uint8(np.rint(red * scale))
        result[i, 1] = np.uint8(np.rint(green * scale))
        result[i, 2] = np.uint8(np.rint(total / np.float32(3)))
    return result


def _hue(image: Pixels) -> Pixels:
    return np.ascontiguousarray(_hsv(image)[..., :1])


def _intensity(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[..., None]


# Each maps RGB to three channels or one of 0..255, so that one set of scales fits all.
COLOUR_SPACES: dict[str, Callable[[Pixels], Pixels]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgb": np.ascontiguousarray,
    "rgi": _rgi,
    "h": _hue,
    "i": _intensity,
}
