"""How far average precisions would move with other images: percentile bootstrap intervals.

After Efron & Tibshirani, "An Introduction to the Bootstrap", 1993. Images are drawn with
replacement, as many as there are; objects and detections go with their image.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.scoring.matches import Matches
from detect.scoring.weighted import LANES, WeightedCurves


@dataclass(frozen=True)
class Interval:
    """A range that holds a given share of draws."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of the mean AP and of each class's.

    Attributes:
        level: Share of draws inside, 0..1.
        repetitions: Number of draws.
        seed: What makes the draws reproducible.
        mean_ap: Interval of the mean AP, 0..1; ``None`` where no class has an object in any draw.
        classes: Interval of each class's AP over the draws that have objects of it; ``None`` where
            none has, ``[C]``.
    """

    level: float
    repetitions: int
    seed: int
    mean_ap: Interval | None
    classes: tuple[Interval | None, ...]


@dataclass(frozen=True)
class Difference:
    """What the first of two detectors has over the second.

    Attributes:
        value: AP of the first minus AP of the second on all images, -1..1.
        interval: Interval of this difference over the draws.
        first_better: Share of draws in which the first has the larger AP, 0..1; draws with equal
            APs are not among them.
    """

    value: float
    interval: Interval
    first_better: float


def bootstrap_intervals(
    matches: Matches,
    *,
    repetitions: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    threads: int | None = None,
    on_progress: Callable[[], object] = lambda: None,
) -> Intervals:
    """Return percentile intervals of average precisions over images drawn with replacement.

    A class without objects in a draw is left out of that draw's mean. Where there are several IoU
    thresholds, a class's AP is its mean over them.

    Args:
        matches: What became of every detection.
        repetitions: Number of draws, from 1.
        seed: What makes the draws reproducible, from 0; the number of threads changes nothing.
        level: Share of draws inside the intervals, above 0 and below 1.
        threads: Threads that score draws, by default one a core.
        on_progress: Called after each draw.

    Raises:
        ValueError: If repetitions or level is out of its range.
    """
    _check(repetitions, level)
    curves = [WeightedCurves.of(matches)]
    (aps,) = _draw(curves, matches.truth.num_images, repetitions, seed, threads, on_progress)
    mean, *classes = (_interval(column, level) for column in _with_means(aps).T)
    return Intervals(level, repetitions, seed, mean, tuple(classes))


def bootstrap_differences(
    first: Matches,
    second: Matches,
    *,
    repetitions: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    threads: int | None = None,
    on_progress: Callable[[], object] = lambda: None,
) -> tuple[Difference | None, tuple[Difference | None, ...]]:
    """Compare two detectors on the same images, drawn together.

    Args:
        first: What became of the first one's detections.
        second: What became of the second one's, on the same images and classes.
        repetitions: Number of draws, from 1.
        seed: What makes the draws reproducible, from 0; the number of threads changes nothing.
        level: Share of draws inside the intervals, above 0 and below 1.
        threads: Threads that score draws, by default one a core.
        on_progress: Called after each draw.

    Returns:
        The difference of the mean APs and of each class's APs, ``[C]``; ``None`` where no draw has
        an object to be found.

    Raises:
        ValueError: If images or classes differ, or repetitions or level is out of its range.
    """
    _check(repetitions, level)
    for what, one, other in (
        ("images", first.truth.names, second.truth.names),
        ("classes", first.class_names, second.class_names),
    ):
        if one != other:
            raise ValueError(
                f"the two have different {what} ({len(one)} and {len(other)}): only detectors "
                "scored on the same images and classes, in the same order, can be compared"
            )
    curves = [WeightedCurves.of(matches) for matches in (first, second)]
    num_images = first.truth.num_images
    once = np.ones((num_images, LANES), dtype=np.uint8)
    on_all = [_with_means(of_one.average_precisions(once)[:1]) for of_one in curves]  # [1, 1 + C]
    drawn = _draw(curves, num_images, repetitions, seed, threads, on_progress)
    in_draws = [_with_means(aps) for aps in drawn]  # [R, 1 + C]
    columns = zip((on_all[0] - on_all[1])[0], (in_draws[0] - in_draws[1]).T, strict=True)
    mean, *classes = (_difference(float(value), draws, level) for value, draws in columns)
    return mean, tuple(classes)


def _check(repetitions: int, level: float) -> None:
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}: draw at least once")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")


def _draw(
    curves: list[WeightedCurves],
    num_images: int,
    repetitions: int,
    seed: int,
    threads: int | None,
    on_progress: Callable[[], object],
) -> list[NDArray[np.float64]]:
    """Score the same draws for each detector, ``[R, C]`` each, NaN where no object was drawn."""

    def score(start: int) -> list[NDArray[np.float64]]:
        weights = np.zeros((num_images, LANES), dtype=np.uint8)
        for lane in range(min(LANES, repetitions - start)):
            weights[:, lane] = _weights(num_images, seed, start + lane)
        return [of_one.average_precisions(weights) for of_one in curves]

    blocks = []
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        starts = range(0, repetitions, LANES)
        for start, block in zip(starts, pool.map(score, starts), strict=True):
            blocks.append(block)
            for _ in range(start, min(start + LANES, repetitions)):
                on_progress()
    finally:
        pool.shutdown(cancel_futures=True)
    return [np.concatenate(of_one)[:repetitions] for of_one in zip(*blocks, strict=True)]


def _weights(num_images: int, seed: int, repetition: int) -> NDArray[np.intp]:
    """Return how often each image is drawn, ``[I]``.

    A byte holds that: with more than 255 images, one comes so often with odds below 1e-500.
    """
    if num_images == 0:
        return np.zeros(0, dtype=np.intp)
    images = np.random.default_rng((seed, repetition)).integers(num_images, size=num_images)
    return np.bincount(images, minlength=num_images)


def _with_means(aps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put each draw's mean over its classes with objects first, ``[R, C]`` -> ``[R, 1 + C]``."""
    defined = ~np.isnan(aps)
    counts = defined.sum(axis=1)
    sums = np.where(defined, aps, 0.0).sum(axis=1)
    means = np.divide(sums, counts, out=np.full(len(aps), np.nan), where=counts > 0)
    return np.column_stack([means, aps])


def _interval(draws: NDArray[np.float64], level: float) -> Interval | None:
    """Return the middle ``level`` of the draws that are defined, ``[R]``."""
    draws = draws[~np.isnan(draws)]
    if len(draws) == 0:
        return None
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _difference(value: float, draws: NDArray[np.float64], level: float) -> Difference | None:
    """Sum up the differences on all images and in each draw, ``[R]``."""
    interval = _interval(draws, level)
    if interval is None:
        return None
    return Difference(value, interval, float(np.mean(draws[~np.isnan(draws)] > 0)))
