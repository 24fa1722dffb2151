from __future__ import annotations

import itertools

import pytest
import torch

from detect.schedules import SCHEDULES, PolyakAverage, learning_rate_factor


def factors(schedule: str, steps: int = 100, warmup: int = 10) -> list[float]:
    settings = {"steps": steps, "warmup_steps": warmup, "steps_per_epoch": 5}
    return [learning_rate_factor(i, schedule=schedule, **settings) for i in range(steps + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_rises_to_one_and_never_rises_again(schedule: str) -> None:
    rates = factors(schedule)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_the_cosine_ends_at_zero_and_the_steps_at_a_tenth() -> None:
    assert factors("cosine")[-1] == pytest.approx(0)
    assert factors("cosine")[55] == pytest.approx(0.5)
    assert factors("steps")[65:68] == [1.0, 1.0, 0.1]


def test_the_papers_schedule_loses_four_percent_every_eight_epochs() -> None:
    rates = factors("exponential", warmup=0)
    assert rates[39] == 1.0
    assert rates[40] == pytest.approx(0.96)  # 8 epochs of 5 steps
    assert rates[80] == pytest.approx(0.96**2)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule=linear: choose one of cosine"):
        factors("linear", warmup=0)


def test_the_average_of_a_constant_is_the_constant() -> None:
    parameter = torch.full((3,), 2.0)
    average = PolyakAverage([parameter], decay=0.9)
    for step in range(5):
        average.update([parameter], step)
    torch.testing.assert_close(average.values[0], parameter)
    average.update([parameter * 2], 1000)
    torch.testing.assert_close(average.values[0], torch.full((3,), 2.2))
