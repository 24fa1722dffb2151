"""The two ways to train a region classifier: on regions of a shared map, or on crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detect.crops import CropConfig, crop_boxes
from detect.data.regions import LabelledRegions
from detect.googlenet import MAP_BLOCKS, GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.precision import best_precision
from detect.prepare import prepare_network, with_compiled_pools
from detect.region_training import (
    RegionSampler,
    SamplingConfig,
    distort_colours,
    hardest,
    region_losses,
    summarise_losses,
)
from detect.shared_geometry import map_boxes, resize_image
from detect.shared_trunk import SharedTrunk
from detect.training import Part

BLOCKS = (*MAP_BLOCKS, "5a", "5b", "head")  # the last: the network stays as it is
_AUXILIARY_DROPOUT = 0.7  # the paper's
_AUXILIARY = {"4a": "aux1", "4d": "aux2"}


@dataclass(frozen=True)
class PreparedDraw:
    """What the trained part takes.

    Attributes:
        inputs: Output of the last block that is not trained: of the photo, or of each crop.
        regions: The candidates, on the network's device.
        boxes: The same on the map, for a shared trunk, ``[N, 4]``.
    """

    inputs: Tensor
    regions: LabelledRegions
    boxes: Tensor | None = None


class SharedObjective:
    """Regions sampled from one map of the photo, as ``SharedTrunkClassifier`` does.

    Args:
        trunk: float32, channels last; the blocks before ``train_from`` stay as they are.
        head: Starts as given.
        sampler: Draws the regions, level by level.

    Raises:
        ValueError: If ``train_from`` is no block.
    """

    def __init__(self, trunk: SharedTrunk, head: RegionHead, sampler: RegionSampler) -> None:
        network = with_compiled_pools(trunk.network)
        self.trunk = SharedTrunk(network, trunk.preprocessing, trunk.config)
        self.head, self.sampler = head, sampler
        self.config = sampler.config
        self.num_photos = len(sampler.records)
        self.device = trunk.network.device
        self.parts: Sequence[Part] = choose_parts(trunk.network, head, self.config.train_from)
        frozen = _prepare(trunk.network)
        self._frozen = SharedTrunk(frozen, trunk.preprocessing, trunk.config)

    @torch.no_grad()
    def prepare(self, draw: int, generator: torch.Generator) -> PreparedDraw:
        """Run what is not trained of a draw: see ``detect.training.Objective``."""
        sample = self.sampler(draw, generator)
        image = resize_image(sample.image.to(self.device), sample.scale)
        image = distort_colours(image, self.config.colour_jitter, generator)
        inputs = self.trunk.preprocessing(image)
        inputs = _frozen_blocks(self._frozen.network, inputs, self.config.train_from)
        size = (sample.image.shape[-2], sample.image.shape[-1])
        boxes = map_boxes(sample.regions.boxes, size, sample.scale)
        return PreparedDraw(inputs, sample.regions.to(self.device), boxes.to(self.device))

    def loss(
        self, prepared: PreparedDraw, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        boxes, maps = prepared.boxes, prepared.inputs
        assert boxes is not None
        if self.config.train_from in MAP_BLOCKS:
            with _autocast(self.device):
                maps = self.trunk.network.map_blocks(maps, self.config.train_from, "4e")
        chosen = self._choose(maps.detach(), boxes, prepared.regions)
        with _autocast(self.device):
            features = self.trunk.network.inception5(self.trunk.pooled_boxes(maps, boxes[chosen]))
        features = drop(features.float(), self.config.dropout, generator)
        return region_loss(self.head, features, prepared.regions[chosen], self.config)

    @torch.no_grad()
    def _choose(self, maps: Tensor, boxes: Tensor, regions: LabelledRegions) -> Tensor:
        """Return the places of the regions that the network is most wrong about."""
        if len(boxes) <= self.config.regions_per_photo:
            return torch.arange(len(boxes), device=boxes.device)
        with _autocast(self.device):
            pooled = self._frozen.pooled_boxes(maps.to(self._frozen.network.dtype), boxes)
            features = self.trunk.network.inception5(pooled)
        return choose_hardest(self.head, features.float(), regions, self.config)


class CropObjective:
    """Regions warped to squares, each through the whole network, as in R-CNN and the paper.

    Args:
        network: float32, channels last; with auxiliary classifiers whose last layers give the
            head's logits, where they take part.
        head: Starts as given.
        sampler: Draws the regions from whole photos.
        preprocessing: What the network expects of its input.
        crop: Size, context and fill of the crops.
        auxiliary_weight: Of each auxiliary classifier's loss; the paper's is 0.3. 0: none.

    Raises:
        ValueError: If ``train_from`` is no block, or lies behind the auxiliary classifiers.
    """

    def __init__(
        self,
        network: GoogLeNet,
        head: RegionHead,
        sampler: RegionSampler,
        *,
        preprocessing: Preprocessing,
        crop: CropConfig,
        auxiliary_weight: float = 0.0,
    ) -> None:
        self.network = with_compiled_pools(network)
        self.head, self.sampler = head, sampler
        self.preprocessing, self.crop = preprocessing, crop
        self.auxiliary_weight = auxiliary_weight
        self.config = sampler.config
        self.num_photos = len(sampler.records)
        self.device = network.device
        self.parts: Sequence[Part] = choose_parts(network, head, self.config.train_from)
        if auxiliary_weight:
            if BLOCKS.index(self.config.train_from) > BLOCKS.index("4a"):
                raise ValueError(
                    f"train_from={self.config.train_from}: auxiliary classifiers sit on 4a and 4d; "
                    "train from 4a or before, or set head.auxiliary_weight=0"
                )
            auxiliary = nn.ModuleList([network.aux1, network.aux2]).requires_grad_(True)
            self.parts = [*self.parts, Part(auxiliary, fresh=True)]
        self._frozen = _prepare(network)

    @torch.no_grad()
    def prepare(self, draw: int, generator: torch.Generator) -> PreparedDraw:
        """Run what is not trained of a draw: see ``detect.training.Objective``."""
        sample = self.sampler(draw, generator)
        crops = crop_boxes(sample.image.to(self.device), sample.regions.boxes, self.crop)
        crops = distort_colours(crops, self.config.colour_jitter, generator)
        inputs = self.preprocessing(crops)
        inputs = _frozen_blocks(self._frozen, inputs, self.config.train_from)
        if self.config.train_from not in MAP_BLOCKS:
            inputs = self._frozen.pool4(inputs)
        return PreparedDraw(inputs, sample.regions.to(self.device))

    def loss(
        self, prepared: PreparedDraw, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        inputs, regions, config = prepared.inputs, prepared.regions, self.config
        chosen = self._choose(inputs, regions)
        inputs, regions = inputs[chosen], regions[chosen]
        features, auxiliary = self._features(inputs, generator if self.auxiliary_weight else None)
        features = drop(features.float(), config.dropout, generator)
        loss, losses = region_loss(self.head, features, regions, config)
        for logits in auxiliary:
            auxiliary_loss = F.cross_entropy(logits.float(), regions.labels)
            loss = loss + self.auxiliary_weight * auxiliary_loss
            losses["auxiliary_loss"] = losses.get("auxiliary_loss", 0.0) + auxiliary_loss.item()
        return loss, losses

    def _features(
        self, inputs: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Tensor]]:
        return run_blocks(self.network, inputs, self.config.train_from, generator)

    @torch.no_grad()
    def _choose(self, inputs: Tensor, regions: LabelledRegions) -> Tensor:
        """Return the places of the regions that the network is most wrong about."""
        if len(inputs) <= self.config.regions_per_photo:
            return torch.arange(len(inputs), device=inputs.device)
        features, _ = self._features(inputs, None)
        return choose_hardest(self.head, features.float(), regions, self.config)


def region_loss(
    head: RegionHead, features: Tensor, regions: LabelledRegions, config: SamplingConfig
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss of regions ``[N]`` from features ``[N, 1024]``, and what to log."""
    class_losses, box_losses, logits = region_losses(head, features, regions, config.box_weight)
    loss = (class_losses.sum() + box_losses.sum()) / max(1, len(regions.labels))
    return loss, summarise_losses(class_losses, box_losses, logits, regions.labels)


def choose_hardest(
    head: RegionHead, features: Tensor, regions: LabelledRegions, config: SamplingConfig
) -> Tensor:
    """Return the places of those candidates ``[N]`` that are learned from."""
    class_losses, box_losses, _ = region_losses(head, features, regions, config.box_weight)
    return hardest(class_losses + box_losses, regions.boxes, config.regions_per_photo)


def run_blocks(
    network: GoogLeNet, inputs: Tensor, first: str, generator: torch.Generator | None
) -> tuple[Tensor, list[Tensor]]:
    """Run the blocks from one on; with a generator, the auxiliary classifiers beside them.

    Args:
        network: With auxiliary classifiers, where there is a generator.
        inputs: Of the first block, ``[N, C, H, W]``; of 5a and 5b: behind pool4.
        first: One of ``BLOCKS``.
        generator: Of the auxiliary classifiers' dropout.

    Returns:
        Features before dropout, ``[N, 1024]``, and logits of each auxiliary classifier.
    """
    auxiliary = []
    with _autocast(network.device):
        if first in MAP_BLOCKS:
            for name in MAP_BLOCKS[MAP_BLOCKS.index(first) :]:
                inputs = network.map_blocks(inputs, name, name)
                if generator is not None and name in _AUXILIARY:
                    classifier = getattr(network, _AUXILIARY[name])
                    hidden = drop(classifier.hidden(inputs), _AUXILIARY_DROPOUT, generator)
                    auxiliary.append(classifier.fc2(hidden))
            inputs = network.pool4(inputs)
        return network.inception5(inputs), auxiliary


def drop(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Apply dropout; what is dropped follows from the generator, on every device."""
    kept = torch.rand(features.shape, generator=generator) >= share
    return features * kept.to(features.device) / (1 - share)


def choose_parts(network: GoogLeNet, head: RegionHead, train_from: str) -> list[Part]:
    """Let the head and the blocks from one on ask for gradients, and no other block.

    Raises:
        ValueError: If the network has no such block.
    """
    if train_from not in BLOCKS:
        raise ValueError(f"train_from={train_from!r}: must be one of {', '.join(BLOCKS)}")
    network.requires_grad_(False)
    names = BLOCKS[max(1, BLOCKS.index(train_from)) : -1]
    blocks: list[nn.Module] = [getattr(network, f"inception{name}") for name in names]
    if train_from == "conv":
        blocks = [network.conv1, network.conv2, network.conv3, *blocks]
    parts = [Part(nn.ModuleList(blocks).requires_grad_(True))] if blocks else []
    return [*parts, Part(head.requires_grad_(True), fresh=True)]


def _prepare(network: GoogLeNet) -> GoogLeNet:
    device = network.device
    return prepare_network(network, dtype=best_precision(device), device=device)


def _frozen_blocks(frozen: GoogLeNet, inputs: Tensor, train_from: str) -> Tensor:
    """Run the blocks before the first one that is trained."""
    first = BLOCKS.index(train_from)
    if not first:
        return inputs
    last = MAP_BLOCKS[min(first, len(MAP_BLOCKS)) - 1]
    return frozen.map_blocks(inputs.to(frozen.dtype), "conv", last)


def _autocast(device: torch.device) -> torch.autocast:
    enabled = best_precision(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
