from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.scoring.average_precision import TRUE_POSITIVE, Rule, average_precision
from detect.scoring.bootstrap import Interval, Intervals, bootstrap_differences, bootstrap_intervals
from detect.scoring.matches import Matches
from detect.scoring.tables import GroundTruth, ScoredBoxes
from detect.scoring.weighted import LANES, WeightedCurves
from tests.conftest import ROOT
from tests.test_scoring_errors import EMPTY, RULES, judge, matches_of, random_matches


def replicate(matches: Matches, counts: np.ndarray) -> Matches:
    """Make the data set in which each image stands that often, and judge it anew."""
    truth, found = matches.truth, matches.found
    first = np.concatenate([[0], np.cumsum(counts)])
    copies = [(i, first[i] + copy) for i, count in enumerate(counts) for copy in range(count)]
    objects = [np.flatnonzero(truth.images == i) for i, _ in copies]
    chosen = np.concatenate([np.zeros(0, dtype=int), *objects])
    repeated = np.repeat(np.arange(len(found)), counts[found.images])
    nth = np.arange(len(repeated)) - np.searchsorted(repeated, repeated)  # which copy
    copied_truth = GroundTruth(
        names=tuple(f"{truth.names[i]} as {copy}" for i, copy in copies),
        image_ids=np.arange(len(copies)),
        sizes=np.zeros((len(copies), 2), dtype=np.int64),
        images=np.repeat(np.arange(len(copies)), [len(of_one) for of_one in objects]).astype("i4"),
        labels=truth.labels[chosen],
        corners=truth.corners[chosen],
        ignored=truth.ignored[chosen],
    )
    copied = ScoredBoxes(
        images=(first[found.images[repeated]] + nth).astype(np.int32),
        labels=found.labels[repeated],
        scores=found.scores[repeated],
        corners=found.corners[repeated],
    )
    thresholds = matches.iou_thresholds[:, chosen]
    return judge(copied_truth, copied, thresholds, matches.num_classes, matches.rule)


def class_aps(matches: Matches) -> list[float]:
    """Return each class's AP, NaN without objects, straight from its definition."""
    aps = []
    for label, positives in enumerate(matches.positives):
        own = matches.outcomes[:, matches.found.labels == label]
        aps.append(
            math.fsum(average_precision(o, int(positives), matches.rule) for o in own) / len(own)
            if positives
            else math.nan
        )
    return aps


def mean_ap(aps: list[float]) -> float:
    defined = [ap for ap in aps if not math.isnan(ap)]
    return sum(defined) / len(defined) if defined else math.nan


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    levels=st.integers(1, 3),
    counts=st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_a_weight_equals_as_many_copies_of_the_image(
    rule: Rule, seed: int, levels: int, counts: list[int]
) -> None:
    matches = random_matches(seed, rule, levels=levels)
    weights = np.zeros((4, LANES), dtype=np.uint8)
    weights[:, 3] = counts
    aps = WeightedCurves.of(matches).average_precisions(weights)
    expected = class_aps(replicate(matches, np.array(counts)))
    np.testing.assert_allclose(aps[3], expected, atol=1e-12)
    assert np.isnan(np.delete(aps, 3, axis=0)).all()  # nothing was drawn in the other lanes


@pytest.mark.parametrize("rule", RULES)
def test_intervals_equal_those_of_copied_data_sets(rule: Rule) -> None:
    matches = random_matches(5, rule, levels=2, images=6)
    aps = []
    for repetition in range(20):  # more than are scored at a time
        images = np.random.default_rng((7, repetition)).integers(6, size=6)
        aps.append(class_aps(replicate(matches, np.bincount(images, minlength=6))))
    means = [mean_ap(of_draw) for of_draw in aps]
    intervals = bootstrap_intervals(matches, repetitions=20, seed=7, level=0.8)
    assert (intervals.level, intervals.repetitions, intervals.seed) == (0.8, 20, 7)
    expected = [np.nanquantile(column, [0.1, 0.9]) for column in [means, *np.transpose(aps)]]
    for interval, (low, high) in zip(
        [intervals.mean_ap, *intervals.classes], expected, strict=True
    ):
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_the_interval_of_a_recall_is_binomial() -> None:
    # 400 images of one object each, half of them found, nothing else: AP is the recall, and its
    # standard error sqrt(0.5 * 0.5 / 400) = 0.025.
    box = (1.0, 1.0, 9.0, 9.0)
    matches = matches_of(
        [(i, 0, box) for i in range(400)], [(i, 0, 0.5, box) for i in range(200)], images=400
    )
    intervals = bootstrap_intervals(matches)
    assert intervals.mean_ap == intervals.classes[0]
    assert intervals.mean_ap is not None
    assert intervals.mean_ap.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert intervals.mean_ap.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_threads_and_blocks_change_nothing() -> None:
    matches = random_matches(2, "101 points", levels=2)
    intervals = bootstrap_intervals(matches, repetitions=50, threads=1)
    assert intervals == bootstrap_intervals(matches, repetitions=50, threads=3)
    assert intervals != bootstrap_intervals(matches, repetitions=50, seed=1)


def test_a_class_without_objects_has_no_interval() -> None:
    matches = matches_of([(0, 0, (1, 1, 9, 9))], [(0, 1, 0.5, (1, 1, 9, 9))])
    assert bootstrap_intervals(matches, repetitions=3).classes == (Interval(0.0, 0.0), None)


def test_a_class_is_left_out_of_draws_without_objects_of_it() -> None:
    # Class 0 is always found; class 1 stands in one image of two, and is never found.
    box = (1.0, 1.0, 9.0, 9.0)
    matches = matches_of(
        [(0, 0, box), (1, 0, box), (1, 1, box)],
        [(0, 0, 0.9, box), (1, 0, 0.9, box)],
        images=2,
    )
    intervals = bootstrap_intervals(matches, repetitions=200, level=0.99)
    assert intervals.classes == (Interval(1.0, 1.0), Interval(0.0, 0.0))
    assert intervals.mean_ap == Interval(0.5, 1.0)


# --- two detectors


def without_some(matches: Matches, share: float = 0.5) -> Matches:
    """Return another detector's matches: some of the detections are gone."""
    keep = np.random.default_rng(0).random(len(matches.found)) >= share
    return replace(
        matches,
        found=matches.found[keep],
        outcomes=matches.outcomes[:, keep],
        objects=matches.objects[:, keep],
    )


def test_differences_are_those_of_the_same_draws() -> None:
    first = random_matches(11, images=6, levels=2)
    second = without_some(first)
    mean, classes = bootstrap_differences(first, second, repetitions=20, seed=3, level=0.8)
    drawn = []
    for repetition in range(20):
        images = np.random.default_rng((3, repetition)).integers(6, size=6)
        weights = np.tile(np.bincount(images, minlength=6)[:, None], LANES).astype(np.uint8)
        pair = [WeightedCurves.of(m).average_precisions(weights)[0] for m in (first, second)]
        drawn.append([mean_ap([*pair[0]]) - mean_ap([*pair[1]]), *(pair[0] - pair[1])])
    whole = [class_aps(m) for m in (first, second)]
    values = [mean_ap(whole[0]) - mean_ap(whole[1]), *np.subtract(*whole)]
    for difference, value, column in zip(
        [mean, *classes], values, np.transpose(drawn), strict=True
    ):
        assert difference is not None
        assert difference.value == pytest.approx(value, abs=1e-12)
        low, high = np.nanquantile(column, [0.1, 0.9])
        interval = difference.interval
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
        defined = column[~np.isnan(column)]
        assert difference.first_better == pytest.approx(np.mean(defined > 0))


def test_a_detector_is_no_better_than_itself() -> None:
    matches = random_matches(4)
    mean, classes = bootstrap_differences(matches, matches, repetitions=30)
    for difference in (mean, *classes):
        assert difference is not None
        assert difference.value == difference.first_better == 0.0
        assert difference.interval == Interval(0.0, 0.0)


def test_a_detector_that_finds_more_is_better_in_nearly_all_draws() -> None:
    box = (1.0, 1.0, 9.0, 9.0)
    first = matches_of(
        [(i, 0, box) for i in range(60)], [(i, 0, 0.5, box) for i in range(60)], images=60
    )
    second = without_some(first)
    mean, _ = bootstrap_differences(first, second, repetitions=100)
    assert mean is not None
    assert mean.value == 1 - np.mean(second.outcomes == TRUE_POSITIVE) * len(second.found) / 60
    assert mean.first_better == 1.0
    assert 0 < mean.interval.low < mean.value < mean.interval.high
    mirrored, _ = bootstrap_differences(second, first, repetitions=100)
    assert mirrored is not None
    assert (mirrored.value, mirrored.first_better) == (-mean.value, 0.0)
    assert mirrored.interval.low == pytest.approx(-mean.interval.high)


def test_detectors_on_other_images_or_classes_are_refused() -> None:
    matches = random_matches(0)
    with pytest.raises(ValueError, match=r"different images \(4 and 5\)"):
        bootstrap_differences(matches, random_matches(0, images=5))
    with pytest.raises(ValueError, match="different classes"):
        bootstrap_differences(matches, replace(matches, class_names=("a", "b", "c")))


# --- limits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("counts", EMPTY.values(), ids=EMPTY)
def test_bootstrap_of_nothing(counts: tuple[int, int, int], rule: Rule) -> None:
    images, objects, detections = counts
    matches = random_matches(1, rule, images=images, objects=objects, detections=detections)
    intervals = bootstrap_intervals(matches, repetitions=4)
    mean, classes = bootstrap_differences(matches, matches, repetitions=4)
    expected = tuple(Interval(0.0, 0.0) if n else None for n in matches.positives)
    assert intervals == Intervals(0.95, 4, 0, Interval(0, 0) if objects else None, expected)
    assert (mean is not None) == bool(objects)
    assert [difference is not None for difference in classes] == [bool(n) for n in expected]


def test_bootstrap_without_classes() -> None:
    matches = replace(random_matches(0, objects=0, detections=0), class_names=())
    assert bootstrap_intervals(matches, repetitions=2) == Intervals(0.95, 2, 0, None, ())
    assert bootstrap_differences(matches, matches, repetitions=2) == (None, ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repetitions": 0}, "repetitions is 0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"level": 0}, "level"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, float], message: str) -> None:
    matches = random_matches(0)
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(matches, **wrong)
    with pytest.raises(ValueError, match=message):
        bootstrap_differences(matches, matches, **wrong)


def test_progress_is_told_for_each_draw() -> None:
    told = []
    bootstrap_intervals(
        random_matches(0), repetitions=LANES + 3, on_progress=lambda: told.append(1)
    )
    bootstrap_differences(
        *[random_matches(0)] * 2, repetitions=5, on_progress=lambda: told.append(1)
    )
    assert len(told) == LANES + 3 + 5


def test_torch_is_not_loaded() -> None:
    code = (
        "import detect.scoring.bootstrap, detect.scoring.errors, detect.scoring.groups, sys; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
