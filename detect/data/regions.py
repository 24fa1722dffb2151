"""Proposals and ground truth -> labelled regions for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detect.data.records import Record
from proposals.overlaps import box_iou


@dataclass(frozen=True)
class LabelledRegions:
    """Regions of one image with what they should be classified as and moved to.

    Attributes:
        boxes: Proposals and ground-truth boxes, ``[N, 4]``.
        labels: Class from 0; ``num_classes`` is background, int64 ``[N]``.
        targets: The ground-truth box each region overlaps most, ``[N, 4]``; of no meaning for
            background.
        num_objects: How many of the first boxes are ground truth, before any selection.
    """

    boxes: Tensor
    labels: Tensor
    targets: Tensor
    num_objects: int = 0

    def __getitem__(self, keep: Tensor) -> LabelledRegions:
        """Select regions by indices or a mask."""
        return LabelledRegions(self.boxes[keep], self.labels[keep], self.targets[keep])

    def to(self, device: torch.device) -> LabelledRegions:
        """Return the regions on a device."""
        return LabelledRegions(
            self.boxes.to(device), self.labels.to(device), self.targets.to(device)
        )

    def shifted(self, x: float, y: float) -> LabelledRegions:
        """Return the regions moved by pixels."""
        by = self.boxes.new_tensor([x, y, x, y])
        return LabelledRegions(self.boxes + by, self.labels, self.targets + by)

    def mirrored(self, width: int) -> LabelledRegions:
        """Return the regions of the image flipped left to right."""
        return LabelledRegions(
            mirror_boxes(self.boxes, width), self.labels, mirror_boxes(self.targets, width)
        )


def mirror_boxes(boxes: Tensor, width: int) -> Tensor:
    """Flip boxes ``[N, 4]`` left to right in an image of this width."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def label_regions(
    proposals: Tensor, record: Record, num_classes: int, foreground_iou: float = 0.5
) -> LabelledRegions:
    """Label proposals by the ground-truth object they overlap most, as R-CNN fine-tunes.

    The objects themselves join the proposals. Regions whose best object is marked difficult are
    left out when they overlap it by the threshold: they are neither object nor background.

    Args:
        proposals: Candidate boxes, ``[N, 4]``.
        record: The image's annotated objects.
        num_classes: Label of the background.
        foreground_iou: IoU from which a region takes its object's class.
    """
    boxes = torch.cat([record.boxes, proposals])
    background = torch.full((len(boxes),), num_classes)
    if not len(record.boxes):
        return LabelledRegions(boxes, background, boxes)
    overlap, best = box_iou(boxes, record.boxes).max(dim=1)
    foreground = overlap >= foreground_iou
    labels = torch.where(foreground, record.labels[best], background)
    keep = ~(foreground & record.difficult[best])
    num_objects = int(keep[: len(record.boxes)].sum())
    return LabelledRegions(boxes[keep], labels[keep], record.boxes[best][keep], num_objects)


def sample_regions(
    regions: LabelledRegions,
    count: int,
    *,
    num_classes: int,
    foreground_fraction: float,
    generator: torch.Generator,
) -> LabelledRegions:
    """Draw regions at random, at most a fraction of them foreground (R-CNN: 32 of 128).

    Returns:
        ``count`` regions, fewer where the image has no more; foreground first.
    """
    is_background = regions.labels == num_classes
    foreground = (~is_background).nonzero().flatten()
    background = is_background.nonzero().flatten()
    quota = min(len(foreground), round(count * foreground_fraction))
    chosen = foreground[torch.randperm(len(foreground), generator=generator)[:quota]]
    rest = background[torch.randperm(len(background), generator=generator)[: count - quota]]
    return regions[torch.cat([chosen, rest])]
