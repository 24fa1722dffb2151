"""The result of detection on one image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Scored, labelled boxes of one image, best first.

    Attributes:
        boxes: Half-open ``xyxy`` pixels, float32 ``[N, 4]``.
        scores: Confidence of each box, float32 ``[N]``.
        labels: Class index of each box from 0, int64 ``[N]``; background never appears.
        class_names: Name of every class a label may index, ``[C]``; empty where unknown.

    Raises:
        ValueError: If shapes disagree or a label lies outside ``class_names``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes = tuple(self.boxes.shape), tuple(self.scores.shape), tuple(self.labels.shape)
        if shapes != ((n, 4), (n,), (n,)):
            raise ValueError(f"boxes, scores and labels must be [N, 4], [N], [N]: got {shapes}")
        if self.class_names and n:
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise ValueError(f"labels {low}..{high} leave the {len(self.class_names)} classes")

    @classmethod
    def empty(cls, class_names: tuple[str, ...] = ()) -> Detections:
        """Return no detections at all."""
        labels = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), torch.zeros(0), labels, class_names)

    @property
    def names(self) -> list[str]:
        """Name of each detection's class, ``[N]``; the label's number where names are unknown."""
        if not self.class_names:
            return [str(label) for label in self.labels.tolist()]
        return [self.class_names[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: Tensor | slice | list[int]) -> Detections:
        """Select detections by a boolean mask, indices or a slice."""
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep]
        )

    def to(self, device: torch.device | str) -> Detections:
        """Move every tensor to a device."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
        )
