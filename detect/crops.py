"""The region that a box becomes: one definition of the warp, for training and for detection.

Girshick et al., "Rich feature hierarchies", 2014: the box is stretched to a square whatever its
shape, with a frame of context around it, and what lies outside the image has the mean colour.
Here the warp is exact to a fraction of a pixel, and large boxes are averaged, not skipped through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class CropConfig:
    """The square that every region is warped to.

    Raises:
        ValueError: If the context leaves no room for the box.
    """

    size: int = 224  # pixels, each side of the crop; GoogLeNet's input
    context: int = 16  # pixels of the crop on each side that show the surroundings; R-CNN
    fill: tuple[int, int, int] = (123, 117, 104)  # RGB outside the image; the mean, as in R-CNN

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.context < self.size:
            raise ValueError(f"context {self.context} leaves no room in size {self.size}")

    @classmethod
    def with_mean(cls, mean: tuple[float, float, float]) -> CropConfig:
        """Return the defaults for a network that takes this RGB colour to zero."""
        red, green, blue = map(round, mean)
        return cls(fill=(red, green, blue))


def crop_boxes(image: Tensor, boxes: Tensor, config: CropConfig) -> Tensor:
    """Warp the regions of an image to squares, on the device of the image.

    Half-open box ``(x1, y1, x2, y2)`` fills the middle ``size - 2 * context`` pixels of each side
    exactly. Values are interpolated between the four nearest pixels; in a direction in which
    the box shrinks, the image is first averaged over blocks of 2, 4, 8, ... pixels.

    Args:
        image: RGB uint8, ``[3, H, W]``.
        boxes: Half-open ``xyxy`` pixels, ``[N, 4]``; they may leave the image. Best on the CPU:
            from another device they are fetched, which waits for it.
        config: Size, context and the colour outside the image.

    Returns:
        RGB crops, float32 0..255, ``[N, 3, size, size]``, in channels_last order.

    Raises:
        ValueError: If the image is not RGB uint8 with at least one pixel, or a box has no area
            or is not finite.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or image.numel() == 0:
        raise ValueError(f"image must be uint8 [3, H, W]: got {image.dtype} {list(image.shape)}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [N, 4]: got {list(boxes.shape)}")
    corners = boxes.detach().to("cpu", torch.float64)
    bad = ~((corners[:, 2:] > corners[:, :2]).all(dim=1) & corners.isfinite().all(dim=1))
    if bad.any():
        raise ValueError(f"{int(bad.sum())} boxes have no area, first {corners[bad][0].tolist()}")
    warp = _crop_with_opencv if image.device.type == "cpu" else _crop_with_torch
    return warp(image, corners, config)


def _sampling(boxes: Tensor, config: CropConfig) -> tuple[Tensor, Tensor]:
    """Return where the crops look, ``start`` and ``step`` of x and y, each ``[N, 2]`` float64.

    The centre of crop pixel ``i`` lies at ``start + i * step`` of the image, where the image
    spans 0 to its width, so that the centre of its first pixel is 0.5.
    """
    step = (boxes[:, 2:] - boxes[:, :2]) / (config.size - 2 * config.context)
    start = boxes[:, :2] + (0.5 - config.context) * step
    return start, step


def _groups(step: Tensor, image: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield ``((block width, block height), rows)`` of the boxes that share an averaged image."""
    # The largest block within a step: larger ones blur, smaller ones skip pixels.
    levels = step.log2().floor().clamp(min=0)  # [N, 2]
    # No block wider than the image, however large the box.
    limits = [side.bit_length() - 1 for side in (image.shape[2], image.shape[1])]
    levels = levels.minimum(torch.tensor(limits)).long()
    for x, y in sorted(set(map(tuple, levels.tolist()))):
        rows = (levels == torch.tensor([x, y])).all(dim=1).nonzero()[:, 0]
        yield (2**x, 2**y), rows


def _crop_with_opencv(image: Tensor, boxes: Tensor, config: CropConfig) -> Tensor:
    averages = {(1, 1): np.ascontiguousarray(image.permute(1, 2, 0).numpy())}  # [H, W, 3]
    crops = np.empty((len(boxes), config.size, config.size, 3), np.uint8)
    start, step = _sampling(boxes, config)
    for block, rows in _groups(step, image):
        averaged = _average_with_opencv(averages, block, config.fill)
        starts = (start[rows] / torch.tensor(block) - 0.5).tolist()  # of pixel centres from 0
        steps = (step[rows] / torch.tensor(block)).tolist()
        for row, (x, y), (dx, dy) in zip(rows.tolist(), starts, steps, strict=True):
            cv2.warpAffine(
                averaged,
                np.array([[dx, 0, x], [0, dy, y]]),
                (config.size, config.size),
                dst=crops[row],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=tuple(config.fill),
            )
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float()


def _average_with_opencv(
    averages: dict[tuple[int, int], np.ndarray], block: tuple[int, int], fill: tuple[int, int, int]
) -> np.ndarray:
    """Average the image ``averages[1, 1]``, ``[H, W, 3]``, over blocks of pixels.

    The image is continued by ``fill`` to whole blocks. Smaller blocks come first and stay in
    ``averages``, so that a photo of many megapixels is read in full only two or three times.
    """
    if block not in averages:
        half = max(block[0] // 2, 1), max(block[1] // 2, 1)
        pixels = _average_with_opencv(averages, half, fill)
        factor = block[0] // half[0], block[1] // half[1]
        right, bottom = -pixels.shape[1] % factor[0], -pixels.shape[0] % factor[1]
        if right or bottom:
            pixels = cv2.copyMakeBorder(
                pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=tuple(fill)
            )
        size = pixels.shape[1] // factor[0], pixels.shape[0] // factor[1]
        averages[block] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return averages[block]


def _crop_with_torch(image: Tensor, boxes: Tensor, config: CropConfig) -> Tensor:
    """Do the same with one batched operation for each size of block, on any device."""
    fill = torch.tensor(config.fill, dtype=torch.float32, device=image.device)[:, None, None]
    pixels = image[None] - fill  # zero is what grid_sample and padding continue it by
    shape = len(boxes), 3, config.size, config.size
    crops = torch.empty(shape, device=image.device).to(memory_format=torch.channels_last)
    start, step = _sampling(boxes, config)
    index = torch.arange(config.size, device=image.device)[:, None]
    for block, rows in _groups(step, image):
        # A few numbers a box are sent over; a GPU computes the points itself.
        starts, steps = (x[rows].to(image.device, non_blocking=True) for x in (start, step))
        padding = -image.shape[2] % block[0], -image.shape[1] % block[1]
        averaged = F.avg_pool2d(F.pad(pixels, (0, padding[0], 0, padding[1])), block[::-1])
        width, height = image.shape[2] + padding[0], image.shape[1] + padding[1]
        points = starts[:, None] + index * steps[:, None]  # [n, S, 2]
        across = (2 * points[:, None, :, 0] / width - 1).float()
        down = (2 * points[:, :, None, 1] / height - 1).float()
        x, y = torch.broadcast_tensors(across, down)  # [n, S, S]
        sampled = F.grid_sample(
            averaged.expand(len(rows), -1, -1, -1), torch.stack([x, y], -1), align_corners=False
        )
        crops[rows.to(image.device, non_blocking=True)] = sampled + fill
    return crops
