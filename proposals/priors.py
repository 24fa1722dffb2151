"""Priors of MultiBox: where objects usually are, relative to a point of a map of features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RESIDUAL_UNITS = (
    0.1,
    0.1,
    0.2,
    0.2,
)  # of a prior's width and height, and of their logarithms (SSD)


def cluster_places(places: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose priors among objects by k-means, as Erhan et al. 2014 do (section 3).

    Args:
        places: Centres and sides ``(x, y, w, h)`` of objects, each relative to its image,
            ``[N, 4]``.
        count: How many priors; fewer where there are not so many different objects.
        seed: Of the start.

    Returns:
        Priors ``(x, y, w, h)``, the largest first, ``[K, 4]``.

    Raises:
        ValueError: If there is no object.
    """
    return _cluster(places, count, seed)


def cluster_shapes(sides: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose priors of one centre and several shapes, for a grid of points.

    Shapes are clustered by the logarithms of their sides, so that their ratio to the objects'
    shapes counts.

    Args:
        sides: Width and height of objects in units of the grid, ``[N, 2]``.
        count: How many priors; fewer where there are not so many different shapes.
        seed: Of the start.

    Returns:
        Priors ``(0, 0, w, h)``, the largest first, ``[K, 4]``.

    Raises:
        ValueError: If there is no object.
    """
    shapes = _cluster(sides.log(), count, seed).exp()
    return torch.cat([torch.zeros_like(shapes), shapes], dim=1)


def _cluster(samples: Tensor, count: int, seed: int) -> Tensor:
    from scipy.cluster.vq import kmeans2  # a quarter of a second, and for training alone

    distinct = samples.double().unique(dim=0)
    if not len(distinct):
        raise ValueError("no object to make priors of")
    if len(distinct) <= count:
        centres = distinct
    else:
        generator = np.random.default_rng(seed)
        found, members = kmeans2(
            samples.double().numpy(), count, iter=100, minit="++", seed=generator
        )
        centres = torch.from_numpy(found[np.bincount(members, minlength=count) > 0])
    largest_first = centres[:, -2:].sum(dim=1).argsort(descending=True, stable=True)
    ordered: Tensor = centres[largest_first].float()
    return ordered


def place_priors(
    priors: Tensor,
    grid: tuple[int, int],
    origin: tuple[float, float],
    stride: tuple[float, float],
    chosen: Tensor | None = None,
) -> Tensor:
    """Put the priors at every point of a grid.

    Args:
        priors: ``(x, y, w, h)`` in strides, ``x`` and ``y`` from the point, ``[K, 4]``.
        grid: Height and width of the grid, points.
        origin: ``x`` and ``y`` of its first point, pixels.
        stride: From point to point in ``x`` and ``y``, pixels.
        chosen: Which of them to return, places from 0, int64 ``[n]``; by default all.

    Returns:
        Centres and sides ``(x, y, w, h)`` in pixels, row by row of the grid and all priors of a
        point side by side, ``[height * width * K, 4]``.
    """
    if chosen is None:
        chosen = torch.arange(grid[0] * grid[1] * len(priors), device=priors.device)
    point = torch.div(chosen, len(priors), rounding_mode="floor")
    y = torch.div(point, grid[1], rounding_mode="floor")
    points = torch.stack([point - y * grid[1], y, torch.zeros_like(y), torch.zeros_like(y)], dim=1)
    unit = priors.new_tensor([*stride, *stride])
    start = priors.new_tensor([*origin, 0.0, 0.0])
    placed: Tensor = (points + priors[chosen - point * len(priors)]) * unit + start
    return placed


def encode_residuals(priors: Tensor, boxes: Tensor) -> Tensor:
    """Return where boxes lie relative to priors, in ``RESIDUAL_UNITS``.

    Args:
        priors: Centres and sides, ``[N, 4]``.
        boxes: Half-open ``xyxy`` boxes, ``[N, 4]``.
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    moved = (centres - priors[:, :2]) / priors[:, 2:]
    grown = (sides / priors[:, 2:]).log()
    return torch.cat([moved, grown], dim=1) / boxes.new_tensor(RESIDUAL_UNITS)


def decode_residuals(priors: Tensor, residuals: Tensor) -> Tensor:
    """Return the ``xyxy`` boxes that priors ``[N, 4]`` become; see ``encode_residuals``."""
    moves = residuals * residuals.new_tensor(RESIDUAL_UNITS)
    centres = priors[:, :2] + moves[:, :2] * priors[:, 2:]
    # A head that was never trained may ask for anything: no side grows more than e ** 4 times.
    halves = priors[:, 2:] * moves[:, 2:].clamp(max=4).exp() / 2
    return torch.cat([centres - halves, centres + halves], dim=1)


def centred(boxes: Tensor) -> Tensor:
    """Return ``xyxy`` boxes ``[N, 4]`` as centres and sides ``(x, y, w, h)``."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def cornered(places: Tensor) -> Tensor:
    """Return centres and sides ``(x, y, w, h)``, ``[N, 4]``, as ``xyxy`` boxes."""
    return torch.cat([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], dim=1)
