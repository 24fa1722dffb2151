"""Where the pixels of an image and the boxes in it lie on the maps of a shared trunk.

An image enters the trunk at one size or at several, a pyramid. Each region is then cut from the
level at which it is about as large as the objects that the network first learned from, as SPPnet
does (He et al. 2014, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 16  # pixels of the resized image between two points of the map after 4e
# Centre of the map's first point, in pixels: the ceil-mode pools without padding shift the grid.
FIRST_CENTRE = 14.5

_PYRAMID = (0.3536, 0.5, 0.7071, 1.0, 1.4142)  # half an octave apart


@dataclass
class SharedTrunkConfig:
    """How an image becomes maps, and a region a piece of one of them.

    Raises:
        ValueError: If the pyramid is empty, or a level or the regions have no size.
    """

    shorter_side: int = 600  # pixels, the image is resized to it (Fast R-CNN)
    max_side: int = 1000  # pixels, the longer side's limit (Fast R-CNN)
    context: float = 16 / 224  # share of a region's side that is context, on each side (R-CNN)
    pyramid: list[float] = field(default_factory=lambda: list(_PYRAMID))  # levels; 1: as above
    region_side: float = 180.0  # pixels a side that a region has at its level, about (SPPnet: 224)

    def __post_init__(self) -> None:
        if not self.pyramid or not all(0 < factor < math.inf for factor in self.pyramid):
            raise ValueError(f"pyramid must hold factors above 0: got {list(self.pyramid)}")
        if not 0 < self.region_side < math.inf:
            raise ValueError(f"region_side must be above 0 pixels: got {self.region_side}")

    def with_levels(self, factors: Sequence[float]) -> SharedTrunkConfig:
        """Return the same with other levels; without any: itself.

        Raises:
            ValueError: If one has no size.
        """
        return replace(self, pyramid=list(factors)) if factors else self

    def check_levels(self, factors: Sequence[float]) -> None:
        """Refuse levels that the pyramid does not have.

        Raises:
            ValueError: If there is such a one.
        """
        if missing := [factor for factor in factors if factor not in self.pyramid]:
            raise ValueError(f"the trunk has no level {missing[0]}; it has {self.pyramid}")

    @classmethod
    def from_file(cls, settings: Mapping[str, Any]) -> SharedTrunkConfig:
        """Take the settings that a file holds; files from before the pyramid mean one level.

        Raises:
            TypeError: If there is a setting that is none of these.
            ValueError: If a setting makes no sense.
        """
        return cls(**{"pyramid": [1.0], **settings})


def resized_size(
    image_size: tuple[int, int], config: SharedTrunkConfig, factor: float = 1.0
) -> tuple[int, int]:
    """Return the height and width at which an image of this height and width enters the trunk."""
    scale = min(config.shorter_side / min(image_size), config.max_side / max(image_size)) * factor
    # At least two points of the map a side, for a bilinear sample to have its neighbours.
    height, width = (max(round(side * scale), 3 * STRIDE) for side in image_size)
    return height, width


def resize_image(image: Tensor, config: SharedTrunkConfig, factor: float = 1.0) -> Tensor:
    """Bring a uint8 image ``[3, H, W]`` to a level's size, float32 0..255, ``[1, 3, h, w]``."""
    size = resized_size((image.shape[-2], image.shape[-1]), config, factor)
    return F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)


def region_levels(boxes: Tensor, image_size: tuple[int, int], config: SharedTrunkConfig) -> Tensor:
    """Choose the level of the pyramid that each region is cut from.

    It is the level at which the square root of the region's area comes nearest to
    ``config.region_side``, in ratio; the first of two that are as near.

    Args:
        boxes: In pixels of the original image, ``[N, 4]``.
        image_size: Its height and width.
        config: The pyramid.

    Returns:
        Places in ``config.pyramid``, int64 ``[N]``.
    """
    height, width = resized_size(image_size, config)
    zoom = ((height / image_size[0]) * (width / image_size[1])) ** 0.5
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt() * zoom  # [N]
    factors = boxes.new_tensor(config.pyramid)
    ratios: Tensor = sides[:, None] * factors / config.region_side  # [N, L]
    return ratios.log().abs().argmin(dim=1)


def map_boxes(
    boxes: Tensor, image_size: tuple[int, int], config: SharedTrunkConfig, factor: float = 1.0
) -> Tensor:
    """Take boxes from pixels of the image to the coordinates of a level's map, with their context.

    A map coordinate of i + 0.5 is the centre of point i, as in ``roi_align``.

    Args:
        boxes: In pixels of the original image, ``[N, 4]``.
        image_size: Its height and width.
        config: Scale of the image and context of the regions.
        factor: Of the level.

    Returns:
        Boxes on the map, ``[N, 4]``.
    """
    height, width = resized_size(image_size, config, factor)
    ratios = (width / image_size[1], height / image_size[0])
    scaled = boxes * boxes.new_tensor(ratios + ratios)
    sides = (scaled[:, 2:] - scaled[:, :2]) / (1 - 2 * config.context)
    centres = (scaled[:, 2:] + scaled[:, :2]) / 2
    offset = FIRST_CENTRE - STRIDE / 2
    corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return (corners - offset) / STRIDE


def place_regions(
    boxes: Tensor, image_size: tuple[int, int], config: SharedTrunkConfig
) -> tuple[Tensor, Tensor]:
    """Choose the level of each region and take it to that level's map, level by level.

    Args:
        boxes: In pixels of the original image, ``[N, 4]``.
        image_size: Its height and width.
        config: The pyramid, and the scale and the context.

    Returns:
        Level and box on its map of every region, those of a level side by side and otherwise in
        the given order, ``[N, 5]`` (as ``roi_align`` takes them); and each one's place in
        ``boxes``, int64 ``[N]``.
    """
    levels, places = region_levels(boxes, image_size, config).sort(stable=True)
    boxes = boxes[places]
    parts = [
        map_boxes(boxes[levels == level], image_size, config, factor)
        for level, factor in enumerate(config.pyramid)
    ]
    return torch.cat([levels[:, None].to(boxes), torch.cat(parts)], dim=1), places


def split_levels(regions: Tensor) -> list[tuple[int, Tensor]]:
    """Split what ``place_regions`` returns, or a part of it, into levels and their boxes.

    Args:
        regions: Those of a level side by side, ``[N, 5]``.

    Returns:
        Level and boxes ``[n, 4]``; where there are no regions, the first level and no boxes.
    """
    if not len(regions):
        return [(0, regions[:, 1:])]
    levels, counts = regions[:, 0].unique_consecutive(return_counts=True)
    parts = regions[:, 1:].split(counts.tolist())
    return list(zip(map(int, levels.tolist()), parts, strict=True))
