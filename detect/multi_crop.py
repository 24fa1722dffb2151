"""One, ten or 144 views of an image for classification, as in "Going deeper with convolutions".

The paper's section 7: the image is resized so that its shorter side is 256, 288, 320 and 352
pixels; of each the left, centre and right square are taken (top, centre and bottom of an upright
image); of each square the four corners and the centre of 224 x 224 pixels and the square itself
resized to that, and all of them mirrored: 4 x 3 x 6 x 2 = 144. Ten views are Krizhevsky's: corners
and centre of the centre square at 256 pixels, and their mirrors. One is the centre alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

CROPS = (1, 10, 144)
CROP_SIDE = 224  # pixels
SHORTER_SIDES = (256, 288, 320, 352)  # pixels
_ELONGATED = 8  # times as long as wide: squares are cut before, not after, resizing


def crop_views(image: Tensor, crops: int = 144) -> Tensor:
    """Cut the views of an image.

    Args:
        image: RGB, uint8 ``[3, H, W]``.
        crops: 1, 10 or 144.

    Returns:
        Views 0..255, float32 ``[crops, 3, 224, 224]``. Of 144, scale by scale and square by square:
        top left, top right, bottom left, bottom right, centre, the whole square, then the same six
        mirrored.

    Raises:
        ValueError: If there is no such number of crops.
    """
    if crops not in CROPS:
        raise ValueError(f"crops={crops}: choose one of {', '.join(map(str, CROPS))}")
    if crops == 144:
        parts = [
            view
            for side in SHORTER_SIDES
            for square in squares(image, side)
            for view in _with_mirrors([*five_crops(square), resize(square, CROP_SIDE, CROP_SIDE)])
        ]
    else:
        _, centre, _ = squares(image, SHORTER_SIDES[0])
        views = five_crops(centre)
        parts = _with_mirrors(views) if crops == 10 else [views[4]]
    return torch.stack(parts)


def squares(image: Tensor, side: int) -> Iterator[Tensor]:
    """Yield the first, the centre and the last square of an image resized to a shorter side.

    Args:
        image: ``[3, H, W]``.
        side: Of the squares, pixels.
    """
    height, width = image.shape[-2:]
    shorter, longer = sorted((height, width))
    if longer > _ELONGATED * shorter:  # resized as a whole, it might fill the memory
        starts = (0, (longer - shorter) // 2, longer - shorter)
        for start in starts:
            yield resize(_along(image, start, shorter), side, side)
        return
    longer = round(longer * side / shorter)
    size = (side, longer) if height <= width else (longer, side)
    resized = resize(image, *size)
    for start in (0, (longer - side) // 2, longer - side):
        yield _along(resized, start, side)


def five_crops(square: Tensor) -> list[Tensor]:
    """Return top left, top right, bottom left, bottom right and centre of 224 x 224 pixels."""
    last = square.shape[-1] - CROP_SIDE
    corners = ((0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2))
    return [square[:, y : y + CROP_SIDE, x : x + CROP_SIDE] for y, x in corners]


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize ``[3, H, W]`` bilinearly, averaging where it shrinks, to float32."""
    resized = F.interpolate(
        image[None].float(), size=(height, width), mode="bilinear", antialias=True
    )
    return resized[0]


def _along(image: Tensor, start: int, length: int) -> Tensor:
    """Cut a piece of an image along its longer side."""
    if image.shape[-2] <= image.shape[-1]:
        return image[:, :, start : start + length]
    return image[:, start : start + length]


def _with_mirrors(views: list[Tensor]) -> list[Tensor]:
    return [*views, *(view.flip(-1) for view in views)]
