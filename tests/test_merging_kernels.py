from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detect import merging_kernels
from detect.merging_kernels import find_candidates, keep_best, vote

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(FLOATS, max_size=300))
def test_keys_sort_scores_from_the_best_and_leave_equal_ones_as_they_are(
    given: list[float],
) -> None:
    scores = np.array(given, dtype=np.float32)
    order = merging_kernels._sort(merging_kernels._as_keys(scores))
    assert order.tolist() == np.argsort(-scores, kind="stable").tolist()


def test_the_ends_of_the_range_of_scores_are_sorted() -> None:
    largest, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    scores = np.array([0, -least, -0.0, least, -largest, largest, 0], dtype=np.float32)
    order = merging_kernels._sort(merging_kernels._as_keys(scores))
    assert order.tolist() == [5, 3, 0, 2, 6, 1, 4]


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=300), st.integers(0, 310))
def test_a_bound_lets_pass_at_least_the_share_and_parts_no_tie(
    given: list[float], share: int
) -> None:
    scores = np.array(given, dtype=np.float32)
    keys = merging_kernels._as_keys(scores)
    passed = keys < merging_kernels._bound(keys, share)
    assert passed.sum() >= min(share, len(scores))
    assert passed.all() or scores[passed].min(initial=np.inf) > scores[~passed].max()


def test_a_bound_leaves_most_of_many_candidates_out() -> None:
    scores = np.random.default_rng(0).random(100_000, dtype=np.float32)
    keys = merging_kernels._as_keys(scores)
    assert (keys < merging_kernels._bound(keys, 800)).sum() < 1600


def unit_boxes(n: int) -> NDArray[np.float32]:
    """Boxes of a pixel side by side, ``[n, 1, 4]``."""
    left = np.arange(n, dtype=np.float32)
    return np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1)[:, None]


def test_candidates_are_listed_by_class_then_by_box() -> None:
    boxes = unit_boxes(4)
    boxes[2, 0, 3] = 0  # no area
    scores = np.array([[0.5, 0, 0.1], [0.2, 0, 0.3], [0.9, 0, 0.9], [0, 0, 0.2]], dtype=np.float32)
    scores = np.concatenate([scores, np.ones((4, 1), dtype=np.float32)], axis=1)
    rows, found, starts = find_candidates(boxes, scores, np.float32(0.2))
    assert rows.tolist() == [0, 1, 1, 3]
    assert found.tolist() == scores[[0, 1, 1, 3], [0, 0, 2, 2]].tolist()
    assert starts.tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("columns", [1, 4])
def test_no_boxes_have_no_candidates_and_keep_nothing(columns: int) -> None:
    boxes = np.zeros((0, 1, 4), dtype=np.float32)
    candidates = find_candidates(boxes, np.zeros((0, columns), dtype=np.float32), np.float32(0))
    assert candidates.starts.tolist() == [0] * columns
    kept = keep_best(boxes, candidates, 0.3, 5, 5)
    assert len(kept) == 0
    assert vote(boxes, candidates, kept, 0.5).shape == (0, 4)


def test_boxes_that_overlap_by_exactly_the_threshold_vote() -> None:
    boxes = np.array([[[0, 0, 10, 10]], [[0, 0, 10, 5]]], dtype=np.float32)  # IoU 0.5
    scores = np.ones((2, 2), dtype=np.float32)
    candidates = find_candidates(boxes, scores, np.float32(0))
    moved = [vote(boxes, candidates, np.array([0]), t)[0, 3] for t in (0.5, np.nextafter(0.5, 1))]
    assert moved == [7.5, 10]


def test_candidates_are_moved_in_the_order_in_which_they_are_given() -> None:
    boxes = unit_boxes(6)
    scores = np.ones((6, 3), dtype=np.float32)
    candidates = find_candidates(boxes, scores, np.float32(0))
    kept = np.array([11, 2, 0, 7, 5, 6])
    expected = boxes[candidates.rows[kept], 0]
    assert np.array_equal(vote(boxes, candidates, kept, 0.5), expected)
