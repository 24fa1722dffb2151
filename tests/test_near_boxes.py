from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detect.near_boxes import arrange_boxes, find_near, measure_overlaps, reach_of


def overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    result: NDArray[np.float64] = common / ((box[2:] - box[:2]).prod() + areas - common)
    return result


def scene(n: int, seed: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Make boxes of all sizes, ``[n, 4]``, half of them copies that were stretched a little."""
    generator = np.random.default_rng(seed)
    corner = generator.random((n, 2))
    size = np.exp(-5 * generator.random((n, 2)))
    boxes = np.concatenate([corner, corner + size], axis=1)
    copies = boxes[: n // 2]
    boxes[n // 2 : n // 2 + len(copies), 2] += (copies[:, 2] - copies[:, 0]) * generator.random()
    boxes = (boxes * scale + offset).astype(np.float32)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_a_table_holds_each_box_where_it_says(n: int) -> None:
    boxes = scene(n, 0, scale=500, offset=-20)
    rows = np.random.default_rng(1).permutation(len(boxes)).astype(np.int32)
    table, places = arrange_boxes(boxes, rows)
    assert sorted(places) == list(range(n))
    assert np.array_equal(table.corners[:4, places].T, boxes[rows].astype(np.float64))
    sums = table.corners[0] + table.corners[2]
    bins = np.repeat(np.arange(len(table.starts) - 1), np.diff(table.starts))
    for number in range(1, bins.max() + 1):
        assert sums[bins < number].max() <= sums[bins >= number].min()


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.5, 0.7, 0.99, 1.0]),
    scale=st.sampled_from([1e-30, 1.0, 500.0, 1e30]),
    offset=st.sampled_from([0.0, -500.0, 1e7]),
)
def test_all_boxes_with_the_overlap_are_near_and_measured_exactly(
    n: int, seed: int, threshold: float, scale: float, offset: float
) -> None:
    boxes = scene(n, seed, scale, offset)
    if len(boxes) == 0:  # all too small beside their offset
        return
    table, places = arrange_boxes(boxes, np.arange(len(boxes), dtype=np.int32))
    iou = np.empty(len(boxes))
    for i in range(len(boxes)):
        expected = overlaps(boxes[i].astype(np.float64), boxes.astype(np.float64))
        first, last = find_near(table, places[i], reach_of(threshold))
        near = (places >= first) & (places < last)
        assert near[i]
        assert not (expected[~near] >= threshold).any()
        measure_overlaps(table.corners, places[i], first, iou[: last - first])
        assert np.array_equal(iou[places[near] - first], expected[near])


def test_the_reach_is_used_up_by_the_most_distant_boxes() -> None:
    inside = np.array([[0, 0, 30, 1], [20, 0, 30, 1]], dtype=np.float32)  # IoU 1/3
    table, places = arrange_boxes(inside, np.arange(2, dtype=np.int32))
    assert find_near(table, places[1], reach_of(1 / 3)) == (0, 2)
    assert find_near(table, places[1], reach_of(0.35)) == (1, 2)


def test_few_of_many_small_boxes_are_near() -> None:
    left = np.arange(1000, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1)
    table, places = arrange_boxes(boxes, np.arange(1000, dtype=np.int32))
    first, last = find_near(table, places[500], reach_of(0.5))
    assert last - first < 30
