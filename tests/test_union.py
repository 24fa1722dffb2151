from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from proposals import Proposer, SelectiveSearch, Union
from proposals.proposer import proposer_settings
from proposals.union import join

IMAGE = torch.zeros(3, 50, 60, dtype=torch.uint8)


class Fixed:
    """Proposes the same boxes everywhere."""

    def __init__(self, *boxes: tuple[float, float, float, float], threads: int = 1) -> None:
        self.boxes, self.threads = list(boxes), threads

    def __call__(self, image: Tensor) -> Tensor:
        return torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 4)


def test_earlier_boxes_come_first_and_duplicates_go() -> None:
    union = Union([Fixed((0, 0, 10, 10), (5, 5, 9, 9)), Fixed((0, 0, 10, 10), (20, 20, 30, 30))])
    assert isinstance(union, Proposer)
    assert union(IMAGE).tolist() == [[0, 0, 10, 10], [5, 5, 9, 9], [20, 20, 30, 30]]
    assert Union(union.proposers, max_boxes=2)(IMAGE).tolist() == [[0, 0, 10, 10], [5, 5, 9, 9]]


def reference(parts: list[Tensor], threshold: float) -> Tensor:
    kept = torch.zeros(0, 4)
    for box in torch.cat(parts):
        if not (box_iou(box[None], kept) >= threshold).any():
            kept = torch.cat([kept, box[None]])
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("counts", [(40, 30), (0, 5), (5, 0), (0, 0)])
def test_joining_is_what_a_loop_does(threshold: float, counts: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = [torch.randint(0, 8, (n, 2), generator=generator).float() for n in counts]
    parts = [
        torch.cat([c, c + torch.randint(1, 6, c.shape, generator=generator)], dim=1)
        for c in corners
    ]
    assert torch.equal(join(parts, threshold), reference(parts, threshold))


def test_settings_are_those_of_the_parts() -> None:
    union = Union([Fixed((0, 0, 1, 1), threads=3), SelectiveSearch("fast")], max_boxes=9)
    described = proposer_settings(union)
    assert [part["class"] for part in described["proposers"]] == ["Fixed", "SelectiveSearch"]
    assert (described["max_boxes"], described["duplicate_iou"]) == (9, 0.95)
    assert union.threads == 3
    assert "threads" not in described


def test_a_union_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="proposers"):
        Union([])
