"""Region classification with a shared trunk: convolutions once an image, inception 5 a region.

As SPPnet (He et al. 2014) and Fast R-CNN (Girshick 2015) do, conv1 .. 4e run once on the whole
image; every region then samples 14 x 14 points of that map, which is what 4e holds for a 224 x 224
crop, and pool4, 5a, 5b go on as if it had been cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from detect.googlenet import PREPROCESSING, GoogLeNet, Preprocessing
from detect.heads import RegionHead, decode_boxes
from detect.imagenet import load_imagenet

STRIDE = 16  # pixels of the resized image between two points of the map after 4e
# Centre of the map's first point, in pixels: the ceil-mode pools without padding shift the grid.
FIRST_CENTRE = 14.5
POINTS = 14  # a side of a region, as in a 224 x 224 crop


@dataclass
class SharedTrunkConfig:
    """How an image becomes a map, and a region a piece of it."""

    shorter_side: int = 600  # pixels, the image is resized to it (Fast R-CNN)
    max_side: int = 1000  # pixels, the longer side's limit (Fast R-CNN)
    context: float = 16 / 224  # share of a region's side that is context, on each side (R-CNN)


def resized_size(image_size: tuple[int, int], config: SharedTrunkConfig) -> tuple[int, int]:
    """Return the height and width at which an image of this height and width enters the trunk."""
    scale = min(config.shorter_side / min(image_size), config.max_side / max(image_size))
    # At least two points of the map a side, for a bilinear sample to have its neighbours.
    height, width = (max(round(side * scale), 3 * STRIDE) for side in image_size)
    return height, width


class SharedTrunk(nn.Module):
    """The whole-image part and the per-region part of one GoogLeNet.

    Args:
        network: A GoogLeNet without classifier.
        preprocessing: What the network expects of its input.
        config: Scale of the image and context of the regions.
    """

    def __init__(
        self, network: GoogLeNet, preprocessing: Preprocessing, config: SharedTrunkConfig
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.config = config

    @classmethod
    def from_imagenet(cls, weights: str | Path, config: SharedTrunkConfig) -> SharedTrunk:
        """Make a trunk of a GoogLeNet trained on ImageNet, without its classifier.

        Args:
            weights: As ``load_imagenet`` takes them.
            config: Scale of the image and context of the regions.

        Raises:
            ValueError: If the file holds no GoogLeNet.
        """
        network = load_imagenet(weights)
        network.fc = nn.Identity()
        network.to(memory_format=torch.channels_last)
        return cls(network, PREPROCESSING[network.layout], config)

    def stem_map(self, image: Tensor, *, mirror: bool = False) -> Tensor:
        """Run conv1 .. pool3 on a uint8 image ``[3, H, W]``: ``[1, 480, h, w]``, channels last."""
        image = (image.flip(-1) if mirror else image)[None].float()
        size = resized_size((image.shape[-2], image.shape[-1]), self.config)
        resized = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        weight = self.network.conv1.conv.weight
        inputs = self.preprocessing(resized).to(weight.device, weight.dtype)
        return self.network.stem(inputs.contiguous(memory_format=torch.channels_last))

    def region_features(self, maps: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Run pool4, 5a, 5b on regions of a map after 4e.

        Args:
            maps: The image's map, ``[1, 832, h, w]``.
            boxes: Regions in pixels of the original image, ``[N, 4]``.
            image_size: Its height and width.

        Returns:
            Features, ``[N, 1024]``.
        """
        points = sample_regions(maps, self.map_boxes(boxes, image_size))
        return self.network.inception5(points)

    def map_boxes(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Take boxes from pixels to the map's coordinates, with their context, ``[N, 4]``.

        A map coordinate of i + 0.5 is the centre of point i, as in ``roi_align``.
        """
        height, width = resized_size(image_size, self.config)
        ratios = (width / image_size[1], height / image_size[0])
        scaled = boxes * boxes.new_tensor(ratios + ratios)
        sides = (scaled[:, 2:] - scaled[:, :2]) / (1 - 2 * self.config.context)
        centres = (scaled[:, 2:] + scaled[:, :2]) / 2
        offset = FIRST_CENTRE - STRIDE / 2
        corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
        return (corners - offset) / STRIDE


def sample_regions(maps: Tensor, boxes: Tensor) -> Tensor:
    """Sample 14 x 14 bilinear points of each region, one in the middle of each bin.

    The same points as ``roi_align(maps, boxes, 14, sampling_ratio=1, aligned=True)``, which runs
    on a GPU; torchvision's CPU kernel wants channels first and takes several times as long as
    gathering whole rows of a channels-last map.

    Args:
        maps: Map of one image, ``[1, C, h, w]``, at least 2 x 2 points.
        boxes: Regions in the map's coordinates, ``[N, 4]``.

    Returns:
        ``[N, C, 14, 14]`` in channels-last order.
    """
    if maps.device.type != "cpu":
        # In float32: bfloat16 has no room for a coordinate's fraction.
        points = roi_align(maps.float(), [boxes.float()], POINTS, sampling_ratio=1, aligned=True)
        return points.to(maps.dtype, memory_format=torch.channels_last)  # type: ignore[no-any-return]
    channels, height, width = maps.shape[1:]
    rows = maps.permute(0, 2, 3, 1).reshape(height * width, channels)
    left, weight_x, outside_x = _neighbours(boxes[:, 0], boxes[:, 2], width)
    top, weight_y, outside_y = _neighbours(boxes[:, 1], boxes[:, 3], height)
    first = top[:, :, None] * width + left[:, None, :]  # [N, 14, 14]
    index = torch.stack([first, first + 1, first + width, first + width + 1], dim=-1)
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]  # [N, 14, 14, 2, 2]
    weights = weights.masked_fill((outside_y[:, :, None] | outside_x[:, None])[..., None, None], 0)
    points = F.embedding_bag(
        index.view(-1, 4), rows, mode="sum", per_sample_weights=weights.view(-1, 4).to(rows.dtype)
    )
    return points.view(len(boxes), POINTS, POINTS, channels).permute(0, 3, 1, 2)


def _neighbours(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower neighbour of each point, both neighbours' weights, and who lies outside."""
    steps = (torch.arange(POINTS, device=low.device) + 0.5) / POINTS
    at = low[:, None] + steps * (high - low)[:, None] - 0.5  # [N, 14]
    outside = (at < -1) | (at > size)  # roi_align's rule: such points are zero
    at = at.clamp(0, size - 1)
    first = at.floor().clamp(max=size - 2)
    weight = at - first
    return first.long(), torch.stack([1 - weight, weight], dim=-1), outside


class SharedTrunkClassifier(nn.Module):
    """Scores every region of an image from one pass of the trunk.

    Args:
        trunk: The network in its two parts.
        head: Softmax and box regression.
        batch_size: Regions that pass through inception 5 together.
    """

    def __init__(self, trunk: SharedTrunk, head: RegionHead, *, batch_size: int = 32) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.batch_size = batch_size

    @torch.inference_mode()
    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an image.

        Args:
            image: RGB, uint8 ``[3, H, W]``.
            boxes: Regions, ``[N, 4]``.

        Returns:
            A regressed box a class, ``[N, C, 4]``, and probabilities with background last,
            ``[N, C + 1]``, both float32 on the CPU.
        """
        height, width = image.shape[-2:]
        maps = self.trunk.network.inception4(self.trunk.stem_map(image))
        boxes = boxes.to(maps.device)
        parts = [
            self.head(self.trunk.region_features(maps, part, (height, width)).float())
            for part in boxes.split(self.batch_size)
        ]
        scores = torch.cat([logits for logits, _ in parts]).softmax(dim=1)
        moved = decode_boxes(boxes, torch.cat([offsets for _, offsets in parts]), (height, width))
        return moved.cpu(), scores.cpu()
