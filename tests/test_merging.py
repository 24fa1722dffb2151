from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detect import merging
from detect.detections import Detections
from detect.merging import MergeConfig, merge_detections, vote_boxes

Box = list[float]
NMS = MergeConfig(nms_threshold=0.3)
TINY = float(np.finfo(np.float32).tiny)


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_a + area_b - width * height)


def reference(
    boxes: Tensor, scores: Tensor, config: MergeConfig
) -> list[tuple[float, int, int, Box]]:
    """Return (score, label, row, box) of every detection, one box after the other."""
    merged: list[tuple[float, int, int, Box]] = []
    for label in range(scores.shape[1] - 1):
        candidates = []
        for row in range(len(scores)):
            box = (boxes[row] if boxes.ndim == 2 else boxes[row, label]).tolist()
            score = scores[row, label].item()
            if score >= config.score_threshold and box[2] > box[0] and box[3] > box[1]:
                candidates.append((score, label, row, box))
        candidates.sort(key=lambda c: (-c[0], c[2]))
        kept: list[tuple[float, int, int, Box]] = []
        if config.nms_threshold is None:
            kept = soften(candidates, config.soft_sigma, config.score_threshold)
        for candidate in candidates if config.nms_threshold is not None else []:
            if all(iou(candidate[3], other[3]) <= config.nms_threshold for other in kept):
                kept.append(candidate)
        for score, _, row, box in kept[: config.max_per_class]:
            if config.vote_threshold is not None:
                voters = [c for c in candidates if iou(box, c[3]) >= config.vote_threshold]
                weights = [max(v[0], TINY) for v in voters]
                voted = [
                    sum(w * v[3][side] for w, v in zip(weights, voters, strict=True)) / sum(weights)
                    for side in range(4)
                ]
            else:
                voted = box
            merged.append((score, label, row, voted))
    merged.sort(key=lambda c: (-c[0], c[1], c[2]))
    return merged[: config.max_detections]


def soften(
    candidates: list[tuple[float, int, int, Box]], sigma: float, threshold: float
) -> list[tuple[float, int, int, Box]]:
    """Return candidates in the order of soft-NMS, with the scores that it leaves them."""
    waiting, kept = list(candidates), []
    while waiting:
        waiting.sort(key=lambda c: (-c[0], c[2]))
        best = waiting.pop(0)
        if best[0] >= np.float32(threshold):
            kept.append((float(np.float32(best[0])), *best[1:]))
        waiting = [
            (score * math.exp(-(iou(best[3], box) ** 2) / sigma), label, row, box)
            for score, label, row, box in waiting
        ]
    return kept


def scene(
    n: int, num_classes: int, seed: int, per_class: bool = False, steps: int = 0
) -> tuple[Tensor, Tensor]:
    """Clustered boxes, some without area, and scores; few distinct scores if ``steps`` is set."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, num_classes) if per_class else (n,)
    corner = torch.randint(-20, 60, (*shape, 2), generator=generator).float()
    size = torch.randint(-2, 50, (*shape, 2), generator=generator).float()
    scores = (2 * torch.randn(n, num_classes + 1, generator=generator)).softmax(dim=1)
    if steps:
        scores = (scores * steps).round() / steps
    return torch.cat([corner, corner + size], dim=-1), scores


def assert_equals_reference(boxes: Tensor, scores: Tensor, config: MergeConfig) -> None:
    expected = reference(boxes, scores, config)
    truth = torch.tensor([box for *_, box in expected]).reshape(-1, 4)
    for merge in (merge_detections, merging._merge_with_torch):
        found = merge(boxes, scores, config)
        assert found.scores.tolist() == [score for score, *_ in expected]
        assert found.labels.tolist() == [label for _, label, *_ in expected]
        torch.testing.assert_close(found.boxes, truth, rtol=1e-6, atol=1e-5)


def assert_same(a: Detections, b: Detections) -> None:
    torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-6, atol=1e-5)
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("n", [0, 1, 2, 40, 400])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("vote_threshold", [None, 0.5])
def test_merging_equals_the_slow_reference(
    n: int, per_class: bool, vote_threshold: float | None
) -> None:
    boxes, scores = scene(n, 5, seed=n, per_class=per_class)
    assert_equals_reference(boxes, scores, replace(NMS, vote_threshold=vote_threshold))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 40),
    per_class=st.booleans(),
    sigma=st.sampled_from([0.05, 0.2, 0.5, 3.0]),
    steps=st.sampled_from([0, 6]),
    vote_threshold=st.sampled_from([None, 0.5]),
    max_per_class=st.sampled_from([2, 100]),
    max_detections=st.sampled_from([1, 9, 100]),
)
def test_soft_nms_equals_the_slow_reference(
    seed: int, n: int, per_class: bool, sigma: float, steps: int, **limits: Any
) -> None:
    boxes, scores = scene(n, 3, seed, per_class, steps)
    config = MergeConfig(score_threshold=0.02, soft_sigma=sigma, **limits)
    expected = reference(boxes, scores, config)
    found = merge_detections(boxes, scores, config)
    assert found.labels.tolist() == [label for _, label, *_ in expected]
    assert found.scores.tolist() == pytest.approx([score for score, *_ in expected], rel=1e-6)
    truth = torch.tensor([box for *_, box in expected]).reshape(-1, 4)
    torch.testing.assert_close(found.boxes, truth, rtol=1e-4, atol=1e-3)


def test_soft_nms_finds_both_of_two_objects_that_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 60, 100], [30, 0, 90, 100], [1, 0, 61, 100]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    config = MergeConfig(score_threshold=0.0, vote_threshold=None)
    plain = merge_detections(boxes, scores, replace(config, nms_threshold=0.3))
    soft = merge_detections(boxes, scores, config)
    assert plain.boxes.tolist() == boxes[:1].tolist()
    assert soft.boxes.tolist() == boxes.tolist()
    first, second, third = boxes.tolist()
    overlaps = iou(first, second), iou(first, third), iou(second, third)
    falls = [math.exp(-(overlap**2) / 0.2) for overlap in overlaps]
    assert soft.scores.tolist() == pytest.approx([0.9, 0.8 * falls[0], 0.7 * falls[1] * falls[2]])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 30),
    num_classes=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    per_class=st.booleans(),
    nms_threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    max_per_class=st.integers(1, 5),
    max_detections=st.integers(1, 12),
)
def test_ties_and_limits_equal_the_slow_reference(
    n: int,
    num_classes: int,
    seed: int,
    per_class: bool,
    nms_threshold: float,
    max_per_class: int,
    max_detections: int,
) -> None:
    boxes, scores = scene(n, num_classes, seed, per_class, steps=5)
    config = MergeConfig(0.1, nms_threshold, 0.5, max_per_class, max_detections)
    assert_equals_reference(boxes, scores, config)


def drawn_boxes(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Boxes of one kind, ``[*shape, 4]``."""

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (*shape, 2), generator=generator).float()

    def any_number() -> Tensor:
        return torch.rand(*shape, 2, generator=generator)

    corner, size = {
        "photo": (500 * any_number() - 50, 300 * any_number() ** 2),
        "huge": (2e7 * any_number() - 1e7, 1e7 * any_number() ** 2),
        "one pixel": (whole(-5, 5), torch.ones(*shape, 2)),
        "duplicates": (10 * whole(-1, 2), 10 * whole(1, 3)),
        "all corners alike": (torch.full((*shape, 2), -7.0), whole(0, 9)),
    }[kind]
    return torch.cat([corner, corner + size], dim=-1)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["photo", "huge", "one pixel", "duplicates", "all corners alike"]),
    n=st.integers(0, 40),
    num_classes=st.integers(0, 4),
    per_class=st.booleans(),
    seed=st.integers(0, 10**6),
    steps=st.sampled_from([0, 3, 50]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    score_threshold=st.sampled_from([-1.0, 0.0, 0.1]),
    nms_threshold=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    vote_threshold=st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    max_per_class=st.sampled_from([1, 3, 10**9]),
    max_detections=st.sampled_from([1, 2, 10**9]),
)
def test_boxes_and_settings_of_all_kinds_equal_the_slow_reference(
    kind: str,
    n: int,
    num_classes: int,
    per_class: bool,
    seed: int,
    steps: int,
    dtype: torch.dtype,
    score_threshold: float,
    nms_threshold: float,
    vote_threshold: float | None,
    max_per_class: int,
    max_detections: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = drawn_boxes(kind, (n, num_classes) if per_class else (n,), generator).to(dtype)
    scores = torch.randn(n, num_classes + 1, generator=generator).softmax(dim=1) - 0.1
    if steps:
        scores = (scores * steps).round() / steps  # also minus zero
    limits = max_per_class, max_detections
    config = MergeConfig(score_threshold, nms_threshold, vote_threshold, *limits)
    assert_equals_reference(boxes, scores, config)


@pytest.mark.parametrize("max_detections", [1, 2, 3, 4, 40])
def test_weak_boxes_are_found_behind_many_strong_ones_in_one_place(max_detections: int) -> None:
    generator = torch.Generator().manual_seed(0)
    strong = torch.tensor([10.0, 10, 90, 90]) + torch.rand(500, 4, generator=generator)
    apart = torch.tensor([[200.0, 10, 240, 50], [300, 10, 340, 50], [400, 10, 440, 50]])
    scores = torch.rand(503, 3, generator=generator) / 2 + 0.5
    scores[500:] = torch.tensor([0.04, 0.02, 0.0])
    scores[200:300] = 0.75  # a tie that the search must not cut
    boxes = torch.cat([strong, apart])
    assert_equals_reference(boxes, scores, replace(NMS, max_detections=max_detections))


def test_voting_in_pieces_equals_the_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = scene(40, 3, seed=8, per_class=True)
    monkeypatch.setattr(merging, "_PAIRS", 100)
    assert_equals_reference(boxes, scores, MergeConfig(nms_threshold=0.7))


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    per_class=st.booleans(),
    steps=st.sampled_from([0, 9]),
    nms_threshold=st.sampled_from([None, 0.3]),
)
def test_few_detections_are_the_first_of_many(
    seed: int, per_class: bool, steps: int, nms_threshold: float | None
) -> None:
    boxes, scores = scene(300, 8, seed, per_class, steps)
    config = MergeConfig(0.0, nms_threshold, max_detections=10**6)
    every = merge_detections(boxes, scores, config)
    for count in (1, 7, 60, 200):
        some = merge_detections(boxes, scores, replace(config, max_detections=count))
        assert_same(some, every[:count])


@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 4)])
def test_no_boxes_give_no_detections(shape: tuple[int, ...]) -> None:
    assert len(merge_detections(torch.zeros(shape), torch.zeros(0, 4), MergeConfig())) == 0


def test_all_scores_below_the_threshold_give_no_detections() -> None:
    boxes, scores = scene(10, 3, seed=0)
    found = merge_detections(boxes, scores * 1e-3, MergeConfig())
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64


def test_the_background_never_becomes_a_detection() -> None:
    scores = torch.tensor([[0.1, 0.0, 0.9]])
    found = merge_detections(torch.tensor([[0.0, 0, 9, 9]]), scores, MergeConfig())
    assert found.labels.tolist() == [0]


def test_boxes_that_overlap_by_exactly_the_nms_threshold_both_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 0.5
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    counts = [
        len(merge_detections(boxes, scores, MergeConfig(nms_threshold=threshold)))
        for threshold in (0.5, 0.4999999)
    ]
    assert counts == [2, 1]


def test_classes_do_not_hide_each_other_even_with_corners_outside_the_image() -> None:
    # The offset between classes must cover the whole span of the coordinates.
    boxes = torch.tensor([[80.0, 80, 100, 100], [-20, -20, 0.5, 0.5]])
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.8, 0.2]])
    assert len(merge_detections(boxes, scores, MergeConfig(nms_threshold=0.0))) == 2


def test_voting_keeps_isolated_boxes() -> None:
    boxes = torch.tensor([[0.3, 0.7, 10.1, 10.9], [50.2, 50.4, 70.6, 70.8]])
    scores = torch.tensor([[0.9, 0.1], [0.013, 0.987]])
    assert torch.equal(merge_detections(boxes, scores, MergeConfig()).boxes, boxes)


def test_voting_moves_a_box_by_the_weight_of_the_scores_and_keeps_its_score() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4]])  # IoU 1, 0.8, 0.4
    scores = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
    found = merge_detections(boxes, scores, NMS)
    assert found.boxes.tolist() == [[0, 0, 10, 9.5]]  # (0.75 * 10 + 0.25 * 8) / 1
    assert found.scores.tolist() == [0.75]


def test_only_boxes_of_the_same_class_vote() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.9, 0.1]])
    assert torch.equal(merge_detections(boxes, scores, MergeConfig()).boxes, boxes)


def test_negative_scores_do_not_vote_and_all_zero_scores_vote_alike() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    moved = vote_boxes(boxes[:1], boxes, torch.tensor([2.0, -1.0]), 0.5)
    torch.testing.assert_close(moved, boxes[:1])
    moved = vote_boxes(boxes[:1], boxes, torch.zeros(2), 0.5)
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0, 10, 9]]))


def test_voting_for_many_boxes_equals_one_by_one() -> None:
    boxes, scores = scene(60, 1, seed=3)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)].double()
    weights = scores[: len(boxes), 0]
    together = vote_boxes(boxes[:20], boxes, weights, 0.5)
    single = [vote_boxes(box[None], boxes, weights, 0.5) for box in boxes[:20]]
    torch.testing.assert_close(together, torch.cat(single))
    assert vote_boxes(boxes[:0], boxes, weights, 0.5).shape == (0, 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 60))
def test_the_order_of_the_boxes_does_not_matter(seed: int, n: int) -> None:
    boxes, scores = scene(n, 4, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    expected = merge_detections(boxes, scores, MergeConfig())
    assert_same(merge_detections(boxes[order], scores[order], MergeConfig()), expected)


def test_shared_boxes_equal_the_same_boxes_given_for_each_class() -> None:
    boxes, scores = scene(200, 6, seed=1)
    shared = merge_detections(boxes, scores, MergeConfig())
    repeated = merge_detections(boxes[:, None].expand(-1, 6, -1), scores, MergeConfig())
    assert_same(shared, repeated)


def test_all_classes_together_equal_class_by_class() -> None:
    boxes, scores = scene(500, 8, seed=2)
    config = MergeConfig(max_detections=10_000)
    together = merge_detections(boxes, scores, config)
    for label in range(8):
        alone = merge_detections(boxes, scores[:, [label, -1]], config)
        chosen = together[together.labels == label]
        assert torch.equal(chosen.scores, alone.scores)
        torch.testing.assert_close(chosen.boxes, alone.boxes, rtol=1e-6, atol=1e-5)


def test_half_precision_scores_give_float32_detections() -> None:
    boxes, scores = scene(20, 3, seed=4)
    found = merge_detections(boxes.half(), scores.bfloat16(), MergeConfig())
    assert (found.boxes.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    assert len(found) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_scores_meet_the_threshold_in_their_own_precision(dtype: torch.dtype) -> None:
    threshold = torch.tensor(0.01, dtype=dtype)
    below = torch.nextafter(threshold.double(), torch.zeros((), dtype=torch.float64))
    if dtype != torch.float64:
        below = torch.nextafter(threshold, torch.zeros((), dtype=dtype))
    scores = torch.stack([threshold, below.to(dtype)])[:, None].expand(2, 2)
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29]])
    for merge in (merge_detections, merging._merge_with_torch):
        assert merge(boxes, scores, NMS).boxes.tolist() == [[0, 0, 9, 9]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8])
@pytest.mark.parametrize("per_class", [False, True])
def test_boxes_of_any_type_give_the_same_detections(dtype: torch.dtype, per_class: bool) -> None:
    boxes, scores = scene(60, 3, seed=5, per_class=per_class)
    boxes = boxes.clamp(min=0)
    expected = merge_detections(boxes, scores, MergeConfig())
    assert_same(merge_detections(boxes.to(dtype), scores, MergeConfig()), expected)


def test_the_layout_in_memory_and_gradients_do_not_matter() -> None:
    boxes, scores = scene(60, 3, seed=6, per_class=True)
    expected = merge_detections(boxes, scores, MergeConfig())
    columns = scores.T.contiguous().T.requires_grad_()
    parts = boxes.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    found = merge_detections(parts, columns, MergeConfig())
    assert_same(found, expected)
    assert not found.boxes.requires_grad


def test_minus_zero_scores_as_zero() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    scores = torch.tensor([[-0.0, 0.5], [0.0, 0.5], [-0.0, 0.5]])
    for merge in (merge_detections, merging._merge_with_torch):
        found = merge(boxes, scores, replace(NMS, score_threshold=0.0))
        assert found.boxes[:, 0].tolist() == [0, 20, 40]


def test_the_detections_do_not_share_memory_with_the_boxes() -> None:
    boxes, scores = scene(20, 1, seed=7)
    before = boxes.clone()
    found = merge_detections(boxes, scores, MergeConfig(vote_threshold=None))
    found.boxes.zero_()
    assert torch.equal(boxes, before)


@pytest.mark.parametrize("per_class", [False, True])
def test_boxes_that_are_not_finite_matter_for_candidates_only(per_class: bool) -> None:
    boxes, scores = scene(8, 3, seed=0, per_class=per_class)
    scores[2] = torch.tensor([0.0, 0.5, 0.5, 0.0])
    broken = boxes.clone()
    broken[(2, 0) if per_class else 2] = float("nan")
    if per_class:
        found = merge_detections(broken, scores, MergeConfig())
        assert_same(found, merge_detections(boxes, scores, MergeConfig()))
    else:
        with pytest.raises(ValueError, match="2 boxes are not finite"):
            merge_detections(broken, scores, MergeConfig())
    scores[2, 1:3] = 0.0
    assert len(merge_detections(broken, scores, MergeConfig())) > 0


def test_finite_values_with_an_endless_sum_are_accepted() -> None:
    boxes = torch.tensor([[0.0, 0, 3e38, 3e38], [1e38, 1e38, 3e38, 3e38]])
    scores = torch.tensor([[3e38, 3e38], [2e38, 3e38]])
    found = merge_detections(boxes, scores, replace(NMS, vote_threshold=None))
    assert torch.equal(found.boxes, boxes[:1])  # IoU 4 / 9


def test_boxes_too_large_for_an_area_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 1e200, 1e200]], dtype=torch.float64)
    for merge in (merge_detections, merging._merge_with_torch):
        assert len(merge(boxes, torch.ones(1, 2), NMS)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    boxes, scores = scene(5, 3, seed=0)
    broken = scores.clone()
    broken[2, 1] = value
    with pytest.raises(ValueError, match="1 scores are not finite"):
        merge_detections(boxes, broken, MergeConfig())
    boxes[2, 3] = value
    with pytest.raises(ValueError, match="boxes are not finite"):
        merge_detections(boxes, scores, MergeConfig(score_threshold=0.0))


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [((0,), (0, 3)), ((5, 4), (4, 3)), ((5, 3, 4), (5, 3)), ((5, 4), (5,)), ((5, 4), (5, 0))],
)
def test_shapes_that_disagree_are_refused(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        merge_detections(torch.zeros(boxes), torch.zeros(scores), MergeConfig())


@pytest.mark.parametrize(
    "setting",
    [
        {"nms_threshold": 30.0},
        {"vote_threshold": -0.1},
        {"max_per_class": 0},
        {"max_detections": 0},
        {"soft_sigma": 0.0},
    ],
)
def test_settings_without_sense_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        MergeConfig(**setting)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [0, 40, 3000])
@pytest.mark.parametrize("per_class", [False, True])
def test_the_gpu_gives_the_detections_of_the_cpu(n: int, per_class: bool) -> None:
    boxes, scores = scene(n, 20, seed=n, per_class=per_class, steps=50)
    for config in (
        NMS,
        MergeConfig(),
        MergeConfig(0.0, 0.3, max_per_class=10**6, max_detections=10**6),
    ):
        found = merge_detections(boxes.cuda(), scores.cuda(), config)
        assert found.boxes.is_cuda
        assert_same(found.to("cpu"), merge_detections(boxes, scores, config))
