"""Several trained detectors as one: their probabilities averaged on the same regions.

The paper averages six networks of its detector (section 8). Here they stand side by side behind the
interface of one: a crop is cut once for all of them, an image resized once, and each region is
sampled once from their maps, which lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from detect.checkpoint import Checkpoint
from detect.googlenet import GoogLeNet, Layout
from detect.heads import RegionHead


class EnsembleNetwork(GoogLeNet):
    """What detection asks of a GoogLeNet, done by several; channels of all of them in a row.

    Args:
        members: Of the same layout, on the same device and in the same precision.
    """

    def __init__(self, members: Sequence[GoogLeNet]) -> None:
        nn.Module.__init__(self)  # there are no layers beside the members'
        self.members = nn.ModuleList(members)
        self.layout: Layout = members[0].layout

    def _each(self) -> list[GoogLeNet]:
        return cast(list[GoogLeNet], list(self.members))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._each()[0].device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it takes its input."""
        return self._each()[0].dtype

    @property
    def pool4(self) -> nn.Module:  # type: ignore[override]
        """The pool between 4e and 5a, which has no weights."""
        return self._each()[0].pool4

    def stem(self, images: Tensor) -> Tensor:
        """Run conv1 .. pool3 of each on the same images."""
        return torch.cat([member.stem(images) for member in self._each()], dim=1)

    def inception4(self, x: Tensor) -> Tensor:
        """Run 4a .. 4e of each on its own channels."""
        return self._on_parts("inception4", x)

    def inception5(self, x: Tensor) -> Tensor:
        """Run 5a, 5b and the global average of each on its own channels."""
        return self._on_parts("inception5", x)

    def features(self, images: Tensor) -> Tensor:
        """Return the features of each, ``[N, members * 1024]``."""
        return torch.cat([member.features(images) for member in self._each()], dim=1)

    def _on_parts(self, name: str, x: Tensor) -> Tensor:
        order = torch.channels_last
        parts = x.chunk(len(self.members), dim=1)
        return torch.cat(
            [
                getattr(member, name)(part.contiguous(memory_format=order))
                for member, part in zip(self._each(), parts, strict=True)
            ],
            dim=1,
        )


class EnsembleHead(RegionHead):
    """Heads of several detectors, each on its own features; offsets are averaged.

    Args:
        members: Of the same number of classes.
    """

    def __init__(self, members: Sequence[RegionHead]) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        self.num_classes = members[0].num_classes
        self.activation = members[0].activation

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of each, ``[N, members * (C + 1)]``, and offsets ``[N, C, 4]``."""
        parts = features.chunk(len(self.members), dim=1)
        outputs = [head(part) for head, part in zip(self.members, parts, strict=True)]
        logits = torch.cat([own for own, _ in outputs], dim=1)
        return logits, torch.stack([offsets for _, offsets in outputs]).mean(dim=0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Average the probabilities of all, background last, ``[N, C + 1]``."""
        heads = cast(list[RegionHead], list(self.members))
        parts = logits.chunk(len(heads), dim=1)
        each = [head.probabilities(part) for head, part in zip(heads, parts, strict=True)]
        return torch.stack(each).mean(dim=0)


def join_checkpoints(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Make one detector of several; of a single one that itself.

    Raises:
        ValueError: If they are of different classes, layouts or scales, or were trained in another
            way: each sees what the first one's settings make of a region.
    """
    first = checkpoints[0]
    if len(checkpoints) == 1:
        return first
    for other in checkpoints[1:]:
        for what in ("class_names", "preprocessing", "regions", "shared"):
            if getattr(other, what) != getattr(first, what):
                raise ValueError(
                    f"checkpoints of different {what.replace('_', ' ')} cannot be averaged: "
                    f"{getattr(first, what)} and {getattr(other, what)}"
                )
        if other.network.layout != first.network.layout:
            raise ValueError("checkpoints of the layouts paper and torchvision cannot be averaged")
    failed = [c.precision_check for c in checkpoints if c.precision_check is not None]
    return replace(
        first,
        network=EnsembleNetwork([checkpoint.network for checkpoint in checkpoints]),
        head=EnsembleHead([checkpoint.head for checkpoint in checkpoints]),
        training={"members": [checkpoint.training for checkpoint in checkpoints]},
        precision_check=next((check for check in failed if not check.passes()), None),
    )
