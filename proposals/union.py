"""Several proposers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from proposals.overlaps import nms
from proposals.proposer import Proposer, proposer_settings


class Union:
    """Join the boxes of several proposers, without duplicates.

    The boxes of an earlier proposer stand before those of a later one, each in its own order. A box
    that overlaps one before it too much is dropped, and the first of those left are the result.

    Args:
        proposers: In the order of their boxes.
        max_boxes: How many boxes stay; ``None`` for all.
        duplicate_iou: Overlap from which a box is a duplicate; 1: only what is the same.

    Raises:
        ValueError: If there is no proposer, or no box would stay.
    """

    def __init__(
        self,
        proposers: Sequence[Proposer],
        *,
        max_boxes: int | None = None,
        duplicate_iou: float = 0.95,
    ) -> None:
        if not proposers:
            raise ValueError("proposers: give one at least")
        if max_boxes is not None and max_boxes < 1:
            raise ValueError(f"max_boxes must be 1 or more: got {max_boxes}")
        self.proposers = list(proposers)
        self.max_boxes, self.duplicate_iou = max_boxes, duplicate_iou

    def of(self, proposers: Sequence[Proposer]) -> Union:
        """Return the same union of other proposers."""
        return Union(proposers, max_boxes=self.max_boxes, duplicate_iou=self.duplicate_iou)

    def settings(self) -> dict[str, Any]:
        """Return what the boxes depend on: see ``proposals.compute.proposer_settings``."""
        return {
            "proposers": [proposer_settings(proposer) for proposer in self.proposers],
            "max_boxes": self.max_boxes,
            "duplicate_iou": self.duplicate_iou,
        }

    @property
    def threads(self) -> int:
        """The most threads that one of the proposers uses for an image."""
        return max(getattr(proposer, "threads", 1) for proposer in self.proposers)

    def __call__(self, image: Tensor) -> Tensor:
        """Propose boxes for an RGB uint8 image ``[3, H, W]``: see ``proposals.Proposer``."""
        return join([proposer(image) for proposer in self.proposers], self.duplicate_iou)[
            : self.max_boxes
        ]


def join(parts: Sequence[Tensor], duplicate_iou: float) -> Tensor:
    """Put boxes ``[N, 4]`` one after another; drop those that overlap an earlier one too much."""
    boxes = torch.cat(list(parts))
    ranks = torch.arange(len(boxes), 0, -1, device=boxes.device).float()
    # NMS suppresses what overlaps by more than a threshold, a union by as much.
    below = torch.nextafter(torch.tensor(float(duplicate_iou)), torch.tensor(0.0)).item()
    return boxes[nms(boxes, ranks, below)]
