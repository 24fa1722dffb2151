"""How much boxes overlap, and which of them are left where they overlap too much.

The same numbers, to the bit, as torchvision's operations of the same names. Those take a second to
import, as torch's compiler comes with them; a start of the tools on a CPU does without.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of each box with each other, ``[..., N, M]``.

    Args:
        boxes: Half-open ``xyxy``, floating point, ``[..., N, 4]``.
        others: The same, ``[..., M, 4]``. Two boxes without area have no IoU: it is NaN.
    """
    areas, other_areas = box_area(boxes)[..., None], box_area(others)[..., None, :]
    boxes, others = boxes[..., None, :], others[..., None, :, :]
    top_left = torch.maximum(boxes[..., :2], others[..., :2])  # [..., N, M, 2]
    bottom_right = torch.minimum(boxes[..., 2:], others[..., 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    shared = width * height
    return shared / (areas + other_areas - shared)


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of each box ``[..., 4]``, ``[...]``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes ``[N, 4]`` cut to an image of ``size`` pixels, height and width."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes are left when none may overlap a better one by more than a threshold.

    Args:
        boxes: Half-open ``xyxy``, float32 or float64, ``[N, 4]``.
        scores: What makes one better, ``[N]``; of equal ones the first is the better one.
        iou_threshold: The largest IoU of two boxes that are both left.

    Returns:
        Their places, best first, int64 ``[K]``, on the device of the boxes.
    """
    if boxes.device.type != "cpu":
        from torchvision.ops import nms as on_device

        left: Tensor = on_device(boxes, scores, iou_threshold)
        return left
    order = scores.sort(descending=True, stable=True).indices
    corners = boxes.detach()[order].T.contiguous().numpy()
    return order[torch.from_numpy(_are_left(corners, iou_threshold))]


@njit(cache=True, nogil=True, error_model="numpy")  # 0 / 0 is NaN
def _are_left(corners: NDArray[np.floating], iou_threshold: float) -> NDArray[np.bool_]:
    """Tell which boxes ``[4, N]``, best first, overlap no better one too much, ``[N]``."""
    x1, y1, x2, y2 = corners
    areas = (x2 - x1) * (y2 - y1)
    nothing = areas.dtype.type(0)
    left = np.ones(len(areas), dtype=np.bool_)
    for i in range(len(areas)):
        if left[i]:
            for j in range(i + 1, len(areas)):
                width = max(min(x2[i], x2[j]) - max(x1[i], x1[j]), nothing)
                height = max(min(y2[i], y2[j]) - max(y1[i], y1[j]), nothing)
                shared = width * height
                left[j] &= not shared / (areas[i] + areas[j] - shared) > iou_threshold
    return left
