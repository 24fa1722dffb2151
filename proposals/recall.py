"""How well proposals cover the objects of an image: recall, average recall, best overlap.

All start from the best overlap of each object under each budget, so the objects of many images
are measured by concatenating along the last dimension. Measures of no objects are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proposals.overlaps import box_iou

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def best_overlaps(boxes: Tensor, truth: Tensor, budgets: Sequence[int | None] = (None,)) -> Tensor:
    """Find the IoU of each object with the proposal that covers it best.

    Args:
        boxes: Proposals of an image, best first, half-open ``xyxy`` ``[N, 4]``.
        truth: Its objects, likewise ``[G, 4]``.
        budgets: Numbers of proposals that may be used, ``None`` for all of them.

    Returns:
        Best IoU of each object under each budget, 0 without proposals, ``[len(budgets), G]``.
    """
    overlaps = torch.nn.functional.pad(box_iou(truth, boxes), (1, 0))  # [G, 1 + N]
    columns = [n if n is None else n + 1 for n in budgets]
    return torch.stack([overlaps[:, :n].amax(dim=1) for n in columns])


def recall(overlaps: Tensor, thresholds: Sequence[float] = (0.5,)) -> Tensor:
    """Return the share of objects covered with at least each IoU, ``[..., G] -> [..., T]``."""
    levels = torch.as_tensor(thresholds, dtype=overlaps.dtype, device=overlaps.device)
    return (overlaps[..., None, :] >= levels[:, None]).float().mean(dim=-1)


def average_recall(overlaps: Tensor) -> Tensor:
    """Return the mean recall over IoU 0.5, 0.55, ..., 0.95 (COCO), ``[..., G] -> [...]``."""
    return recall(overlaps, COCO_THRESHOLDS).mean(dim=-1)


def average_best_overlap(overlaps: Tensor) -> Tensor:
    """Return the mean best IoU, ABO of Uijlings et al. 2013, ``[..., G] -> [...]``."""
    return overlaps.mean(dim=-1)


def mean_average_best_overlap(overlaps: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over classes of each class's ABO, MABO of Uijlings et al. 2013.

    Args:
        overlaps: Best IoU of each object, ``[..., G]``.
        labels: Class of each object, integers ``[G]``; absent classes do not count.

    Returns:
        MABO, ``[...]``.
    """
    members = labels.unique()[:, None] == labels  # [C, G]
    shares = members / members.sum(dim=1, keepdim=True)  # [C, G]
    by_class: Tensor = overlaps @ shares.to(overlaps.dtype).T  # [..., C]
    return by_class.mean(dim=-1)
