from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.scoring.average_precision import FALSE_POSITIVE, TRUE_POSITIVE, Rule
from detect.scoring.groups import CROWDINGS, SIZES, GroupScore, score_groups
from detect.scoring.matches import Matches
from detect.scoring.scores import class_scores
from tests.test_scoring_errors import EMPTY, RULES, matches_of, random_matches, reference_ap


def size_of(corners: np.ndarray) -> str:
    area = (corners[2] - corners[0] + 1) * (corners[3] - corners[1] + 1)
    return "small" if area < 1024 else "medium" if area < 9216 else "large"


def crowding_of(matches: Matches, j: int) -> str:
    truth = matches.truth
    others = sum(
        bool(matches.to_find[k])
        and truth.images[k] == truth.images[j]
        and truth.labels[k] == truth.labels[j]
        for k in range(len(truth.labels))
        if k != j
    )
    return "alone" if others == 0 else "1-3 others" if others < 4 else "4 or more others"


def reference_groups(matches: Matches) -> dict[str, tuple[GroupScore, ...]]:
    """Write down each group's list of detections, class by class and threshold by threshold."""
    truth, found = matches.truth, matches.found
    names = {"size": SIZES, "crowding": CROWDINGS}
    of_object = {
        "size": [size_of(corners) for corners in truth.corners],
        "crowding": [crowding_of(matches, j) for j in range(len(truth.labels))],
    }
    result = {}
    for kind in names:
        scores = []
        for name in names[kind]:
            members = {
                j for j, group in enumerate(of_object[kind]) if group == name and matches.to_find[j]
            }
            aps, num_found = [], 0
            for t in range(len(matches.outcomes)):
                correct: list[list[bool]] = [[] for _ in range(matches.num_classes)]
                for i, outcome in enumerate(matches.outcomes[t]):
                    elsewhere = kind == "size" and size_of(found.corners[i]) != name
                    if outcome == TRUE_POSITIVE and matches.objects[t, i] in members:
                        correct[found.labels[i]].append(True)
                        num_found += t == 0
                    elif outcome == FALSE_POSITIVE and not elsewhere:
                        correct[found.labels[i]].append(False)
                for label, of_class in enumerate(correct):
                    positives = sum(truth.labels[j] == label for j in members)
                    if positives:
                        aps.append(reference_ap(of_class, positives, matches.rule))
            ap = sum(aps) / len(aps) if aps else None
            scores.append(GroupScore(name, ap, len(members), int(num_found)))
        result[kind] = tuple(scores)
    return result


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), levels=st.integers(1, 3), images=st.integers(1, 4))
def test_groups_equal_lists_written_by_hand(
    rule: Rule, seed: int, levels: int, images: int
) -> None:
    matches = random_matches(seed, rule, levels=levels, images=images)
    groups, expected = score_groups(matches), reference_groups(matches)
    assert list(groups) == list(expected) == ["size", "crowding"]
    for kind in groups:
        for score, other in zip(groups[kind], expected[kind], strict=True):
            assert score.ap == pytest.approx(other.ap, abs=1e-12)
            assert replace(score, ap=None) == replace(other, ap=None)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_every_object_is_in_one_group_of_each_kind(seed: int) -> None:
    matches = random_matches(seed, levels=2)
    for scores in score_groups(matches).values():
        assert sum(score.positives for score in scores) == matches.positives.sum()
        assert sum(score.found for score in scores) == np.sum(matches.outcomes[0] == TRUE_POSITIVE)


def test_sizes_part_where_coco_parts_them() -> None:
    boxes = [(1, 1, 31, 33), (1, 1, 32, 32), (1, 1, 95, 97), (1, 1, 96, 96)]  # 1023, 1024, ...
    matches = matches_of([(i, 0, box) for i, box in enumerate(boxes)], [], images=4)
    assert [score.positives for score in score_groups(matches)["size"]] == [1, 2, 1]


def test_crowding_counts_others_of_the_class_in_the_image() -> None:
    objects = [(0, 0, (i, 1, i, 9)) for i in range(5)]
    objects += [(0, 1, (1, 1, 9, 9)), *[(1, 0, (i, 1, i, 9)) for i in range(4)]]
    scores = score_groups(matches_of(objects, [], images=2))["crowding"]
    assert [(score.name, score.positives) for score in scores] == [
        ("alone", 1),
        ("1-3 others", 4),
        ("4 or more others", 5),
    ]


def test_a_group_of_all_objects_and_detections_has_the_ap_of_all() -> None:
    small = [(i, i % 2, (1, 1, 20, 20)) for i in range(6)]
    found = [(i, i % 2, 1 - i / 10, (1, 1, 20, 20 - 4 * (i % 3))) for i in range(6)]
    matches = matches_of(small, [*found, (0, 0, 0.95, (50, 50, 60, 60))], images=6)
    aps = [score.ap for score in class_scores(matches)]
    groups = score_groups(matches)
    assert groups["size"][0].ap == groups["crowding"][0].ap == sum(aps) / 2
    assert groups["size"][1:] == (GroupScore("medium", None, 0, 0), GroupScore("large", None, 0, 0))


def test_a_false_positive_counts_by_its_own_size() -> None:
    small, large = (1.0, 1.0, 20.0, 20.0), (201.0, 201.0, 400.0, 400.0)
    objects = [(0, 0, small), (0, 0, large)]
    detections = [(0, 0, 0.9, (501, 1, 700, 200)), (0, 0, 0.8, small), (0, 0, 0.7, large)]
    scores = score_groups(matches_of(objects, detections))["size"]
    assert [score.ap for score in scores] == [1.0, None, 0.5]


@pytest.mark.parametrize("counts", EMPTY.values(), ids=EMPTY)
def test_groups_of_nothing(counts: tuple[int, int, int]) -> None:
    images, objects, detections = counts
    matches = random_matches(1, images=images, objects=objects, detections=detections)
    for scores in score_groups(matches).values():
        for score in scores:
            assert score.found == 0
            assert score.ap == (0.0 if score.positives else None)
        assert sum(score.positives for score in scores) == matches.to_find.sum()
