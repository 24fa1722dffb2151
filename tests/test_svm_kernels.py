from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize

from detect.svm_kernels import Samples, half_bits, margins, solve, square_norms

COST, POSITIVE_WEIGHT = 0.02, 2.0


def make_samples(n: int, features: int = 5, *, seed: int = 0, scale: float = 0.7) -> Samples:
    """Two classes that overlap, one sample in four an object."""
    random = np.random.default_rng(seed)
    signs = np.where(np.arange(n) % 4 == 0, 1.0, -1.0)
    values = random.standard_normal((n, features)) + 0.7 * signs[:, None]
    bits = half_bits(torch.from_numpy(values))
    limits = COST * np.where(signs > 0, POSITIVE_WEIGHT, 1.0)
    rows = random.permutation(n).astype(np.int32)
    return Samples(bits, square_norms(bits), rows, signs[rows], limits[rows], scale, 3.0)


def extended(samples: Samples) -> np.ndarray:
    """Return every sample with its bias feature, ``[n, D + 1]``."""
    values = samples.scale * samples.features.view(np.float16).astype(float)[samples.rows]
    return np.concatenate([values, np.full((len(values), 1), samples.bias)], axis=1)


def loss(samples: Samples, weights: np.ndarray) -> float:
    hinge = np.maximum(0, 1 - samples.signs * (extended(samples) @ weights))
    return float(weights @ weights / 2 + samples.limits @ hinge)


def reference_solution(samples: Samples) -> np.ndarray:
    """Minimise over weights and slacks, a quadratic programme, by a general solver."""
    x, n = extended(samples), len(samples.rows)
    size = x.shape[1]
    beyond = np.concatenate([samples.signs[:, None] * x, np.eye(n)], axis=1)
    found = minimize(
        lambda v: v[:size] @ v[:size] / 2 + samples.limits @ v[size:],
        np.concatenate([np.zeros(size), np.ones(n)]),
        jac=lambda v: np.concatenate([v[:size], samples.limits]),
        bounds=[(None, None)] * size + [(0, None)] * n,
        constraints=LinearConstraint(beyond, 1, np.inf),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return np.asarray(found.x[:size])


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_those_of_a_general_solver(seed: int) -> None:
    samples = make_samples(24, seed=seed)
    expected = reference_solution(samples)
    weights, _ = solve(samples, np.zeros(24), 1e-9, 10_000, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    assert np.abs(weights).max() > 0.05


@pytest.mark.parametrize("n", [1, 2, 40, 600])
def test_the_duality_gap_is_closed_and_the_optimality_conditions_hold(n: int) -> None:
    samples, alphas = make_samples(n, 30), np.zeros(n)
    weights, _ = solve(samples, alphas, 1e-8, 10_000, 0)
    x = extended(samples)
    np.testing.assert_allclose(weights, (alphas * samples.signs) @ x, atol=1e-12)
    dual = alphas.sum() - weights @ weights / 2
    assert loss(samples, weights) == pytest.approx(dual, rel=1e-6)
    sides = samples.signs * (x @ weights)
    assert (alphas >= 0).all() and (alphas <= samples.limits).all()
    assert (sides[alphas == 0] > 1 - 1e-6).all()
    assert (sides[alphas == samples.limits] < 1 + 1e-6).all()
    between = (alphas > 0) & (alphas < samples.limits)
    np.testing.assert_allclose(sides[between], 1, atol=1e-6)


def test_a_looser_tolerance_takes_fewer_passes_and_stays_near_the_optimum() -> None:
    samples = make_samples(600, 30)
    optimum, many = solve(samples, np.zeros(600), 1e-8, 10_000, 0)
    near, few = solve(samples, np.zeros(600), 0.01, 10_000, 0)
    assert few < many
    assert loss(samples, optimum) < loss(samples, near) < 1.001 * loss(samples, optimum)


def test_starting_from_the_optimum_takes_hardly_a_pass() -> None:
    samples, alphas = make_samples(600, 30), np.zeros(600)
    expected, passes = solve(samples, alphas, 1e-6, 10_000, 0)
    weights, again = solve(samples, alphas, 1e-6, 10_000, 1)
    assert again <= 3 < passes
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_passes_are_limited() -> None:
    assert solve(make_samples(600, 30), np.zeros(600), 1e-8, 2, 0)[1] == 2


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    samples = make_samples(200, 30)
    one, same, other = (solve(samples, np.zeros(200), 0.1, 100, seed)[0] for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()


def test_samples_of_one_kind_all_lie_on_their_side() -> None:
    samples = make_samples(8)._replace(signs=np.ones(8), limits=np.ones(8))
    weights, _ = solve(samples, np.zeros(8), 1e-8, 1000, 0)
    assert (extended(samples) @ weights > 1 - 1e-6).all()


def test_no_samples_have_weights_of_zero() -> None:
    weights, _ = solve(make_samples(0), np.zeros(0), 0.01, 10, 0)
    assert (weights == 0).all()


@pytest.mark.parametrize("features", [1, 7, 8, 9, 37, 1024])
def test_margins_and_norms_equal_those_of_numpy(features: int) -> None:
    random = np.random.default_rng(features)
    bits = half_bits(torch.from_numpy(random.standard_normal((9, features))))
    weights, rows = random.standard_normal((3, features + 1)), np.array([5, 0, 8, 5], np.int32)
    values = bits.view(np.float16).astype(float)
    expected = 2.5 * values[rows] @ weights[:, :-1].T + 10 * weights[:, -1]
    np.testing.assert_allclose(margins(bits, rows, weights, 2.5, 10.0), expected, rtol=1e-12)
    np.testing.assert_allclose(square_norms(bits), (values**2).sum(axis=1), rtol=1e-12)


def test_every_finite_float16_is_read_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.int16)
    finite = every[np.isfinite(every.view(np.float16))][:, None]
    rows = np.arange(len(finite), dtype=np.int32)
    found = margins(finite, rows, np.array([[1.0, 0.0]]), 1.0, 1.0)
    assert (found == finite.view(np.float16).astype(float)).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e6])
def test_features_that_float16_cannot_hold_are_refused(value: float) -> None:
    features = torch.ones(3, 4)
    features[1, 2] = value
    with pytest.raises(ValueError, match="1 features are not finite in float16"):
        half_bits(features)
