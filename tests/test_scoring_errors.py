from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.scoring.average_precision import (
    COCO_RECALLS,
    ELEVEN_RECALLS,
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    Rule,
)
from detect.scoring.errors import (
    BACKGROUND,
    BACKGROUND_THRESHOLD,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    ERRORS,
    LOCALISATION,
    analyse_errors,
)
from detect.scoring.matches import Matches
from detect.scoring.tables import GroundTruth, ScoredBoxes

Box = tuple[float, float, float, float]  # 1-based inclusive
Object = tuple[int, int, Box]  # image, label, box
Detection = tuple[int, int, float, Box]  # image, label, score, box
RULES: tuple[Rule, ...] = ("area", "11 points", "101 points")
EMPTY = {  # images, objects, detections
    "no images": (0, 0, 0),
    "no objects": (3, 0, 12),
    "no detections": (3, 5, 0),
    "neither": (3, 0, 0),
}


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
    shared = max(0, width) * max(0, height)
    return shared / (sum(areas) - shared)


def judge(
    truth: GroundTruth, found: ScoredBoxes, thresholds: np.ndarray, num_classes: int, rule: Rule
) -> Matches:
    """Give objects to detections, as slowly as obvious: the best overlapped one not yet taken."""
    found = found[np.lexsort((-found.scores, found.labels))]
    outcomes = np.full((len(thresholds), len(found)), FALSE_POSITIVE, dtype=np.int8)
    objects = np.full((len(thresholds), len(found)), -1, dtype=np.int32)
    for t, of_threshold in enumerate(thresholds):
        taken: set[int] = set()
        for i in range(len(found)):
            reached = [
                (not truth.ignored[j], overlap(found.corners[i], truth.corners[j]), -j)
                for j in np.flatnonzero(truth.images == found.images[i])
                if truth.labels[j] == found.labels[i]
                and j not in taken
                and overlap(found.corners[i], truth.corners[j]) >= of_threshold[j]
            ]
            if reached:
                counts, _, minus_j = max(reached)
                objects[t, i] = -minus_j
                outcomes[t, i] = TRUE_POSITIVE if counts else IGNORED
                if counts:
                    taken.add(-minus_j)
    names = tuple(f"class {label}" for label in range(num_classes))
    return Matches(rule, names, found, truth, outcomes, objects, ~truth.ignored, thresholds)


def random_tables(
    seed: int, images: int = 4, objects: int = 14, detections: int = 40, num_classes: int = 3
) -> tuple[GroundTruth, ScoredBoxes]:
    """Draw objects, and detections on and off them; scores repeat."""
    rng = np.random.default_rng(seed)
    sides = rng.choice([3, 12, 40, 110], size=(objects, 1)) + rng.integers(0, 9, (objects, 2))
    at = rng.integers(1, 60, (objects, 2)).astype(float)
    truth = GroundTruth(
        names=tuple(f"image {i}" for i in range(images)),
        image_ids=np.arange(1, images + 1),
        sizes=np.zeros((images, 2), dtype=np.int64),
        images=np.sort(rng.integers(0, max(1, images), objects)).astype(np.int32),
        labels=rng.integers(0, num_classes, objects).astype(np.int32),
        corners=np.concatenate([at, at + sides - 1], axis=1),
        ignored=rng.random(objects) < 0.15,
    )
    about = rng.integers(0, max(1, objects), detections)
    moved = rng.integers(-8, 9, (detections, 4)) * rng.integers(0, 2, (detections, 1))
    wrong = rng.random(detections) < rng.random()
    if objects:
        corners = truth.corners[about] + moved
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
        labels = np.where(wrong, rng.integers(0, num_classes, detections), truth.labels[about])
        where = truth.images[about]
    else:
        corners = np.tile([1.0, 1.0, 20.0, 30.0], (detections, 1))
        labels = rng.integers(0, num_classes, detections)
        where = rng.integers(0, max(1, images), detections)
    scores = rng.integers(0, 20, detections) / 20
    return truth, ScoredBoxes(where.astype(np.int32), labels.astype(np.int32), scores, corners)


def random_matches(seed: int, rule: Rule = "area", *, levels: int = 1, **counts: int) -> Matches:
    truth, found = random_tables(seed, **counts)
    thresholds = np.linspace(0.5, 0.8, levels)[:, None] * np.ones(len(truth.labels))
    sides = truth.corners[:, 2:] - truth.corners[:, :2] + 1
    relaxed = np.prod(sides, axis=1) / np.prod(sides + 10, axis=1)  # as ILSVRC does
    return judge(truth, found, np.minimum(thresholds, relaxed), 3, rule)


def matches_of(
    objects: list[Object], detections: list[Detection], num_classes: int = 2, images: int = 1
) -> Matches:
    """Judge a hand-made data set at IoU 0.5 by the area under the curve."""
    truth = GroundTruth(
        names=tuple(f"image {i}" for i in range(images)),
        image_ids=np.arange(images),
        sizes=np.zeros((images, 2), dtype=np.int64),
        images=np.array([image for image, _, _ in objects], dtype=np.int32),
        labels=np.array([label for _, label, _ in objects], dtype=np.int32),
        corners=np.array([box for *_, box in objects], dtype=float).reshape(-1, 4),
        ignored=np.zeros(len(objects), dtype=bool),
    )
    found = ScoredBoxes(
        images=np.array([image for image, *_ in detections], dtype=np.int32),
        labels=np.array([label for _, label, *_ in detections], dtype=np.int32),
        scores=np.array([score for *_, score, _ in detections], dtype=float),
        corners=np.array([box for *_, box in detections], dtype=float).reshape(-1, 4),
    )
    return judge(truth, found, np.full((1, len(objects)), 0.5), num_classes, "area")


def reference_ap(correct: Sequence[bool], positives: int, rule: Rule) -> float:
    """Follow the definitions: the best precision at the same or a higher recall."""
    true = np.cumsum(np.asarray(correct, dtype=float))
    curve = [(t / positives, t / n) for n, t in enumerate(true, start=1)]
    if rule == "area":
        return sum(
            max(p for _, p in curve[i:]) / positives for i, is_true in enumerate(correct) if is_true
        )
    recalls = ELEVEN_RECALLS if rule == "11 points" else COCO_RECALLS
    return math.fsum(max([p for r, p in curve if r >= x], default=0) for x in recalls) / len(
        recalls
    )


# --- kinds


def reference_kinds(matches: Matches) -> list[int]:
    """Follow TIDE's definitions on whole IoU matrices."""
    found, truth = matches.found, matches.truth
    taken = {
        int(j)
        for j, outcome in zip(matches.objects[0], matches.outcomes[0], strict=True)
        if outcome == TRUE_POSITIVE
    }
    kinds = []
    for i, outcome in enumerate(matches.outcomes[0]):
        ious = {
            int(j): overlap(found.corners[i], truth.corners[j])
            for j in np.flatnonzero((truth.images == found.images[i]) & matches.to_find)
        }
        own = {j: iou for j, iou in ious.items() if truth.labels[j] == found.labels[i]}
        reached = {j for j, iou in ious.items() if iou >= matches.iou_thresholds[0, j]}
        if outcome != FALSE_POSITIVE:
            kinds.append(-1)
        elif max(own.values(), default=0) >= BACKGROUND_THRESHOLD and not reached & taken & {*own}:
            kinds.append(LOCALISATION)
        elif reached - {*own}:
            kinds.append(CLASSIFICATION)
        elif reached & taken & {*own}:
            kinds.append(DUPLICATE)
        elif max(ious.values(), default=0) >= BACKGROUND_THRESHOLD:
            kinds.append(BOTH)
        else:
            kinds.append(BACKGROUND)
    return kinds


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_kinds_equal_the_definitions(seed: int) -> None:
    matches = random_matches(seed)
    errors = analyse_errors(matches)
    assert errors.kinds.tolist() == reference_kinds(matches)
    for i, j in enumerate(errors.targets):
        expected = overlap(matches.found.corners[i], matches.truth.corners[j]) if j >= 0 else 0
        assert errors.overlaps[i] == expected
    found = {j for j, o in zip(matches.objects[0], matches.outcomes[0], strict=True) if o == 1}
    blamed = {
        j
        for j, kind in zip(errors.targets, errors.kinds, strict=True)
        if kind in (CLASSIFICATION, LOCALISATION)
    }
    to_find = {*np.flatnonzero(matches.to_find)}
    assert {*np.flatnonzero(errors.unfound)} == to_find - found
    assert {*np.flatnonzero(errors.missed)} == to_find - found - blamed
    assert list(errors.counts) == list(ERRORS)
    assert [errors.counts[name] for name in ERRORS[:5]] == np.bincount(
        errors.kinds[errors.kinds >= 0], minlength=5
    ).tolist()
    assert sum(errors.counts.values()) == np.sum(errors.kinds >= 0) + np.sum(errors.missed)


DOG, CAT = 0, 1
ONE_OF_EACH: list[Detection] = [
    (0, DOG, 0.9, (1, 1, 10, 10)),  # finds object 0
    (0, DOG, 0.8, (1, 1, 10, 10)),  # duplicate
    (0, CAT, 0.7, (1, 1, 10, 10)),  # classification: object 0 is a dog
    (0, DOG, 0.6, (31, 1, 40, 4)),  # localisation: IoU 0.4 with object 1
    (0, CAT, 0.5, (31, 1, 40, 4)),  # both
    (0, DOG, 0.4, (61, 61, 70, 70)),  # background
    (0, DOG, 0.3, (40, 10, 60, 30)),  # background, though it touches object 1
]
TWO_DOGS_AND_A_CAT: list[Object] = [
    (0, DOG, (1, 1, 10, 10)),
    (0, DOG, (31, 1, 40, 10)),
    (0, CAT, (81, 81, 90, 90)),
]


def test_every_kind_is_told_by_hand() -> None:
    matches = matches_of(TWO_DOGS_AND_A_CAT, ONE_OF_EACH)
    errors = analyse_errors(matches)
    by_score = np.argsort(-matches.found.scores)
    names = ["" if kind < 0 else ERRORS[kind] for kind in errors.kinds[by_score]]
    assert names == [
        "",
        "duplicate",
        "classification",
        "localisation",
        "both",
        "background",
        "background",
    ]
    assert errors.targets[by_score].tolist() == [-1, 0, 0, 1, 1, -1, 1]
    np.testing.assert_allclose(
        errors.overlaps[by_score], [0, 1, 1, 0.4, 0.4, 0, 1 / (100 + 21 * 21 - 1)]
    )
    assert errors.unfound.tolist() == [False, True, True]
    assert errors.missed.tolist() == [False, False, True]  # a localisation error is about the dog
    assert errors.counts == {**dict.fromkeys(ERRORS, 1), "background": 2}
    assert errors.confusion.tolist() == [[1, 1], [0, 0]]


def test_a_small_object_keeps_its_own_threshold() -> None:
    matches = matches_of([(0, DOG, (1, 1, 4, 4))], [(0, CAT, 0.5, (1, 1, 8, 8))])  # IoU 0.25
    assert analyse_errors(matches).counts["both"] == 1
    relaxed = replace(matches, iou_thresholds=np.full((1, 1), 16 / 196))  # 4 x 4 pixels in ILSVRC
    assert analyse_errors(relaxed).counts["classification"] == 1


def test_a_false_positive_on_an_object_that_nothing_got_is_no_duplicate() -> None:
    # The protocol saw the IoU a rounding error below the threshold.
    judged = matches_of([(0, DOG, (1, 1, 10, 10))], [(0, DOG, 0.5, (1, 1, 10, 5))])
    refused = replace(
        judged, outcomes=np.zeros((1, 1), np.int8), objects=np.full((1, 1), -1, np.int32)
    )
    errors = analyse_errors(refused)
    assert errors.counts == {**dict.fromkeys(ERRORS, 0), "localisation": 1}
    assert errors.gains["localisation"] == 1.0


def test_objects_that_do_not_count_explain_nothing() -> None:
    matches = matches_of([(0, DOG, (1, 1, 9, 9))], [(0, CAT, 0.5, (1, 1, 9, 9))])
    errors = analyse_errors(replace(matches, to_find=np.zeros(1, dtype=bool)))
    assert errors.counts == {**dict.fromkeys(ERRORS, 0), "background": 1}
    assert errors.targets.tolist() == [-1]


# --- gains


def reference_gains(matches: Matches) -> dict[str, float]:
    """Fix each kind in lists of ``(score, order, outcome)`` per class."""
    errors = analyse_errors(matches)
    found, truth = matches.found, matches.truth
    numbers = np.arange(len(found))

    def mean_ap(fix: dict[int, tuple[int, bool] | None], off_the_list: np.ndarray) -> float | None:
        lists: list[list[tuple[float, float, bool]]] = [[] for _ in range(matches.num_classes)]
        for i in numbers[matches.outcomes[0] != IGNORED]:
            label, is_true = found.labels[i], matches.outcomes[0, i] == TRUE_POSITIVE
            if i in fix:
                fixed = fix[i]
                if fixed is None:
                    continue
                label, is_true = fixed
            moved = math.inf if label != found.labels[i] else 0  # newcomers after equal scores
            lists[label].append((-found.scores[i], moved + i, bool(is_true)))
        aps = []
        for label, entries in enumerate(lists):
            own = matches.to_find & ~off_the_list & (truth.labels == label)
            if own.any():
                correct = [is_true for *_, is_true in sorted(entries)]
                aps.append(reference_ap(correct, int(own.sum()), matches.rule))
        return sum(aps) / len(aps) if aps else None

    def fixes(kind: int) -> dict[int, tuple[int, bool] | None]:
        result: dict[int, tuple[int, bool] | None] = {}
        done: set[int] = set()
        mine = numbers[errors.kinds == kind]
        for i in sorted(mine, key=lambda i: -found.scores[i]):
            j = int(errors.targets[i])
            result[i] = None
            if kind in (CLASSIFICATION, LOCALISATION) and errors.unfound[j] and j not in done:
                result[i] = int(truth.labels[j]), True
                done.add(j)
        return result

    nobody = np.zeros(len(truth.labels), dtype=bool)
    false = {int(i): None for i in numbers[matches.outcomes[0] == FALSE_POSITIVE]}
    after = {
        **{ERRORS[kind]: mean_ap(fixes(kind), nobody) for kind in range(5)},
        "missed": mean_ap({}, errors.missed),
        "false positives": mean_ap({**false}, nobody),
        "false negatives": mean_ap({}, errors.unfound),
    }
    before = mean_ap({}, nobody)
    if before is None:
        return dict.fromkeys(after, 0.0)
    return {name: (1 if ap is None else ap) - before for name, ap in after.items()}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_gains_equal_fixing_by_hand(rule: Rule, seed: int) -> None:
    matches = random_matches(seed, rule)
    gains, expected = analyse_errors(matches).gains, reference_gains(matches)
    assert list(gains) == [*ERRORS, "false positives", "false negatives"] == list(expected)
    np.testing.assert_allclose(list(gains.values()), list(expected.values()), atol=1e-12)
    assert min(gains.values()) > -1e-12  # no fix makes anything worse


def test_gains_of_a_small_example() -> None:
    gains = analyse_errors(matches_of(TWO_DOGS_AND_A_CAT, ONE_OF_EACH)).gains
    # Dogs: found, duplicate, localisation, background, background: AP 1/2. Cats: AP 0. Mean 1/4.
    expected = {
        "classification": 0,  # its dog was found, it is only removed
        "localisation": (0.5 + 0.5 * 2 / 3) / 2 - 1 / 4,  # the second dog comes third
        "both": 0,
        "duplicate": 0,
        "background": 0,
        "missed": 0.5 - 1 / 4,  # no cat is left to find: the mean is that of the dogs
        "false positives": 0,
        "false negatives": 1 - 1 / 4,
    }
    assert gains == pytest.approx(expected, abs=1e-15)


def test_the_best_classification_error_on_an_object_becomes_its_true_positive() -> None:
    detections = [
        (0, DOG, 0.8, (50.0, 50.0, 60.0, 60.0)),
        (0, CAT, 0.7, (1.0, 1.0, 10.0, 10.0)),
        (0, CAT, 0.9, (1.0, 1.0, 10.0, 10.0)),
    ]
    errors = analyse_errors(matches_of([(0, DOG, (1, 1, 10, 10))], detections))
    assert errors.counts["classification"] == 2
    assert errors.gains["classification"] == 1.0  # with 0.9 it comes before the dog of 0.8


def test_nothing_found_at_all_is_lost_by_missed_objects() -> None:
    gains = analyse_errors(matches_of(TWO_DOGS_AND_A_CAT, [])).gains
    assert gains["missed"] == gains["false negatives"] == 1.0
    assert gains["false positives"] == gains["both"] == 0.0


# --- the rest


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_confusion_counts_true_positives_and_classification_errors(seed: int) -> None:
    matches = random_matches(seed)
    errors = analyse_errors(matches)
    true = matches.found.labels[matches.outcomes[0] == TRUE_POSITIVE]
    assert np.diag(errors.confusion).tolist() == np.bincount(true, minlength=3).tolist()
    assert errors.confusion.sum() == len(true) + errors.counts["classification"]
    confused = matches.found.labels[errors.kinds == CLASSIFICATION]
    columns = (errors.confusion - np.diag(np.diag(errors.confusion))).sum(axis=0)
    assert columns.tolist() == np.bincount(confused, minlength=3).tolist()


@pytest.mark.parametrize("counts", EMPTY.values(), ids=EMPTY)
def test_errors_of_nothing(counts: tuple[int, int, int]) -> None:
    images, objects, detections = counts
    matches = random_matches(1, images=images, objects=objects, detections=detections)
    errors = analyse_errors(matches)
    assert errors.kinds.shape == errors.targets.shape == errors.overlaps.shape == (detections,)
    assert errors.missed.tolist() == errors.unfound.tolist() == matches.to_find.tolist()
    assert errors.counts["background"] == detections
    assert errors.counts["missed"] == np.sum(matches.to_find)
    assert errors.confusion.tolist() == [[0] * 3] * 3
    nothing_found = 1.0 if objects else 0.0
    assert errors.gains["missed"] == errors.gains["false negatives"] == nothing_found
    assert errors.gains["false positives"] == 0.0


def test_only_the_first_threshold_is_looked_at() -> None:
    several = random_matches(3, levels=4)
    first = replace(
        several,
        outcomes=several.outcomes[:1],
        objects=several.objects[:1],
        iou_thresholds=several.iou_thresholds[:1],
    )
    assert analyse_errors(several).gains == analyse_errors(first).gains
    assert analyse_errors(several).kinds.tolist() == analyse_errors(first).kinds.tolist()


def test_progress_is_told_for_each_gain() -> None:
    told = []
    analyse_errors(random_matches(0), on_progress=lambda: told.append(1))
    assert len(told) == 8
