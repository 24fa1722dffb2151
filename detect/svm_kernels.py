"""Linear SVMs by dual coordinate descent, compiled; features stay in float16.

Hsieh, Chang, Lin, Keerthi and Sundararajan, "A dual coordinate descent method for large-scale
linear SVM", 2008, for the hinge loss: one sample after the other moves its dual variable to the
optimum, in random order, and samples that seem settled at a bound are left out for a while
(shrinking, section 3.2). numba has no float16 on a CPU, so features are the int16 of their bits.
All sums are in float64 and in an order that does not depend on the machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

_REBIAS = np.float32(2.0**112)  # between the exponents of float16 and float32, exact
_FEW = 8  # numbers that are added one by one
_STILL = 1e-12  # a projected gradient that moves nothing


class Samples(NamedTuple):
    """The training set of one class.

    A sample is ``(scale * features, bias)``, with one number more than there are features.

    Attributes:
        features: Rows that all classes share, bits of float16, ``[M, D]``.
        squares: Squared norm of each row, ``[M]``.
        rows: The row of each sample, ``[n]``.
        signs: 1 for objects, -1 for what is none, ``[n]``.
        limits: Largest dual variable of each sample: its weight times C, ``[n]``.
        scale: Factor on the features.
        bias: The number that every sample ends with.
    """

    features: NDArray[np.int16]
    squares: NDArray[np.float64]
    rows: NDArray[np.int32]
    signs: NDArray[np.float64]
    limits: NDArray[np.float64]
    scale: float
    bias: float


def half_bits(features: Tensor) -> NDArray[np.int16]:
    """Round features ``[N, D]`` to float16 and return their bits.

    Raises:
        ValueError: If a feature is not finite in float16.
    """
    half = features.detach().to("cpu", torch.float16).contiguous()
    if not half.isfinite().all():
        raise ValueError(f"{int((~half.isfinite()).sum())} features are not finite in float16")
    bits: NDArray[np.int16] = half.view(torch.int16).numpy()
    return bits


@njit(cache=True, nogil=True)
def _widen(bits: np.int16) -> np.float32:
    """Return a finite float16 as float32."""
    wide = np.uint32(np.uint16(bits))
    magnitude = (wide & np.uint32(0x7FFF)) << np.uint32(13)
    sign = (wide & np.uint32(0x8000)) << np.uint32(16)
    return np.uint32(magnitude | sign).view(np.float32) * _REBIAS


@njit(cache=True, nogil=True)
def _dot(row: NDArray[np.int16], weights: NDArray[np.float64], spare: NDArray[np.float64]) -> float:
    """Multiply features with as many weights; the halves of the products are added, vectorised."""
    count = len(row)
    for j in range(count):
        spare[j] = _widen(row[j]) * weights[j]
    while count > _FEW:
        half = count // 2
        low, high = spare[:half], spare[count - half : count]
        for j in range(half):
            low[j] += high[j]
        count -= half
    total = 0.0
    for j in range(count):
        total += spare[j]
    return total


@njit(cache=True, nogil=True)
def _add(weights: NDArray[np.float64], row: NDArray[np.int16], factor: float) -> None:
    for j in range(len(row)):
        weights[j] += factor * _widen(row[j])


@njit(cache=True, nogil=True)
def square_norms(features: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return the squared norm of each row, ``[N]``."""
    squares = np.empty(len(features))
    wide, spare = np.empty(features.shape[1]), np.empty(features.shape[1])
    for i in range(len(features)):
        for j in range(len(wide)):
            wide[j] = _widen(features[i, j])
        squares[i] = _dot(features[i], wide, spare)
    return squares


@njit(cache=True, nogil=True)
def margins(
    features: NDArray[np.int16],
    rows: NDArray[np.int32],
    weights: NDArray[np.float64],
    scale: float,
    bias: float,
) -> NDArray[np.float64]:
    """Return how far samples lie on the side of the objects, ``[n, C]``.

    Args:
        features: Bits of float16, ``[M, D]``.
        rows: Which of them, ``[n]``.
        weights: Of each class, ``[C, D + 1]``.
        scale: As in ``Samples``.
        bias: As in ``Samples``.
    """
    found = np.empty((len(rows), len(weights)))
    last = features.shape[1]
    spare = np.empty(last)
    for i in range(len(rows)):
        for label in range(len(weights)):
            product = _dot(features[rows[i]], weights[label], spare)
            found[i, label] = scale * product + bias * weights[label, last]
    return found


@njit(cache=True, nogil=True)
def solve(
    samples: Samples,
    alphas: NDArray[np.float64],
    tolerance: float,
    max_passes: int,
    seed: int,
) -> tuple[NDArray[np.float64], int]:
    """Minimise half the squared weights plus each sample's limit times its hinge loss.

    Args:
        samples: The training set.
        alphas: Dual variables to start from, within their limits; become the optimum's, ``[n]``.
        tolerance: Of the largest less the smallest projected gradient, in units of the margin.
        max_passes: The most passes over the samples.
        seed: Of the order of samples.

    Returns:
        The weights, ``[D + 1]``, and the passes that were made.
    """
    weights = _combine(samples, alphas)
    order = np.arange(len(alphas))
    active = len(order)
    low, high = -np.inf, np.inf  # gradients beyond are thought settled
    state = np.array([seed], dtype=np.uint64)
    spare = np.empty(len(weights))
    for done in range(max_passes):
        _shuffle(order[:active], state)
        active, low, high = _pass(samples, alphas, weights, order, active, low, high, spare)
        if high - low <= tolerance:
            if active == len(order):
                return weights, done + 1
            active = len(order)  # once more with those that were left out
            low, high = -np.inf, np.inf
        else:
            low, high = low if low < 0 else -np.inf, high if high > 0 else np.inf
    return weights, max_passes


@njit(cache=True, nogil=True)
def _combine(samples: Samples, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights that belong to dual variables, ``[D + 1]``."""
    weights = np.zeros(samples.features.shape[1] + 1)
    for i in range(len(alphas)):
        if alphas[i] > 0:
            _move(samples, i, weights, alphas[i])
    return weights


@njit(cache=True, nogil=True)
def _move(samples: Samples, i: int, weights: NDArray[np.float64], step: float) -> None:
    """Change the weights as the sample's dual variable changes by ``step``."""
    signed = step * samples.signs[i]
    _add(weights, samples.features[samples.rows[i]], signed * samples.scale)
    weights[-1] += signed * samples.bias


@njit(cache=True, nogil=True)
def _pass(
    samples: Samples,
    alphas: NDArray[np.float64],
    weights: NDArray[np.float64],
    order: NDArray[np.int64],
    active: int,
    low: float,
    high: float,
    spare: NDArray[np.float64],
) -> tuple[int, float, float]:
    """Visit the first ``active`` samples of an order; settled ones are moved behind them.

    Returns:
        How many are still active, and the smallest and largest projected gradient of the pass.
    """
    smallest, largest = np.inf, -np.inf
    place = 0
    while place < active:
        i = order[place]
        row = samples.rows[i]
        product = samples.scale * _dot(samples.features[row], weights, spare)
        gradient = samples.signs[i] * (product + samples.bias * weights[-1]) - 1
        at_zero, at_limit = alphas[i] <= 0, alphas[i] >= samples.limits[i]
        if (at_zero and gradient > high) or (at_limit and gradient < low):
            active -= 1
            order[place], order[active] = order[active], order[place]
            continue
        place += 1
        held = (at_zero and gradient > 0) or (at_limit and gradient < 0)
        projected = 0.0 if held else gradient
        smallest, largest = min(smallest, projected), max(largest, projected)
        if abs(projected) > _STILL:
            curvature = samples.scale**2 * samples.squares[row] + samples.bias**2
            wanted = min(max(alphas[i] - gradient / curvature, 0.0), samples.limits[i])
            _move(samples, i, weights, wanted - alphas[i])
            alphas[i] = wanted
    return active, smallest, largest


@njit(cache=True, nogil=True)
def _shuffle(order: NDArray[np.int64], state: NDArray[np.uint64]) -> None:
    """Draw a permutation in place (Fisher-Yates), by random numbers of its own (SplitMix64)."""
    for place in range(len(order) - 1, 0, -1):
        state[0] += np.uint64(0x9E3779B97F4A7C15)
        mixed = state[0]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        other = np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(place + 1))
        order[place], order[other] = order[other], order[place]
