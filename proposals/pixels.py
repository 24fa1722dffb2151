"""Images as callers have them, turned into the one form that the search works on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]

_WANTED = (
    "an RGB or grey image, a tensor [3, H, W], [1, H, W] or [H, W] or an array [H, W, 3], "
    "[H, W, 1] or [H, W], uint8 or float in 0..1, H and W >= 1"
)


def as_pixels(image: Tensor | NDArray[Any]) -> Pixels:
    """Turn an image into an RGB array.

    Args:
        image: RGB or grey; a tensor ``[3, H, W]``, ``[1, H, W]`` or ``[H, W]`` on any device, or an
            array ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``; uint8 in 0..255 or floats in 0..1.

    Returns:
        The same image, uint8 ``[H, W, 3]``, contiguous.

    Raises:
        TypeError: If ``image`` is neither a tensor nor an array.
        ValueError: If its shape, type or values are others.
    """
    if isinstance(image, Tensor):
        found = f"a tensor {list(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
        planes = image.detach().cpu()
        if planes.dtype == torch.bfloat16:
            planes = planes.float()
        array = planes.movedim(0, -1).numpy() if planes.ndim == 3 else planes.numpy()
    elif isinstance(image, np.ndarray):
        found = f"an array {list(image.shape)} of {image.dtype}"
        array = image
    else:
        raise TypeError(f"image must be {_WANTED}: got {type(image).__name__}")
    right_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if not right_shape or 0 in array.shape or array.dtype.kind not in "uf":
        raise ValueError(f"image must be {_WANTED}: got {found}")
    array = _as_bytes(array, found)
    planes_last = array if array.ndim == 3 else array[..., None]
    return np.ascontiguousarray(np.broadcast_to(planes_last, (*array.shape[:2], 3)))


def _as_bytes(array: NDArray[Any], found: str) -> Pixels:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"image must be {_WANTED}: got {found}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # NaN fails as well
        raise ValueError(f"image must be {_WANTED}: got {found} from {low:g} to {high:g}")
    return np.rint(array * np.float32(255)).astype(np.uint8)
