"""What a draw of a training is: regions of one photo, and their loss.

The loss is Fast R-CNN's (Girshick 2015): cross entropy over classes and background, and smooth L1
on the box offsets of foreground regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from detect.data.records import Record
from detect.data.regions import LabelledRegions, label_regions, sample_regions
from detect.heads import RegionHead, encode_boxes
from detect.images import read_image
from detect.shared_geometry import SharedTrunkConfig, region_levels, resized_size
from detect.training import photo_of
from proposals.overlaps import nms

_FROM_OBJECTS = 0.75  # share of draws whose level and window are those of an object
_NO_LIMIT = 1 << 30
_DUPLICATE_IOU = 0.7  # among hard regions, only the hardest of those that overlap this much


@dataclass
class SamplingConfig:
    """Which regions a photo is learned from, how they are changed, and what their loss is.

    Raises:
        ValueError: If fewer candidates than regions are asked for.
    """

    regions_per_photo: int = 48  # Fast R-CNN: 64; R-CNN: 128 from many photos
    candidates_per_photo: int = 144  # of which the hardest are learned from (OHEM, 2016)
    foreground_fraction: float = 0.25  # share of candidates that show an object; R-CNN
    foreground_iou: float = 0.5  # overlap from which a region shows an object; R-CNN
    jittered_truth: int = 0  # random boxes about each object that join the proposals
    mirror: bool = True  # every second photo left to right
    scale_jitter: float = 0.25  # octaves up or down that a level's size varies, shared trunk
    window: int = 512  # pixels of a level, at most, that a draw sees a side; shared trunk
    colour_jitter: float = 0.2  # brightness, contrast and saturation vary by this share
    dropout: float = 0.4  # share of the features dropped; the paper's
    box_weight: float = 1.0  # weight of the box loss; Fast R-CNN
    train_from: str = "4a"  # first block that is trained, conv to 5b, or head; those before stay

    def __post_init__(self) -> None:
        if self.candidates_per_photo < self.regions_per_photo:
            raise ValueError(
                f"candidates_per_photo={self.candidates_per_photo} must not be fewer than "
                f"regions_per_photo={self.regions_per_photo}"
            )


@dataclass(frozen=True)
class Sample:
    """Regions of one photo, or of a part of it, mirrored or not.

    Attributes:
        image: RGB uint8, ``[3, H, W]``.
        regions: Candidates for learning, in pixels of the image.
        scale: How the image enters a shared trunk.
    """

    image: Tensor
    regions: LabelledRegions
    scale: SharedTrunkConfig


class RegionSampler:
    """Draws labelled regions from photos.

    Args:
        records: The training set, every photo readable.
        proposals: Boxes of each photo by its name, ``[N, 4]``.
        num_classes: Without background.
        config: How to draw.
        seed: Of the order of photos.
        pyramid: Of a shared trunk: the regions of a draw come from one level, and from a window of
            it. None: from the whole photo.
    """

    def __init__(
        self,
        records: Sequence[Record],
        proposals: Mapping[str, Tensor],
        num_classes: int,
        config: SamplingConfig,
        *,
        seed: int = 0,
        pyramid: SharedTrunkConfig | None = None,
    ) -> None:
        if not records:
            raise ValueError("no photos to train on")
        self.records, self.proposals = list(records), proposals
        self.num_classes, self.config, self.seed = num_classes, config, seed
        self.pyramid = pyramid

    def __call__(self, draw: int, generator: torch.Generator) -> Sample:
        """Return the regions of a draw; everything random comes from the generator."""
        config = self.config
        record = self.records[photo_of(draw, len(self.records), self.seed)]
        assert record.path is not None
        image = read_image(record.path)
        size = (image.shape[-2], image.shape[-1])
        proposals = self.proposals[record.name]
        if config.jittered_truth:
            near = jitter_boxes(record.boxes, config.jittered_truth, size, generator)
            proposals = torch.cat([near, proposals])
        regions = label_regions(proposals, record, self.num_classes, config.foreground_iou)
        scale = SharedTrunkConfig()
        if self.pyramid is not None and len(regions.boxes):
            image, regions, scale = self._at_a_level(image, regions, self.pyramid, generator)
        regions = sample_regions(
            regions,
            config.candidates_per_photo,
            num_classes=self.num_classes,
            foreground_fraction=config.foreground_fraction,
            generator=generator,
        )
        if config.mirror and torch.rand((), generator=generator) < 0.5:
            regions = regions.mirrored(image.shape[-1])
            image = image.flip(-1)
        return Sample(image, regions, scale)

    def _at_a_level(
        self,
        image: Tensor,
        regions: LabelledRegions,
        pyramid: SharedTrunkConfig,
        generator: torch.Generator,
    ) -> tuple[Tensor, LabelledRegions, SharedTrunkConfig]:
        """Keep the regions of one level in one window about a region drawn at random."""
        size = (image.shape[-2], image.shape[-1])
        levels = region_levels(regions.boxes, size, pyramid)
        centre = self._draw_centre(regions, generator)
        level = int(levels[centre])
        octaves = self.config.scale_jitter * (2 * torch.rand((), generator=generator).item() - 1)
        height, width = resized_size(size, pyramid, pyramid.pyramid[level] * 2**octaves)
        zoom = (height * width / (size[0] * size[1])) ** 0.5
        x, y, w, h = place_window(
            regions.boxes[centre], size, round(self.config.window / zoom), generator
        )
        inside = (regions.boxes >= regions.boxes.new_tensor([x, y, x, y])).all(dim=1)
        inside &= (regions.boxes <= regions.boxes.new_tensor([x + w, y + h] * 2)).all(dim=1)
        inside[centre] = True
        scale = replace(
            pyramid, shorter_side=max(1, round(min(w, h) * zoom)), max_side=_NO_LIMIT, pyramid=[1.0]
        )
        kept = regions[inside & (levels == level)].shifted(-x, -y)
        return image[:, y : y + h, x : x + w], kept, scale

    def _draw_centre(self, regions: LabelledRegions, generator: torch.Generator) -> int:
        """Choose a region: three times in four one that shows an object."""
        foreground = (regions.labels < self.num_classes).nonzero().flatten()
        objects = foreground[foreground < regions.num_objects]
        if len(objects) and torch.rand((), generator=generator) < _FROM_OBJECTS:
            return int(objects[torch.randint(len(objects), (), generator=generator)])
        return int(torch.randint(len(regions.labels), (), generator=generator))


def place_window(
    box: Tensor, image_size: tuple[int, int], side: int, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Place a window at random so that it holds a box: left, top, width, height.

    It is as large as asked for, or as the box, or as the image where that is smaller.
    """
    place = []
    for axis, limit in ((0, image_size[1]), (1, image_size[0])):
        low, high = math.floor(box[axis].item()), math.ceil(box[axis + 2].item())
        length = min(limit, max(side, high - low))
        first, last = max(0, high - length), min(low, limit - length)
        at = torch.rand((), generator=generator).item()
        place.append((round(first + at * (max(first, last) - first)), length))
    (x, width), (y, height) = place
    return x, y, width, height


def jitter_boxes(
    boxes: Tensor, count: int, image_size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return boxes near the given ones, which mostly overlap them by more than a half.

    Args:
        boxes: Objects, ``[N, 4]``.
        count: Boxes for each of them.
        image_size: Height and width of the image, which they are clipped to.
        generator: Of what is random.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(count, 2)
    shifts = (torch.rand(sides.shape, generator=generator) - 0.5) * 0.4  # of each edge
    height, width = image_size
    moved = boxes.repeat(count, 1) + shifts * sides
    return torch.minimum(moved.clamp(min=0), moved.new_tensor([width, height, width, height]))


def distort_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Vary brightness, contrast and saturation of RGB images 0..255, all of them alike.

    After Howard, "Some improvements on deep convolutional neural network based image
    classification", 2013, which the paper's section 6 refers to.

    Args:
        images: ``[N, 3, H, W]``.
        strength: Each factor lies within ``1 - strength`` and ``1 + strength``.
        generator: Of the three factors.
    """
    if not strength:
        return images
    factors = 1 + strength * (2 * torch.rand(3, generator=generator) - 1)
    brightness, contrast, saturation = factors.tolist()
    grey = images.mean(dim=1, keepdim=True)
    images = grey + saturation * (images - grey)
    images = grey.mean() + contrast * (images - grey.mean())
    distorted: Tensor = (images * brightness).clamp(0, 255)
    return distorted


def region_losses(
    head: RegionHead, features: Tensor, regions: LabelledRegions, box_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return class losses and weighted box losses of regions, ``[N]`` each, and logits.

    Args:
        head: Softmax and box regression.
        features: After dropout, ``[N, 1024]``.
        regions: What they show, on the device of the features.
        box_weight: Of the box losses.
    """
    logits, offsets = head(features)
    class_losses = F.cross_entropy(logits, regions.labels, reduction="none")
    box_losses = box_regression_losses(offsets, regions.boxes, regions.labels, regions.targets)
    return class_losses, box_weight * box_losses, logits


def box_regression_losses(
    offsets: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor
) -> Tensor:
    """Return smooth L1 of the offsets of each region, ``[N]``; nothing for background.

    Args:
        offsets: Predicted for every class, ``[N, C, 4]``.
        boxes: Regions, ``[N, 4]``.
        labels: Their classes; C is background, ``[N]``.
        targets: Where foreground regions should move, ``[N, 4]``.
    """
    foreground = (labels < offsets.shape[1]).nonzero().flatten()
    wanted = encode_boxes(boxes[foreground], targets[foreground])
    predicted = offsets[foreground, labels[foreground]]
    losses = F.smooth_l1_loss(predicted, wanted, reduction="none").sum(1)
    return offsets.new_zeros(len(labels)).index_put((foreground,), losses)


def hardest(losses: Tensor, boxes: Tensor, count: int) -> Tensor:
    """Choose the regions with the largest losses, but only one of those that nearly coincide.

    Shrivastava et al., "Training region-based object detectors with online hard example mining",
    2016, section 4. Where too few are left, the next hardest fill up.

    Args:
        losses: ``[N]``.
        boxes: ``[N, 4]``.
        count: How many to choose, at most ``N``.

    Returns:
        Their places, ascending, int64.
    """
    kept: Tensor = nms(boxes.float(), losses.float(), _DUPLICATE_IOU)[:count]
    if len(kept) < count:
        others = losses.clone()
        others[kept] = -torch.inf
        kept = torch.cat([kept, others.argsort(descending=True, stable=True)[: count - len(kept)]])
    return kept.sort().values


def summarise_losses(
    class_losses: Tensor, box_losses: Tensor, logits: Tensor, labels: Tensor
) -> dict[str, float]:
    """Return what is logged of the regions of a draw."""
    foreground = labels < logits.shape[1] - 1
    correct = (logits.argmax(1) == labels).float()
    return {
        "class_loss": class_losses.mean().item(),
        "box_loss": box_losses.mean().item(),
        "foreground_accuracy": correct[foreground].mean().item(),
        "background_accuracy": correct[~foreground].mean().item(),
    }
