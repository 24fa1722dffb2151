"""What sits on the 1024 features of a region: classification and box regression."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from detect.googlenet import NUM_FEATURES
from proposals.priors import RESIDUAL_UNITS, centred, encode_residuals

BOX_UNITS = RESIDUAL_UNITS  # as in Fast R-CNN: shifts in 1/10 of a side, log sizes in 1/5
# A regressed side grows at most this much (log); beyond lies an untrained or diverging head.
MAX_LOG_SCALE = math.log(4.0)
Activation = Literal["softmax", "sigmoid"]


class RegionHead(nn.Module):
    """Class logits and class-specific box offsets from region features.

    Args:
        num_classes: Classes without background; background is the last logit.
        activation: How logits become probabilities: ``softmax`` over classes and background, or
            ``sigmoid``, each class on its own, as linear SVMs are trained.

    Raises:
        ValueError: If the activation is neither.
    """

    def __init__(self, num_classes: int, activation: Activation = "softmax") -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(f"activation={activation}: choose softmax or sigmoid")
        self.num_classes = num_classes
        self.activation = activation
        self.classifier = nn.Linear(NUM_FEATURES, num_classes + 1)
        self.box_regression = nn.Linear(NUM_FEATURES, 4 * num_classes)
        for layer in (self.classifier, self.box_regression):
            nn.init.normal_(layer.weight, std=0.01 if layer is self.classifier else 0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, C + 1]`` and box offsets ``[N, C, 4]`` of features ``[N, 1024]``."""
        offsets = self.box_regression(features).view(len(features), self.num_classes, 4)
        return self.classifier(features), offsets

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities with background last, both ``[N, C + 1]``.

        With ``sigmoid`` the last logit counts for nothing: a region is background as far as no
        class has it, 1 less the largest probability. A row need not sum to 1 then.
        """
        if self.activation == "softmax":
            return logits.softmax(dim=1)
        scores = logits[:, :-1].sigmoid()
        return torch.cat([scores, 1 - scores.amax(dim=1, keepdim=True)], dim=1)


def encode_boxes(boxes: Tensor, targets: Tensor) -> Tensor:
    """Express target boxes relative to proposals (R-CNN, appendix C).

    Args:
        boxes: Proposals, ``[N, 4]``.
        targets: The boxes that regression should reach, ``[N, 4]``.

    Returns:
        Offsets of centre and log size in the head's units, ``[N, 4]``.
    """
    return encode_residuals(centred(boxes), targets)


def decode_boxes(boxes: Tensor, offsets: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Move proposals by regressed offsets and clip them to the image.

    Args:
        boxes: Proposals, ``[N, 4]``.
        offsets: One row a class in the head's units, ``[N, C, 4]``.
        image_size: Height and width of the image, pixels.

    Returns:
        A box for every class, ``[N, C, 4]``.
    """
    x, y, w, h = (side[:, None] for side in _centres(boxes))
    units = offsets.new_tensor(BOX_UNITS, dtype=torch.float32)
    dx, dy, dw, dh = (offsets.float() * units).unbind(-1)
    cx, cy = x + dx * w, y + dy * h
    half_w = dw.clamp(max=MAX_LOG_SCALE).exp() * w / 2
    half_h = dh.clamp(max=MAX_LOG_SCALE).exp() * h / 2
    height, width = image_size
    xs = torch.stack([cx - half_w, cx + half_w], dim=-1).clamp(0, width)
    ys = torch.stack([cy - half_h, cy + half_h], dim=-1).clamp(0, height)
    return torch.stack([xs[..., 0], ys[..., 0], xs[..., 1], ys[..., 1]], dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
