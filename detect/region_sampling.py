"""The piece of a feature map that a region becomes: 14 x 14 points, as 4e holds for a crop.

The points are those of ``roi_align(maps, boxes, 14, sampling_ratio=1, aligned=True)``: one in the
middle of each bin, interpolated between four neighbours. torchvision's kernel for a CPU wants
channels first and takes several times as long as reading whole rows of a channels-last map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from detect.bfloat16 import load, rows, store
from detect.map_operations import hand_over, max_of_three, max_of_two

_Array = NDArray[Any]

POINTS = 14  # a side of a region, as in a 224 x 224 crop


def sample_regions(maps: Tensor, boxes: Tensor) -> Tensor:
    """Sample 14 x 14 bilinear points of each region, with gradients.

    Args:
        maps: Map of one image, ``[1, C, h, w]``, at least 2 x 2 points.
        boxes: Regions in the map's coordinates, where i + 0.5 is the centre of point i,
            ``[N, 4]``.

    Returns:
        ``[N, C, 14, 14]`` in channels-last order.
    """
    if maps.device.type != "cpu":
        from torchvision.ops import roi_align  # a second to import

        # In float32: bfloat16 has no room for a coordinate's fraction.
        points = roi_align(maps.float(), [boxes.float()], POINTS, sampling_ratio=1, aligned=True)
        return points.to(maps.dtype, memory_format=torch.channels_last)  # type: ignore[no-any-return]
    channels, height, width = maps.shape[1:]
    points = maps.permute(0, 2, 3, 1).reshape(height * width, channels)
    left, weight_x = _neighbours(boxes[:, 0], boxes[:, 2], width)
    top, weight_y = _neighbours(boxes[:, 1], boxes[:, 3], height)
    first = top[:, :, None] * width + left[:, None, :]  # [N, 14, 14]
    index = torch.stack([first, first + 1, first + width, first + width + 1], dim=-1)
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]  # [N, 14, 14, 2, 2]
    sampled = F.embedding_bag(
        index.view(-1, 4),
        points,
        mode="sum",
        per_sample_weights=weights.view(-1, 4).to(points.dtype),
    )
    return sampled.view(len(boxes), POINTS, POINTS, channels).permute(0, 3, 1, 2)


def sample_and_pool(maps: Tensor, boxes: Tensor, window: int) -> Tensor:
    """Sample regions and take the maxima of windows two points apart, in one compiled pass.

    With gradients, which are summed over regions in float32 whatever the map's type.

    Args:
        maps: Map of one image on a CPU, ``[1, C, h, w]``, at least 2 x 2 points, float32 or
            bfloat16.
        boxes: Regions in the map's coordinates, ``[N, 4]``.
        window: Points a side of a window, 2 or 3, as GoogLeNet's fourth pool has in either layout.

    Returns:
        ``[N, C, 7, 7]`` in channels-last order: ``F.max_pool2d(sample_regions(maps, boxes), window,
        2, ceil_mode=True)`` but for rounding: it is interpolated in float32 and rounded once.

    Raises:
        ValueError: If a region is not finite.
    """
    finite = boxes.isfinite().all(dim=1)
    if not finite.all():  # its neighbours would lie outside of the map, and of the memory
        raise ValueError(f"regions must be finite: got {boxes[~finite][0].tolist()} on the map")
    pooled: Tensor = _SampleAndPool.apply(maps, boxes, window)
    return pooled


class _SampleAndPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, boxes: Tensor, window: int) -> Tensor:
        side = POINTS // 2
        shape = (len(boxes), maps.shape[1], side, side)
        out = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
        _sample_and_pool(rows(maps)[0], *_grid(maps, boxes), window, rows(out))
        ctx.save_for_backward(maps, boxes)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        maps, boxes = ctx.saved_tensors
        total = np.zeros((*maps.shape[2:], maps.shape[1]), np.float32)
        grid = _grid(maps, boxes)
        _pooled_gradient(rows(maps)[0], *grid, ctx.window, rows(gradients[0]), total)
        result = torch.from_numpy(total)[None].permute(0, 3, 1, 2)
        return result.to(maps.dtype), None, None


def _grid(maps: Tensor, boxes: Tensor) -> tuple[_Array, _Array, _Array, _Array]:
    """Return left neighbours and their weights, top neighbours and theirs: see ``_neighbours``."""
    height, width = maps.shape[2:]
    left, weight_x = _neighbours(boxes[:, 0], boxes[:, 2], width)
    top, weight_y = _neighbours(boxes[:, 1], boxes[:, 3], height)
    return left.numpy(), weight_x.float().numpy(), top.numpy(), weight_y.float().numpy()


def _neighbours(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the lower neighbour of each point, ``[N, 14]``, and both weights, ``[N, 14, 2]``."""
    steps = (torch.arange(POINTS, device=low.device) + 0.5) / POINTS
    at = low[:, None] + steps * (high - low)[:, None] - 0.5  # [N, 14]
    outside = (at < -1) | (at > size)  # roi_align's rule: such points are zero
    at = at.clamp(0, size - 1)
    first = at.floor().clamp(max=size - 2)
    weight = at - first
    weights = torch.stack([1 - weight, weight], dim=-1).masked_fill(outside[..., None], 0)
    return first.long(), weights


@njit(cache=True, nogil=True)
def _sample_and_pool(  # type: ignore[no-untyped-def]
    maps, left, weight_x, top, weight_y, window, out
):
    channels, points = maps.shape[2], left.shape[1]
    line = np.empty((points, channels), np.float32)  # one row of a region's points
    # Rows pooled along themselves, the last three: the next window needs the last one again.
    pooled = np.empty((3, out.shape[2], channels), np.float32)
    best = np.empty(channels, np.float32)
    for n in range(len(out)):
        done = 0
        for i in range(out.shape[1]):
            end = min(2 * i + window, points)
            for p in range(done, end):
                _interpolate(maps, left[n], weight_x[n], top[n, p], weight_y[n, p], line)
                for j in range(out.shape[2]):
                    last = min(2 * j + window, points) - 1
                    max_of_three(line[2 * j], line[2 * j + 1], line[last], pooled[p % 3, j])
            done = end
            a, b, c = pooled[2 * i % 3], pooled[(2 * i + 1) % 3], pooled[(end - 1) % 3]
            for j in range(out.shape[2]):
                max_of_three(a[j], b[j], c[j], best)
                for k in range(channels):
                    out[n, i, j, k] = store(best[k], out)


@njit(cache=True, nogil=True)
def _pooled_gradient(  # type: ignore[no-untyped-def]
    maps, left, weight_x, top, weight_y, window, gradient, out
):
    """Add to each point of the map, ``[H, W, C]``, what the largest points of windows hand on."""
    channels, points = maps.shape[2], left.shape[1]
    values = np.empty((points, points, channels), np.float32)  # of a region
    handed = np.empty((points, points, channels), np.float32)
    largest, left_over = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(len(gradient)):
        for p in range(points):
            _interpolate(maps, left[n], weight_x[n], top[n, p], weight_y[n, p], values[p])
        handed[:] = 0
        for i in range(gradient.shape[1]):
            bottom = min(2 * i + window, points)
            for j in range(gradient.shape[2]):
                right = min(2 * j + window, points)
                for k in range(channels):
                    left_over[k] = load(gradient[n, i, j, k])
                    largest[k] = values[2 * i, 2 * j, k]
                for p in range(2 * i, bottom):
                    for q in range(2 * j, right):
                        max_of_two(largest, values[p, q], largest)
                for p in range(2 * i, bottom):
                    for q in range(2 * j, right):
                        hand_over(left_over, values[p, q], largest, handed[p, q])
        for p in range(points):
            upper, lower = out[top[n, p]], out[top[n, p] + 1]
            for q in range(points):
                x = left[n, q]
                for k in range(channels):
                    above = weight_y[n, p, 0] * handed[p, q, k]
                    below = weight_y[n, p, 1] * handed[p, q, k]
                    upper[x, k] += weight_x[n, q, 0] * above
                    upper[x + 1, k] += weight_x[n, q, 1] * above
                    lower[x, k] += weight_x[n, q, 0] * below
                    lower[x + 1, k] += weight_x[n, q, 1] * below


@njit(inline="always")
def _interpolate(maps, left, weight_x, top, weight_y, line):  # type: ignore[no-untyped-def]
    """Write one row of a region's points, ``[14, C]``."""
    upper, lower = maps[top], maps[top + 1]
    above, below = weight_y[0], weight_y[1]
    for q in range(len(line)):
        point, first, second = line[q], weight_x[q, 0], weight_x[q, 1]
        a, b = upper[left[q]], upper[left[q] + 1]
        c, d = lower[left[q]], lower[left[q] + 1]
        for k in range(len(point)):
            over = first * load(a[k]) + second * load(b[k])
            under = first * load(c[k]) + second * load(d[k])
            point[k] = above * over + below * under
