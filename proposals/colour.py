"""The colour spaces of selective search (Uijlings et al., IJCV 2013, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from proposals.pixels import Pixels


def _hsv(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)


def _lab(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), dtype=np.uint8)


def _rgi(image: Pixels) -> Pixels:
    """Return red and green as shares of the sum, and the intensity."""
    total = image.sum(axis=2, dtype=np.float32)
    shares = image[..., :2] * (255 / np.maximum(total, 1))[..., None]
    return np.dstack([shares, total / 3]).round().astype(np.uint8)


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
