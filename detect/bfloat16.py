"""bfloat16 in compiled code: numba has no such type, but the upper half of a float32 is one.

Arrays hold float32, or the bits of bfloat16 as int16; ``load`` and ``store`` suit either, so that
one kernel serves both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

_SHIFT = np.uint32(16)
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)


def rows(x: Tensor) -> NDArray[np.float32] | NDArray[np.int16]:
    """View a channels-last map as an array ``[N, H, W, C]``, bfloat16 as the int16 of its bits."""
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    array: NDArray[np.float32] = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()
    return array


def load(value: Any) -> Any:
    """Return an element of an array as float32; in compiled code only."""
    raise NotImplementedError


def store(value: Any, array: Any) -> Any:
    """Return a float32 as an element for an array, rounded to even; in compiled code only.

    Infinity stays what it is; a NaN need not.
    """
    raise NotImplementedError


# numba compares the signatures below with those of the functions they return: no annotations.
@overload(load, inline="always")
def _load(value):  # type: ignore[no-untyped-def]
    if value == types.int16:
        return lambda value: np.uint32(np.uint32(np.uint16(value)) << _SHIFT).view(np.float32)
    return lambda value: value


@overload(store, inline="always")
def _store(value, array):  # type: ignore[no-untyped-def]
    if array.dtype != types.int16:
        return lambda value, array: value

    def round_to_even(value, array):  # type: ignore[no-untyped-def]
        bits = np.float32(value).view(np.uint32)
        return np.int16((bits + _ROUND + ((bits >> _SHIFT) & _ONE)) >> _SHIFT)

    return round_to_even
