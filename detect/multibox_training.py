"""What a draw of a MultiBox's training is: a photo at one scale, its objects, and their loss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from detect.data.records import Record
from detect.data.regions import mirror_boxes
from detect.images import read_image
from detect.multibox_store import FeatureStore, PreparedPhoto
from detect.multibox_trunk import WholeImageFeatures, locate_map, warp, whole_map
from detect.region_training import distort_colours
from detect.shared_geometry import (
    STRIDE,
    SharedTrunkConfig,
    region_levels,
    resize_image,
    resized_size,
)
from detect.shared_trunk import SharedTrunk
from detect.training import Part, photo_of
from proposals.multibox import MultiBox
from proposals.multibox_loss import MultiBoxLossConfig, match_priors, multibox_loss
from proposals.priors import centred, cluster_places, cluster_shapes

_FROM_OBJECTS = 0.75  # share of draws at the level of an object drawn at random
_CROPPED = 0.5  # share of draws that are a part of the photo, where there is no pyramid
_LEAST_CROP = 0.5  # of the photo's sides
_LEAST_INSIDE = 0.5  # of an object's area, for it to be learned in a part of the photo


@dataclass
class MultiBoxSamplingConfig:
    """How photos are varied.

    Raises:
        ValueError: If there is no variant.
    """

    mirror: bool = True  # every second photo left to right
    scale_jitter: float = 0.25  # octaves up or down that a level's size varies
    colour_jitter: float = 0.2  # brightness, contrast and saturation vary by this share
    variants: int = 3  # ways in which each photo is seen, in turn

    def __post_init__(self) -> None:
        if self.variants < 1:
            raise ValueError(f"variants={self.variants}: give 1 or more")


class Show(Protocol):
    """Makes features of a photo, as a draw of the training sees it."""

    def __call__(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> PreparedPhoto:
        """Show an RGB uint8 image ``[3, H, W]`` and its objects ``[G, 4]``."""
        ...


class LevelShow:
    """One level of a shared trunk's pyramid, of about its size.

    An object claims a prior at the level from which a region of its size is cut; at other levels
    it is matched with what overlaps it enough.

    Args:
        trunk: Frozen, prepared or not; its pyramid holds the levels.
        sampling: How photos are varied.
    """

    def __init__(self, trunk: SharedTrunk, sampling: MultiBoxSamplingConfig) -> None:
        self.trunk, self.sampling = trunk, sampling

    @torch.no_grad()
    def __call__(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> PreparedPhoto:
        """Show a photo: see ``Show``."""
        size, config = (image.shape[-2], image.shape[-1]), self.trunk.config
        levels = region_levels(boxes, size, config)
        level = _draw_level(levels, len(config.pyramid), generator)
        octaves = self.sampling.scale_jitter * (2 * torch.rand((), generator=generator).item() - 1)
        factor = config.pyramid[level] * 2**octaves
        network = self.trunk.network
        inputs = resize_image(image.to(network.device), config, factor)
        inputs = distort_colours(inputs, self.sampling.colour_jitter, generator)
        maps = network.stem(self.trunk.preprocessing(inputs).to(network.dtype))
        features = locate_map(network.inception4(maps), size, config, factor)
        return PreparedPhoto(features, boxes, levels == level)


class PartShow:
    """The whole photo, or a part of it, as one vector of features: the form of the 2014 paper.

    Args:
        features: Makes them; the network stays as it is.
        sampling: How photos are varied; there is no scale to vary.
    """

    def __init__(self, features: WholeImageFeatures, sampling: MultiBoxSamplingConfig) -> None:
        self.features, self.sampling = features, sampling

    @torch.no_grad()
    def __call__(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> PreparedPhoto:
        """Show a photo: see ``Show``."""
        network = self.features.network
        window = draw_window((image.shape[-2], image.shape[-1]), generator)
        inputs = distort_colours(warp(image, window), self.sampling.colour_jitter, generator)
        inputs = self.features.preprocessing(inputs.to(network.device)).to(network.dtype)
        objects = objects_inside(boxes, window)
        claims = torch.ones(len(objects), dtype=torch.bool)
        return PreparedPhoto(whole_map(network.features(inputs), window), objects, claims)


class MultiBoxObjective:
    """MultiBox on the features of photos; the network that makes them stays as it is.

    Every photo is seen in a number of variants, which come again in turn, so that their features
    can be kept on the disk. What is learned from does not depend on what is kept there.

    Args:
        multibox: On the network's device.
        show: Makes the features.
        records: The training photos.
        sampling: How they are varied.
        loss: What is matched, and what the location is worth.
        store: Keeps features; None: computed anew each time.
        seed: Of the order of photos, and of the variants.
    """

    def __init__(
        self,
        multibox: MultiBox,
        show: Show,
        records: Sequence[Record],
        *,
        sampling: MultiBoxSamplingConfig,
        loss: MultiBoxLossConfig,
        store: FeatureStore | None = None,
        seed: int = 0,
    ) -> None:
        self.multibox, self.show, self.records = multibox, show, list(records)
        self.sampling, self.loss_config = sampling, loss
        self.store, self.seed = store, seed
        self.parts: Sequence[Part] = [Part(multibox, fresh=True)]
        self.num_photos = len(self.records)

    def prepare(self, draw: int, generator: torch.Generator) -> PreparedPhoto:
        """Make the features of a draw's photo: see ``detect.training.Objective``."""
        record = self.records[photo_of(draw, self.num_photos, self.seed)]
        variant = draw // self.num_photos % self.sampling.variants
        digest = record_digest(record, self.seed, variant)
        key = digest.hex()[:24]
        kept = self.store.get(key) if self.store else None
        if kept is None:
            photo_seed = int.from_bytes(digest[-8:], "big") >> 1
            kept = self._shown(record, torch.Generator().manual_seed(photo_seed))
            if self.store:
                self.store.put(key, kept)
        device = self.multibox.priors.device
        features = replace(kept.features, values=kept.features.values.to(device).float())
        return PreparedPhoto(features, kept.objects.to(device), kept.claims.to(device))

    def _shown(self, record: Record, generator: torch.Generator) -> PreparedPhoto:
        image, boxes = load_mirrored(record, self.sampling.mirror, generator)
        shown = self.show(image, boxes, generator)
        values = shown.features.values.half().contiguous()  # as they are kept
        return replace(shown, features=replace(shown.features, values=values))

    def loss(
        self, prepared: PreparedPhoto, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        return photo_loss(self.multibox, prepared, self.loss_config)


def record_digest(record: Record, seed: int, variant: int) -> bytes:
    """Return what a variant of a photo follows from, whichever photos it is learned with."""
    content = [record.name, record.width, record.height, record.boxes.tolist(), seed, variant]
    return hashlib.sha256(json.dumps(content).encode()).digest()


def photo_loss(
    multibox: MultiBox, photo: PreparedPhoto, config: MultiBoxLossConfig
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a photo, and what to log of it."""
    logits, residuals = multibox(photo.features.values)
    priors = multibox.place(photo.features)
    matches = match_priors(priors, photo.objects, config, claims=photo.claims)
    confidence, location = multibox_loss(
        logits[0], residuals[0], priors, photo.objects, matches, config
    )
    logged = {"confidence_loss": confidence.item(), "location_loss": location.item()}
    return confidence + location, logged


def load_mirrored(
    record: Record, mirror: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Read a photo and its objects, mirrored every second time."""
    assert record.path is not None
    image, boxes = read_image(record.path), record.boxes
    if mirror and torch.rand((), generator=generator) < 0.5:
        image, boxes = image.flip(-1), mirror_boxes(boxes, image.shape[-1])
    return image, boxes


def draw_window(
    image_size: tuple[int, int], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw the whole image or a part of it: left, top, width, height."""
    height, width = image_size
    whole = torch.rand((), generator=generator).item() >= _CROPPED
    draws = torch.rand(4, generator=generator).tolist()
    if whole:
        return 0, 0, width, height
    w, h = (
        max(1, round(side * (_LEAST_CROP + (1 - _LEAST_CROP) * draw)))
        for side, draw in zip((width, height), draws, strict=False)
    )
    return round((width - w) * draws[2]), round((height - h) * draws[3]), w, h


def objects_inside(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Cut boxes ``[N, 4]`` to a window; keep those that mostly lie inside it."""
    left, top, width, height = window
    low = boxes.new_tensor([left, top])
    high = boxes.new_tensor([left + width, top + height])
    cut = torch.cat([torch.maximum(boxes[:, :2], low), torch.minimum(boxes[:, 2:], high)], dim=1)
    inside = (cut[:, 2:] - cut[:, :2]).clamp(min=0).prod(dim=1)
    return cut[inside >= _LEAST_INSIDE * (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)]


def grid_priors(
    records: Sequence[Record], config: SharedTrunkConfig, count: int, seed: int
) -> Tensor:
    """Choose the shapes of objects at the levels they claim priors of, in strides, ``[K, 4]``."""
    sides = []
    for record in records:
        size = (record.height, record.width)
        levels = region_levels(record.boxes, size, config)
        for box, level in zip(record.boxes, levels.tolist(), strict=True):
            height, width = resized_size(size, config, config.pyramid[level])
            zoom = box.new_tensor([width / size[1], height / size[0]])
            sides.append((box[2:] - box[:2]) * zoom / STRIDE)
    return cluster_shapes(torch.stack(sides) if sides else torch.zeros(0, 2), count, seed)


def whole_priors(records: Sequence[Record], count: int, seed: int) -> Tensor:
    """Choose places of objects relative to the middle of their photo, ``[K, 4]``."""
    places = [
        centred(record.boxes / record.boxes.new_tensor([record.width, record.height] * 2))
        for record in records
    ]
    middle = torch.tensor([0.5, 0.5, 0.0, 0.0])
    return cluster_places(torch.cat(places) - middle, count, seed)


def _draw_level(levels: Tensor, count: int, generator: torch.Generator) -> int:
    """Choose the level of an object, three times in four, or any."""
    if len(levels) and torch.rand((), generator=generator) < _FROM_OBJECTS:
        return int(levels[torch.randint(len(levels), (), generator=generator)])
    return int(torch.randint(count, (), generator=generator))
