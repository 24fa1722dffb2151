"""Where the pixels of an image and the boxes in it lie on the maps of a shared trunk.

An image enters the trunk at one size or at several, a pyramid. Each region is then cut from the
level at which it is about as large as the objects that the network first learned from, as SPPnet
does (He et al. 2014, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 16  # pixels of the resized image between two points of the map after 4e
# Centre of the map's first point, in pixels: the ceil-mode pools without padding shift the grid.
FIRST_CENTRE = 14.5


@dataclass
class SharedTrunkConfig:
    """How an image becomes maps, and a region a piece of one of them.

    Raises:
        ValueError: If the pyramid is empty or has a level of no size.
    """

    shorter_side: int = 600  # pixels, the image is resized to it (Fast R-CNN)
    max_side: int = 1000  # pixels, the longer side's limit (Fast R-CNN)
    context: float = 16 / 224  # share of a region's side that is context, on each side (R-CNN)
    pyramid: list[float] = field(default_factory=lambda: [1.0])  # sizes of the levels, 1: as above
    region_side: float = 160.0  # pixels a side that a region has at its level, about (SPPnet: 224)

    def __post_init__(self) -> None:
        if not self.pyramid or min(self.pyramid) <= 0:
            raise ValueError(f"pyramid must hold factors above 0: got {list(self.pyramid)}")


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
    return (sides[:, None] * factors / config.region_side).log().abs().argmin(dim=1)


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
