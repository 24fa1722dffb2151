"""Where the pixels of an image and the boxes in it lie on the map of a shared trunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 16  # pixels of the resized image between two points of the map after 4e
# Centre of the map's first point, in pixels: the ceil-mode pools without padding shift the grid.
FIRST_CENTRE = 14.5


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


def resize_image(image: Tensor, config: SharedTrunkConfig) -> Tensor:
    """Bring a uint8 image ``[3, H, W]`` to the trunk's scale, float32 0..255, ``[1, 3, h, w]``."""
    size = resized_size((image.shape[-2], image.shape[-1]), config)
    return F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)


def map_boxes(boxes: Tensor, image_size: tuple[int, int], config: SharedTrunkConfig) -> Tensor:
    """Take boxes from pixels of the image to the map's coordinates, with their context.

    A map coordinate of i + 0.5 is the centre of point i, as in ``roi_align``.

    Args:
        boxes: In pixels of the original image, ``[N, 4]``.
        image_size: Its height and width.
        config: Scale of the image and context of the regions.

    Returns:
        Boxes on the map, ``[N, 4]``.
    """
    height, width = resized_size(image_size, config)
    ratios = (width / image_size[1], height / image_size[0])
    scaled = boxes * boxes.new_tensor(ratios + ratios)
    sides = (scaled[:, 2:] - scaled[:, :2]) / (1 - 2 * config.context)
    centres = (scaled[:, 2:] + scaled[:, :2]) / 2
    offset = FIRST_CENTRE - STRIDE / 2
    corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return (corners - offset) / STRIDE
