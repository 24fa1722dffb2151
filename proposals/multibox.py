"""MultiBox: boxes proposed by a network (Erhan et al. 2014; Szegedy et al. 2014, "Scalable, ...").

A small head reads maps of features of the image, from a trunk that is handed in, and tells for
each of many priors how likely an object is near it, and where exactly. The priors and the head
know nothing of classes.

Two forms differ in what the trunk hands over. In the form of the 2014 paper it is one vector of
features of the whole image (a grid of one point, with priors all over the image), of the image
alone or of crops of it too. In the convolutional form it is a grid of features at one scale of the
image or several, with priors of several shapes at every point.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proposals.overlaps import clip_to_image, nms
from proposals.priors import decode_residuals, place_priors

_START_PROBABILITY = 0.01  # of an object at any prior, before training (Lin et al. 2017, RetinaNet)


@dataclass(frozen=True)
class FeatureMap:
    """Features of an image, or of a part of it, on a grid of points.

    Attributes:
        values: ``[1, channels, h, w]``.
        origin: ``x`` and ``y`` of the first point, pixels of the image.
        stride: From point to point in ``x`` and ``y``, pixels of the image.
    """

    values: Tensor
    origin: tuple[float, float]
    stride: tuple[float, float]


Trunk = Callable[[Tensor], Sequence[FeatureMap]]  # of an RGB uint8 image [3, H, W]


class MultiBox(nn.Module):
    """Confidences and locations of boxes near the priors of every point of a map.

    Args:
        channels: Of the features.
        priors: ``(x, y, w, h)`` in strides of the map, ``x`` and ``y`` from the point, ``[K, 4]``.
        hidden: Channels between; 0 for none, as in the 2014 paper.
        kernel: Points a side that a prediction sees, odd.

    Raises:
        ValueError: If the kernel is even or there are no priors.
    """

    def __init__(
        self, channels: int, priors: Tensor, *, hidden: int = 256, kernel: int = 3
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd")
        if priors.ndim != 2 or priors.shape[1] != 4 or not len(priors):
            raise ValueError(f"priors of shape {list(priors.shape)}: must be [K, 4], K 1 or more")
        self.channels, self.hidden, self.kernel = channels, hidden, kernel
        self.priors: Tensor
        self.register_buffer("priors", priors.float().clone())
        self.activation: nn.Module = nn.ReLU()
        if hidden:
            self.reduce = nn.Conv2d(channels, hidden, 1)
            self.mix = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2)
        self.predict = nn.Conv2d(hidden or channels, 5 * len(priors), 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        start = torch.zeros(len(priors), 5)
        start[:, 0] = -math.log(1 / _START_PROBABILITY - 1)
        self.predict.bias = nn.Parameter(start.flatten())

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Predict at every prior of maps ``[N, channels, h, w]``.

        Returns:
            Logits of an object ``[N, h * w * K]`` and residuals ``[N, h * w * K, 4]``, in the order
            of ``place_priors``.
        """
        if self.hidden:
            values = self.activation(self.mix(self.activation(self.reduce(values))))
        outputs = self.predict(values).permute(0, 2, 3, 1).reshape(len(values), -1, 5)
        return outputs[..., 0], outputs[..., 1:]

    def place(self, features: FeatureMap, chosen: Tensor | None = None) -> Tensor:
        """Return priors of a map in pixels, centres and sides: see ``place_priors``."""
        height, width = features.values.shape[-2:]
        return place_priors(self.priors, (height, width), features.origin, features.stride, chosen)


class MultiBoxProposer:
    """Proposes the boxes that a MultiBox is most confident of.

    Args:
        multibox: The head, on the device of the trunk's maps.
        trunk: Makes the maps of an image.
        max_boxes: Of an image, the most confident ones (Szegedy et al. 2014: 200).
        nms_threshold: Of boxes that overlap by more, the most confident one stays.
        min_side: Shortest side of a box, pixels.
        candidates: Most confident boxes that enter non-maximum suppression.
        name: Tells weights and trunk from others.
    """

    def __init__(
        self,
        multibox: MultiBox,
        trunk: Trunk,
        *,
        max_boxes: int = 200,
        nms_threshold: float = 0.7,
        min_side: float = 4.0,
        candidates: int = 3000,
        name: str = "",
    ) -> None:
        self.multibox, self.trunk = multibox.eval(), trunk
        self.max_boxes, self.nms_threshold = max_boxes, nms_threshold
        self.min_side, self.candidates, self.name = min_side, candidates, name

    def settings(self) -> dict[str, Any]:
        """Return what the boxes depend on: see ``proposals.proposer.proposer_settings``."""
        names = ("name", "max_boxes", "nms_threshold", "min_side", "candidates")
        return {name: getattr(self, name) for name in names}

    def on(self, trunk: Trunk) -> MultiBoxProposer:
        """Return the same proposer on another trunk, which must give the same features."""
        other = copy.copy(self)
        other.trunk = trunk
        return other

    def __call__(self, image: Tensor) -> Tensor:
        """Propose boxes for an RGB uint8 image ``[3, H, W]``: see ``proposals.Proposer``."""
        return self.score(image)[0]

    @torch.inference_mode()
    def score(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes ``[N, 4]``, best first, and their probabilities of an object ``[N]``."""
        size = (image.shape[-2], image.shape[-1])
        maps = self.trunk(image)
        outputs = [self.multibox(features.values.float()) for features in maps]
        logits = torch.cat([of_map[0] for of_map, _ in outputs])
        best = most_confident(logits, self.candidates)
        boxes = clip_to_image(self._decode(maps, [r[0] for _, r in outputs], best), size)
        logits = logits[best]
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_side).all(dim=1)
        boxes, logits = boxes[large], logits[large]
        kept = nms(boxes, logits, self.nms_threshold)[: self.max_boxes]
        return boxes[kept].cpu(), logits[kept].sigmoid().cpu()

    def _decode(
        self, maps: Sequence[FeatureMap], residuals: Sequence[Tensor], chosen: Tensor
    ) -> Tensor:
        """Return the boxes ``[n, 4]`` at some of the priors of all maps, counted through."""
        boxes = chosen.new_zeros(len(chosen), 4, dtype=torch.float32)
        first = 0
        for features, own in zip(maps, residuals, strict=True):
            here = ((chosen >= first) & (chosen < first + len(own))).nonzero().flatten()
            places = chosen[here] - first
            boxes[here] = decode_residuals(self.multibox.place(features, places), own[places])
            first += len(own)
        return boxes


def most_confident(logits: Tensor, count: int) -> Tensor:
    """Return the places of the largest values, best first; of equal ones the first one first."""
    if len(logits) > count:  # sorting all of them takes several times as long
        least = logits.topk(count, sorted=False).values.min()
        places = (logits >= least).nonzero().flatten()
    else:
        places = torch.arange(len(logits), device=logits.device)
    return places[logits[places].argsort(descending=True, stable=True)[:count]]
