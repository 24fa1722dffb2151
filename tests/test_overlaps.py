"""Overlaps of boxes and NMS, beside torchvision's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou as their_iou
from torchvision.ops import clip_boxes_to_image
from torchvision.ops import nms as their_nms

from proposals.overlaps import box_area, box_iou, clip_to_image, nms


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Boxes that often overlap; some are equal, some without area."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=dtype) * 60
    sides = (torch.rand(count, 2, generator=generator, dtype=dtype) * 50 - 2).clamp(min=0)
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[count // 2 : count // 2 + count // 8] = boxes[: count // 8]
    return boxes


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_iou_equals_torchvisions(count: int, others: int, seed: int) -> None:
    a, b = random_boxes(count, seed), random_boxes(others, seed + 1)
    assert torch.equal(box_iou(a, b).nan_to_num(-1), their_iou(a, b).nan_to_num(-1))
    batch = box_iou(a[:, None], b.expand(count, others, 4))  # [N, 1, M]
    assert torch.equal(batch[:, 0].nan_to_num(-1), box_iou(a, b).nan_to_num(-1))


@given(
    st.integers(0, 120),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_nms_equals_torchvisions(
    count: int, threshold: float, dtype: torch.dtype, seed: int
) -> None:
    boxes = random_boxes(count, seed, dtype)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(nms(boxes, scores, threshold), their_nms(boxes, scores.to(dtype), threshold))


def test_of_equal_scores_the_first_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0, 2]


@pytest.mark.parametrize(("threshold", "left"), [(0.5, 2), (0.499, 1)])
def test_an_overlap_of_the_threshold_may_stay(threshold: float, left: int) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert len(nms(boxes, torch.tensor([1.0, 0.5]), threshold)) == left


def test_boxes_without_area_hide_nothing() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    assert nms(boxes, torch.tensor([3.0, 2, 1]), 0.0).tolist() == [0, 1, 2]


def test_clip_equals_torchvisions() -> None:
    boxes = random_boxes(50, 3) - 10
    boxes[::5] += 40
    assert torch.equal(clip_to_image(boxes, (48, 37)), clip_boxes_to_image(boxes, (48, 37)))
    assert clip_to_image(boxes[:0], (1, 1)).shape == (0, 4)


def test_area() -> None:
    assert box_area(torch.tensor([[1.0, 2, 4, 8], [3, 3, 3, 9]])).tolist() == [18, 0]
