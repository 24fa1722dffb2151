from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detect.precision import (
    LARGEST_MEAN_DIFFERENCE,
    LEAST_AGREEMENT,
    PrecisionCheck,
    best_precision,
)


def probabilities(n: int, classes: int = 4, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator).softmax(dim=1)


def passing(**changes: float) -> PrecisionCheck:
    values = {"top1_agreement": 1.0, "mean_difference": 0.0, "largest_difference": 0.0}
    return PrecisionCheck(regions=10, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [[], [probabilities(0)], [probabilities(0), probabilities(0)]])
def test_no_regions_are_refused(images: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="no regions to compare precisions on"):
        PrecisionCheck.compare(images, images)


def test_equal_scores_agree_and_pass() -> None:
    images = [probabilities(3), probabilities(0), probabilities(2)]
    check = PrecisionCheck.compare(images, images)
    assert check == PrecisionCheck(5, 1.0, 0.0, 0.0)
    assert check.passes()


def test_a_small_case_worked_by_hand() -> None:
    expected = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.0, 0.0, 1.0], [0.25, 0.5, 0.25]])
    found = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.4, 0.5], [0.0, 0.0, 1.0], [0.25, 0.5, 0.25]])
    check = PrecisionCheck.compare([expected[:3], expected[3:]], [found[:3], found[3:]])
    # The second region's best class changes; the best classes lose 0.1, 0.1, 0 and 0.
    assert check == PrecisionCheck(4, 0.75, 0.05, 0.1)
    assert not check.passes()


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    classes=st.integers(2, 6),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_figures_equal_those_counted_one_by_one(counts, classes: int, seed: int) -> None:
    expected = [probabilities(n, classes, seed=seed + i) for i, n in enumerate(counts)]
    found = [(a + 0.1 * probabilities(len(a), classes, seed=seed + 9)) / 1.1 for a in expected]
    agreed, of_best, largest = 0, 0.0, 0.0
    for a, b in zip(expected, found, strict=True):
        for row, other in zip(a.tolist(), b.tolist(), strict=True):
            best = row.index(max(row))
            agreed += max(other) - other[best] <= LARGEST_MEAN_DIFFERENCE
            of_best += abs(row[best] - other[best])
            largest = max(largest, *(abs(p - q) for p, q in zip(row, other, strict=True)))
    check = PrecisionCheck.compare(expected, found)
    assert check.regions == sum(counts)
    assert check.top1_agreement == pytest.approx(agreed / sum(counts), abs=1e-5)
    assert check.mean_difference == pytest.approx(of_best / sum(counts), abs=2e-6)
    assert check.largest_difference == pytest.approx(largest, abs=2e-6)


@pytest.mark.parametrize("which", ["expected", "found", "both"])
def test_a_score_that_is_no_number_counts_as_a_difference_of_one(which: str) -> None:
    scores = {"expected": probabilities(4), "found": probabilities(4)}
    for name in scores if which == "both" else [which]:
        scores[name][2] = math.nan
    check = PrecisionCheck.compare([scores["expected"]], [scores["found"]])
    assert check.largest_difference == 1
    assert check.mean_difference == 0.25
    assert not check.passes()


def test_scores_in_bfloat16_are_compared_as_numbers_of_float32() -> None:
    expected = torch.tensor([[0.75, 0.25]])
    found = torch.tensor([[0.75390625, 0.24609375]], dtype=torch.bfloat16)
    assert PrecisionCheck.compare([expected], [found]).mean_difference == 0.003906


@pytest.mark.parametrize(
    ("check", "passes"),
    [
        (passing(), True),
        (passing(top1_agreement=LEAST_AGREEMENT), True),
        (passing(top1_agreement=math.nextafter(LEAST_AGREEMENT, 0)), False),
        (passing(mean_difference=LARGEST_MEAN_DIFFERENCE), True),
        (passing(mean_difference=math.nextafter(LARGEST_MEAN_DIFFERENCE, 1)), False),
        (passing(top1_agreement=LEAST_AGREEMENT, mean_difference=LARGEST_MEAN_DIFFERENCE), True),
        (passing(largest_difference=1.0), True),
        (passing(top1_agreement=math.nan), False),
        (passing(mean_difference=math.nan), False),
    ],
)
def test_a_check_passes_up_to_its_limits(check: PrecisionCheck, passes: bool) -> None:
    assert check.passes() == passes


def test_a_check_is_plain_numbers() -> None:
    check = PrecisionCheck.compare([probabilities(3)], [probabilities(3, seed=1)])
    assert [type(value) for value in asdict(check).values()] == [int, float, float, float]


def test_the_best_precision_of_an_unknown_device_is_float32() -> None:
    assert best_precision(torch.device("meta")) == torch.float32
    assert best_precision(torch.device("cpu")) in (torch.float32, torch.bfloat16)
