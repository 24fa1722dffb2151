"""Max pooling and response normalisation of feature maps, compiled for channels-last order.

PyTorch's own pooling on a CPU takes a fifth of the time of GoogLeNet in bfloat16; this takes a
thirtieth. They expect what GoogLeNet hands them: maps behind a ReLU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from detect.bfloat16 import load, rows, store

# The bits of x ** -0.75 are about this number less 3/4 of the bits of x (after Lomont, "Fast
# inverse square root", 2003, for another power): right to 4.4 %.
_POWER_BITS = np.int32(0x6F14B560)
# Taylor coefficients of (1 - e) ** -0.25: they take that to 1.4e-5.
_TAYLOR = tuple(np.float32(c) for c in (1, 1 / 4, 5 / 32, 15 / 128, 195 / 2048))
_SCALE = np.float32(1e-4 / 5)  # alpha / n of the BVLC model


class CompiledMaxPool(nn.Module):
    """Max pooling in ceil mode of maps without negative values, float32 or bfloat16, on a CPU."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``[N, C, H, W]``, both in channels-last order."""
        pooled: Tensor = _MaxPool.apply(x, self.kernel_size, self.stride, self.padding)
        return pooled


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int, stride: int, padding: int) -> Tensor:
        height, width = (_outputs(side, window, stride, padding) for side in x.shape[-2:])
        shape = (x.shape[0], x.shape[1], height, width)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        _max_pool(rows(x), window, stride, padding, rows(out))
        ctx.save_for_backward(x, out)
        ctx.geometry = window, stride, padding
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x, out = ctx.saved_tensors
        window, stride, padding = ctx.geometry
        result = torch.empty_like(x, memory_format=torch.channels_last)
        given = rows(gradients[0])
        _max_pool_gradient(rows(x), rows(out), given, window, stride, padding, rows(result))
        return result, None, None, None


def _outputs(side: int, window: int, stride: int, padding: int) -> int:
    count = -(-(side + 2 * padding - window) // stride) + 1
    # torch's rule: the last window begins inside the map or its left padding.
    return count - ((count - 1) * stride >= side + padding)


class CompiledResponseNorm(nn.Module):
    """The BVLC model's response normalisation, of float32 or bfloat16 maps on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, H, W]`` over 5 neighbouring channels, in channels-last order."""
        out = torch.empty_like(x, memory_format=torch.channels_last)
        channels = x.shape[1]
        exact = x.dtype == torch.float32  # bfloat16 has 8 bits
        _normalise(rows(x).reshape(-1, channels), rows(out).reshape(-1, channels), exact)
        return out


@njit(cache=True, nogil=True)
def _max_pool(x, window, stride, padding, out):  # type: ignore[no-untyped-def]
    """Pool ``[N, H, W, C]``: rows first, then along them.

    Bits of bfloat16 that are not negative compare as integers do.
    """
    count, height, width, channels = x.shape
    best = np.empty((width, channels), x.dtype)  # of the window's rows
    flat = best.reshape(-1)
    for i in range(count):
        for row in range(out.shape[1]):
            top = max(row * stride - padding, 0)
            bottom = min(row * stride - padding + window, height)
            max_of_two(x[i, top].reshape(-1), x[i, bottom - 1].reshape(-1), flat)
            for y in range(top + 1, bottom - 1):
                max_of_two(flat, x[i, y].reshape(-1), flat)
            for column in range(out.shape[2]):
                left = max(column * stride - padding, 0)
                right = min(column * stride - padding + window, width)
                if right - left == 3:
                    max_of_three(best[left], best[left + 1], best[left + 2], out[i, row, column])
                else:
                    max_of_two(best[left], best[right - 1], out[i, row, column])


@njit(cache=True, nogil=True)
def _max_pool_gradient(x, pooled, gradient, window, stride, padding, out):  # type: ignore[no-untyped-def]
    """Hand each window's gradient to its largest element; of equal ones to the first, as torch."""
    count, height, width, channels = x.shape
    total = np.empty((height, width, channels), np.float32)
    left_over = np.empty(channels, np.float32)
    for i in range(count):
        total[:] = 0
        for row in range(pooled.shape[1]):
            top = max(row * stride - padding, 0)
            bottom = min(row * stride - padding + window, height)
            for column in range(pooled.shape[2]):
                left = max(column * stride - padding, 0)
                right = min(column * stride - padding + window, width)
                largest, given = pooled[i, row, column], gradient[i, row, column]
                for k in range(channels):
                    left_over[k] = load(given[k])
                for y in range(top, bottom):
                    for z in range(left, right):
                        hand_over(left_over, x[i, y, z], largest, total[y, z])
        flat, result = total.reshape(-1), out[i].reshape(-1)
        for k in range(len(flat)):
            result[k] = store(flat[k], out)


@njit(cache=True, nogil=True, inline="always")
def hand_over(left_over, values, largest, total):  # type: ignore[no-untyped-def]
    """Add a window's gradient, channel by channel, where an element is the largest; once."""
    for k in range(len(total)):
        share = left_over[k] if values[k] == largest[k] else np.float32(0)
        total[k] += share
        left_over[k] -= share


@njit(cache=True, nogil=True, inline="always")
def max_of_two(a, b, out):  # type: ignore[no-untyped-def]
    """Write the larger of two elements, channel by channel."""
    for k in range(len(out)):
        out[k] = max(a[k], b[k])


@njit(cache=True, nogil=True, inline="always")
def max_of_three(a, b, c, out):  # type: ignore[no-untyped-def]
    """Write the largest of three elements, channel by channel."""
    for k in range(len(out)):
        out[k] = max(max(a[k], b[k]), c[k])


@njit(cache=True, nogil=True)
def _normalise(x, out, exact):  # type: ignore[no-untyped-def]
    """Normalise points, ``[P, C]``, to 1.4e-5 or, if ``exact``, to the precision of float32."""
    points, channels = x.shape
    values = np.empty(channels, np.float32)
    squares = np.zeros(channels + 4, np.float32)  # two channels of zeros on either side
    for i in range(points):
        point, result = x[i], out[i]
        for k in range(channels):
            values[k] = load(point[k])
            squares[k + 2] = values[k] * values[k]
        for k in range(channels):
            near = squares[k] + squares[k + 1] + squares[k + 2] + squares[k + 3] + squares[k + 4]
            base = np.float32(1) + _SCALE * near
            power = _inverse_power(base)
            if exact:
                power = _newton(base, power)
            result[k] = store(values[k] * power, out)


@njit(inline="always")
def _inverse_power(base):  # type: ignore[no-untyped-def]
    """Return ``base ** -0.75`` of a base of at least 1, to 1.4e-5."""
    bits = np.float32(base).view(np.int32)
    power = np.int32(_POWER_BITS - (bits >> np.int32(2)) * np.int32(3)).view(np.float32)
    square = power * power
    e = np.float32(1) - base * base * base * (square * square)
    a, b, c, d, last = _TAYLOR
    return power * (a + e * (b + e * (c + e * (d + e * last))))


@njit(inline="always")
def _newton(base, power):  # type: ignore[no-untyped-def]
    """Return a better ``base ** -0.75``: the error is squared."""
    square = power * power
    cube = base * base * base
    return power * (np.float32(1.25) - np.float32(0.25) * cube * square * square)
