"""The two ways to train a region classifier: on regions of a shared map, or on crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detect.crops import CropConfig, crop_boxes
from detect.data.regions import LabelledRegions
from detect.googlenet import MAP_BLOCKS, GoogLeNet
from detect.heads import RegionHead
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.region_training import (
    RegionSampler,
    Sample,
    SamplingConfig,
    distort_colours,
    hardest,
    region_losses,
    summarise_losses,
)
from detect.shared_geometry import map_boxes, resize_image
from detect.shared_trunk import SharedTrunk
from detect.training import Part

BLOCKS = (*MAP_BLOCKS, "5a", "5b")


class SharedObjective:
    """Regions sampled from one map of the photo, as ``SharedTrunkClassifier`` does.

    Args:
        trunk: float32, channels last; the blocks before ``train_from`` stay as they are.
        head: Starts as given.
        sampler: Draws the regions, level by level.
    """

    def __init__(self, trunk: SharedTrunk, head: RegionHead, sampler: RegionSampler) -> None:
        self.trunk, self.head, self.sampler = trunk, head, sampler
        self.num_photos = len(sampler.records)
        self.config = sampler.config
        self.device = trunk.network.device
        self.parts = _choose_parts(trunk.network, head, self.config.train_from)
        self._first = BLOCKS.index(self.config.train_from)
        self._frozen = _prepared(trunk.network, self._first)
        self._prepared = SharedTrunk(self._frozen, trunk.preprocessing, trunk.config)

    @torch.no_grad()
    def prepare(self, draw: int, generator: torch.Generator) -> tuple[Tensor, LabelledRegions]:
        """Return what the trained part takes of a draw: see ``detect.training.Objective``."""
        sample = self.sampler(draw, generator)
        image = resize_image(sample.image.to(self.device), sample.scale)
        image = distort_colours(image, self.config.colour_jitter, generator)
        maps = self.trunk.preprocessing(image)
        if self._first:
            last = MAP_BLOCKS[min(self._first, len(MAP_BLOCKS)) - 1]
            maps = self._frozen.map_blocks(maps.to(self._frozen.dtype), "conv", last)
        size = (sample.image.shape[-2], sample.image.shape[-1])
        boxes = map_boxes(sample.regions.boxes, size, sample.scale)
        return maps, boxes.to(self.device), sample.regions.to(self.device)

    def loss(self, prepared, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        maps, boxes, regions = prepared
        with _autocast(self.device):
            if self._first < len(MAP_BLOCKS):
                maps = self.trunk.network.map_blocks(maps, self.config.train_from, "4e")
        chosen = self._choose(maps, boxes, regions)
        regions = regions[chosen]
        with _autocast(self.device):
            trunk = self.trunk if maps.requires_grad else self._prepared
            features = self.trunk.network.inception5(trunk.pooled_boxes(maps, boxes[chosen]))
        return _final_loss(self.head, features, regions, self.config, generator)

    @torch.no_grad()
    def _choose(self, maps: Tensor, boxes: Tensor, regions: LabelledRegions) -> Tensor:
        """Return the places of the regions that the network is most wrong about."""
        count = self.config.regions_per_photo
        if len(boxes) <= count:
            return torch.arange(len(boxes), device=boxes.device)
        with _autocast(self.device):
            pooled = self._prepared.pooled_boxes(maps.detach().to(self._frozen.dtype), boxes)
            features = self.trunk.network.inception5(pooled).float()
        losses = region_losses(self.head, features, regions, self.config.box_weight)
        return hardest(losses[0] + losses[1], regions.boxes, count)


class CropObjective:
    """Regions warped to squares, each through the whole network, as in R-CNN and the paper.

    Args:
        network: float32, channels last, with auxiliary classifiers where they take part.
        head: Starts as given.
        sampler: Draws the regions.
        crop: Size, context and fill of the crops.
        auxiliary_weight: Of each auxiliary classifier's loss; the paper's is 0.3.
    """

    def __init__(
        self,
        trunk: SharedTrunk,
        head: RegionHead,
        sampler: RegionSampler,
        crop: CropConfig,
        *,
        auxiliary_weight: float = 0.0,
    ) -> None:
        self.network, self.preprocessing = trunk.network, trunk.preprocessing
        self.head, self.sampler, self.crop = head, sampler, crop
        self.auxiliary_weight = auxiliary_weight
        self.num_photos = len(sampler.records)
        self.config = sampler.config
        self.device = self.network.device
        self.parts = _choose_parts(self.network, head, self.config.train_from)
        self._first = BLOCKS.index(self.config.train_from)
        self._frozen = _prepared(self.network, self._first)

    def loss(self, draw: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        sample = self.sampler(draw, generator)
        ...
        raise NotImplementedError


def _final_loss(
    head: RegionHead,
    features: Tensor,
    regions: LabelledRegions,
    config: SamplingConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Apply dropout and the head; return the mean loss of the regions and what to log."""
    dropout = config.dropout
    kept = torch.rand(features.shape, generator=generator) >= dropout
    features = features.float() * kept.to(features.device) / (1 - dropout)
    class_losses, box_losses, logits = region_losses(head, features, regions, config.box_weight)
    count = max(1, len(regions.labels))
    loss = (class_losses.sum() + box_losses.sum()) / count
    return loss, summarise_losses(class_losses, box_losses, logits, regions.labels)


def _choose_parts(network: GoogLeNet, head: RegionHead, train_from: str) -> list[Part]:
    """Let the blocks from one on ask for gradients, and no other.

    Raises:
        ValueError: If the network has no such block.
    """
    if train_from not in BLOCKS:
        raise ValueError(f"train_from={train_from!r}: must be one of {', '.join(BLOCKS)}")
    network.requires_grad_(False)
    blocks: list[nn.Module] = [
        getattr(network, f"inception{name}")
        for name in BLOCKS[max(1, BLOCKS.index(train_from)) :]
    ]
    if train_from == "conv":
        blocks = [network.conv1, network.conv2, network.conv3, *blocks]
    trained = nn.ModuleList(blocks).requires_grad_(True)
    return [Part(trained), Part(head.requires_grad_(True), fresh=True)]


def _prepared(network: GoogLeNet, first: int) -> GoogLeNet:
    device = network.device
    return prepare_network(network, dtype=best_precision(device), device=device)


def _autocast(device: torch.device) -> torch.autocast:
    enabled = best_precision(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
