from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from proposals import ranking
from proposals.evidence import FEATURES, Evidence, boundaries, describe, gather
from proposals.grouping import Hierarchy, group
from proposals.neighbours import Neighbours, find_neighbours
from proposals.regions import measure
from proposals.segmentation import edge_weights, segment
from proposals.similarity import compare
from proposals.texture import texture_codes
from proposals.votes import _AGREEMENT, count_votes

WIDTH, HEIGHT = 60, 45


def search(
    seed: int = 0, scales: tuple[tuple[int, int], ...] = ((30, 5), (80, 9))
) -> tuple[list[Hierarchy], list[Neighbours], list[NDArray[np.int32]], NDArray[np.uint16]]:
    """Build hierarchies of noise with two bright rectangles; also labels and edge weights."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[8:30, 10:30] += 60
    image[20:40, 35:60, 1] += 90
    weights = edge_weights(image.astype(np.float32))
    codes = texture_codes(image)
    hierarchies, neighbours, segments = [], [], []
    for labels in segment(weights, scales).maps():
        count = int(labels.max()) + 1
        touching = find_neighbours(labels, count, weights)
        regions = measure(labels, count, image, codes)
        for terms in ([1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]):
            pairs = compare(regions, touching.pairs)
            hierarchies.append(group(regions, pairs, np.array(terms, dtype=np.float64)))
            neighbours.append(touching)
            segments.append(labels)
    return hierarchies, neighbours, segments, weights


def describe_all(
    hierarchies: list[Hierarchy], neighbours: list[Neighbours], min_side: int = 1
) -> list[Evidence]:
    both = zip(hierarchies, neighbours, strict=True)
    return [describe(h, n, WIDTH, HEIGHT, min_side) for h, n in both]


def slow_edges(
    one: NDArray[np.bool_], other: NDArray[np.bool_], weights: NDArray[np.uint16]
) -> tuple[int, int]:
    """Count and add up the edges between two masks."""
    length = total = 0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for direction, (v, u) in enumerate(((y, x + 1), (y + 1, x))):
                if v < HEIGHT and u < WIDTH:
                    a, b = (one[y, x], other[v, u]), (other[y, x], one[v, u])
                    if all(a) or all(b):
                        length += 1
                        total += int(weights[y, x, direction])
    return length, total


def iou(a: Any, b: Any) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(common / (areas[0] + areas[1] - common))


def test_boundaries_equal_those_of_masks() -> None:
    hierarchies, neighbours, segments, weights = search(scales=((80, 40),))
    hierarchy, labels = hierarchies[0], segments[0]
    length, contrast, inner, inner_contrast = boundaries(hierarchy.parents, neighbours[0])
    count = int(labels.max()) + 1
    masks = [labels == i for i in range(count)]
    assert count >= 4
    for i in range(count, 2 * count - 1):
        masks.append(np.any([masks[j] for j in np.flatnonzero(hierarchy.parents == i)], axis=0))
    for i, mask in enumerate(masks):
        assert hierarchy.sizes[i] == mask.sum()
        assert (length[i], contrast[i]) == slow_edges(mask, ~mask, weights)
        if i >= count:
            a, b = (masks[j] for j in np.flatnonzero(hierarchy.parents == i))
            assert (inner[i], inner_contrast[i]) == slow_edges(a, b, weights)
        else:
            assert inner[i] == inner_contrast[i] == 0


def test_votes_count_hierarchies_with_nearly_the_same_box() -> None:
    hierarchies, neighbours, _, _ = search()
    boxes, regions, _ = gather(describe_all(hierarchies, neighbours), WIDTH, HEIGHT)
    ends = np.cumsum([len(h.sizes) for h in hierarchies])
    holders = [sum((h.boxes == box).all(axis=1).any() for h in hierarchies) for box in boxes]
    votes = count_votes(boxes, regions, ends)
    assert votes[:, 2].tolist() == holders
    for box, of_box in zip(boxes, votes, strict=True):
        overlaps = [iou(box.astype(float), other.astype(float)) for other in boxes]
        for level, found in zip(_AGREEMENT, of_box, strict=False):
            expected = sum(n for n, o in zip(holders, overlaps, strict=True) if o >= level)
            assert found == expected


@pytest.mark.parametrize("size", [6, 40, 1000])
def test_votes_of_many_boxes_equal_those_of_all_pairs(size: int) -> None:
    rng = np.random.default_rng(size)
    centres = rng.integers(0, size, (60, 4)).repeat(20, axis=0)  # many nearly the same
    corners = np.clip(centres + rng.integers(-size // 20, size // 20 + 2, centres.shape), 0, size)
    one, other = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([np.minimum(one, other), np.maximum(one, other) + 1], axis=1)
    boxes = np.unique(boxes, axis=0).astype(np.int32)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    boxes, areas = boxes[np.argsort(areas)], np.sort(areas).astype(np.float32)
    low = np.maximum(boxes[:, None, :2], boxes[:, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=2).astype(np.float32)
    overlaps = common / (areas[:, None] + areas - common)
    found = count_votes(boxes, np.arange(len(boxes)), np.array([len(boxes)]))
    for column, level in enumerate(_AGREEMENT):
        expected = (overlaps >= np.float32(level)).sum(axis=1)
        np.testing.assert_array_equal(found[:, column], expected)
    assert (found[:, 0] > found[:, 1]).any()


def test_features_of_a_small_hierarchy_are_what_their_names_say() -> None:
    # Left and right half of a 4 x 2 image, divided by two edges of weight 30.
    hierarchy = Hierarchy(
        np.array([[0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 4, 2]], dtype=np.int32),
        np.array([4, 4, 8]),
        np.array([2, 2, -1], dtype=np.int32),
        np.array([4.0, 4.0, 2.0]),
    )
    touching = Neighbours(
        np.array([[0, 1]]), np.array([2], dtype=np.int32), np.array([60], dtype=np.int64)
    )
    boxes, regions, features = gather([describe(hierarchy, touching, 4, 2, 1)], 4, 2)
    assert boxes[regions].tolist() == hierarchy.boxes.tolist()
    left = dict(zip(FEATURES, features[0].tolist(), strict=True))
    whole = dict(zip(FEATURES, features[2].tolist(), strict=True))
    assert left["log area"] == left["log region area"] == pytest.approx(np.log(0.5))
    assert left["log aspect"] == left["elongation"] == left["log leaves"] == 0
    assert (left["width"], left["height"], left["borders"]) == (0.5, 1, 3)
    assert left["border share"] == 0.75
    assert left["log size to sibling"] == 0
    assert (left["area in parent"], left["child in area"], whole["child in area"]) == (0.5, 0, 0.5)
    assert left["outer contrast"] == pytest.approx(0)  # 61 / 3, as everywhere in the image
    assert left["boundary length"] == 1
    assert (left["rank"], whole["rank"]) == (1, pytest.approx(1 / 3))
    assert left["votes 0.7"] == left["votes 1.0"] == 0
    assert whole["log leaves"] == pytest.approx(np.log(2))


def slow_spread(boxes: NDArray[np.int32], units: NDArray[np.int32]) -> list[int]:
    left = dict(enumerate(units.tolist()))
    order = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        del left[best]
        order.append(best)
        if len(order) <= ranking._HEAD:
            for i in left:
                over = np.float32(iou(*boxes[[i, best]].astype(np.float32)))
                repeated = max(over - np.float32(ranking._OVERLAP), np.float32(0))
                left[i] -= int(repeated * np.float32(ranking._REPETITION * ranking._UNITS))
    return order


@pytest.mark.parametrize("head", [3, 50, 1000])
@pytest.mark.parametrize("count", [1, 2, 64, 65, 200])
def test_spreading_is_greedy_and_ties_go_to_the_first(
    count: int, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(count)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.hstack([corner, corner + rng.integers(1, 25, (count, 2))]).astype(np.int32)
    sides = boxes[:, 2:] - boxes[:, :2]
    boxes = boxes[np.argsort(sides.prod(axis=1), kind="stable")]
    units = rng.integers(-4, 1, count).astype(np.int32) * 20000
    monkeypatch.setattr(ranking, "_HEAD", head)
    order = ranking._spread.py_func(boxes, units)
    assert order.tolist() == slow_spread(boxes, units)
    if head == 1000:
        np.testing.assert_array_equal(ranking._spread(boxes, units), order)


@pytest.mark.parametrize("min_side", [1, 12, 100])
def test_both_orders_hold_the_same_distinct_boxes(min_side: int) -> None:
    hierarchies, neighbours, _, _ = search()
    boxes = ranking.order_by_evidence(
        describe_all(hierarchies, neighbours, min_side), WIDTH, HEIGHT
    )
    others = ranking.order_by_rcnn(hierarchies, WIDTH, HEIGHT, min_side=min_side)
    everything = {tuple(box) for h in hierarchies for box in h.boxes.tolist()}
    whole = (0, 0, WIDTH, HEIGHT)
    expected = {b for b in everything if min(b[2] - b[0], b[3] - b[1]) >= min_side} | {whole}
    for found in (boxes.tolist(), others.tolist()):
        assert len(found) == len(expected)
        assert {tuple(box) for box in found} == expected
    assert boxes.dtype == others.dtype == np.int32


def test_the_order_of_the_hierarchies_does_not_matter() -> None:
    hierarchies, neighbours, _, _ = search(1)
    evidence = describe_all(hierarchies, neighbours)
    expected = ranking.order_by_evidence(evidence, WIDTH, HEIGHT)
    for seed in range(3):
        mixed = np.random.default_rng(seed).permutation(len(hierarchies))
        boxes = ranking.order_by_evidence([evidence[i] for i in mixed], WIDTH, HEIGHT)
        np.testing.assert_array_equal(boxes, expected)


def test_repeating_all_hierarchies_does_not_matter() -> None:
    hierarchies, neighbours, _, _ = search(2)
    expected = ranking.order_by_evidence(describe_all(hierarchies, neighbours), WIDTH, HEIGHT)
    boxes = ranking.order_by_evidence(describe_all(hierarchies, neighbours) * 2, WIDTH, HEIGHT)
    np.testing.assert_array_equal(boxes, expected)


def test_one_region_gives_the_box_of_the_image() -> None:
    labels = np.zeros((3, 5), dtype=np.int32)
    image = np.zeros((3, 5, 3), dtype=np.uint8)
    regions = measure(labels, 1, image, texture_codes(image))
    touching = find_neighbours(labels, 1, edge_weights(image.astype(np.float32)))
    hierarchy = group(regions, compare(regions, touching.pairs), np.ones(4))
    whole = [[0, 0, 5, 3]]
    assert (
        ranking.order_by_evidence([describe(hierarchy, touching, 5, 3, 9)], 5, 3).tolist() == whole
    )
    assert ranking.order_by_rcnn([hierarchy], 5, 3, min_side=9).tolist() == whole


def test_rcnn_order_is_rank_times_chance() -> None:
    hierarchies, _, _, _ = search()
    keyed = []
    rng = np.random.default_rng(7)
    for hierarchy in hierarchies:
        count = len(hierarchy.sizes)
        keyed += [
            ((count - i) * rng.random(), tuple(b)) for i, b in enumerate(hierarchy.boxes.tolist())
        ]
    expected = list(dict.fromkeys(box for _, box in sorted(keyed)))
    boxes = ranking.order_by_rcnn(hierarchies, WIDTH, HEIGHT, seed=7)
    assert [tuple(box) for box in boxes.tolist()] == expected
