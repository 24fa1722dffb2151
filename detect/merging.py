"""From scored boxes to detections: NMS per class, box voting and the best of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from detect.detections import Detections


@dataclass
class MergeConfig:
    """How the scored boxes of one image become its detections.

    Raises:
        ValueError: If a threshold lies outside 0..1 or a limit below 1.
    """

    score_threshold: float = 0.01  # probability; low, as average precision counts weak ones too
    nms_threshold: float = 0.3  # IoU above which the weaker box of a class goes; R-CNN
    vote_threshold: float | None = 0.5  # IoU from which boxes vote; Gidaris & Komodakis 2015
    max_per_class: int = 100  # detections an image and class, before voting; R-CNN
    max_detections: int = 100  # detections an image, over all classes; Fast R-CNN

    def __post_init__(self) -> None:
        for name in ("nms_threshold", "vote_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is an IoU, 0 to 1: got {value}")
        for name in ("max_per_class", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: got {getattr(self, name)}")


def merge_detections(boxes: Tensor, scores: Tensor, config: MergeConfig) -> Detections:
    """Merge the scored boxes of one image into detections, best first.

    Weak scores are dropped, then each class on its own goes through NMS, then the best of the
    image are kept and moved by box voting. Voting leaves scores and order alone, so that only
    the boxes which survive need to be moved. Equal scores are ordered by label, then by the
    place of the box in the input.

    Args:
        boxes: Half-open ``xyxy`` pixels, shared by all classes, ``[N, 4]``, or one for each
            class, ``[N, C, 4]``. Those without area are dropped.
        scores: Softmax over classes, ``[N, C + 1]``. The last column is the background: it
            never becomes a detection.
        config: Thresholds and limits.

    Returns:
        The detections, on the device of the scores; voted boxes may leave the image no farther
        than the given ones.

    Raises:
        ValueError: If shapes disagree, or a score or the box of a candidate is not finite.
    """
    _check(boxes, scores)
    boxes, scores, labels = _candidates(boxes, scores, config.score_threshold)
    keep = _nms_per_class(boxes, labels, config.nms_threshold)
    keep = keep[_rank_within_label(labels[keep]) < config.max_per_class]
    keep = keep[: config.max_detections]
    kept = boxes[keep]
    if config.vote_threshold is not None:
        kept = _vote_per_class(keep, boxes, scores, labels, config.vote_threshold)
    return Detections(kept.float(), scores[keep], labels[keep])


def vote_boxes(kept: Tensor, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Move each kept box to the score-weighted mean of the boxes that overlap it.

    Gidaris & Komodakis, "Object detection via a multi-region & semantic segmentation-aware CNN
    model", 2015, section 4. As there, a negative score weighs nothing.

    Args:
        kept: Boxes that survived NMS, ``[K, 4]``.
        boxes: All boxes of the class, the kept ones among them, ``[N, 4]``.
        scores: Their scores, ``[N]``.
        iou_threshold: Boxes vote for a kept box they overlap by at least this IoU.

    Returns:
        The moved boxes, ``[K, 4]``.
    """
    # Not quite nothing, so that boxes which all score zero have a mean.
    positive = scores.to(boxes.dtype).clamp(min=torch.finfo(torch.float32).tiny)
    weights: Tensor = positive * (box_iou(kept, boxes) >= iou_threshold)  # [K, N]
    return weights @ boxes / weights.sum(dim=1, keepdim=True)


def _check(boxes: Tensor, scores: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"scores must be [N, C + 1], background last: got {list(scores.shape)}")
    n, num_classes = scores.shape[0], scores.shape[1] - 1
    if tuple(boxes.shape) not in ((n, 4), (n, num_classes, 4)):
        shapes = f"boxes {list(boxes.shape)}, scores {list(scores.shape)}"
        raise ValueError(f"boxes must be [N, 4] or [N, C, 4] for scores [N, C + 1]: got {shapes}")
    if not scores.isfinite().all():
        raise ValueError(f"{int((~scores.isfinite()).sum())} scores are not finite")


def _candidates(
    boxes: Tensor, scores: Tensor, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes ``[M, 4]`` float64, scores and labels that can be detections, best first."""
    # Class-major, so that the stable sort settles ties by label, then by box.
    labels, rows = (scores[:, :-1] >= score_threshold).T.nonzero(as_tuple=True)  # [M]
    scores = scores[rows, labels].float()
    # float64 keeps IoUs exact next to a threshold, and sums independent of a TF32 setting.
    boxes = (boxes[rows] if boxes.ndim == 2 else boxes[rows, labels]).double()
    if not boxes.isfinite().all():
        raise ValueError(f"{int((~boxes.isfinite()).any(dim=1).sum())} boxes are not finite")
    x1, y1, x2, y2 = boxes.unbind(-1)
    order = scores.sort(descending=True, stable=True).indices
    order = order[((x2 > x1) & (y2 > y1))[order]]
    return boxes[order], scores[order], labels[order]


def _nms_per_class(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of boxes, given best first, that no better one of their class hides."""
    if len(boxes) == 0:
        return labels
    # Ranks are distinct, so that NMS has no ties to settle in an order of its own.
    ranks = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    # From the origin: batched_nms sets classes apart by an offset that ignores negative corners.
    keep: Tensor = batched_nms(boxes - boxes.min(), ranks, labels, iou_threshold)
    return keep


def _rank_within_label(labels: Tensor) -> Tensor:
    """Count, for each element, the earlier ones of the same label, ``[N]``."""
    grouped, order = labels.sort(stable=True)
    first = torch.searchsorted(grouped, grouped)  # where the run of each label begins
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels), device=labels.device) - first
    return ranks


def _vote_per_class(
    keep: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """Move the boxes ``keep`` by the votes of their own class, ``[K, 4]``."""
    voted = boxes[keep]
    kept_labels = labels[keep]
    for label in kept_labels.unique():
        same = labels == label
        chosen = kept_labels == label
        voted[chosen] = vote_boxes(voted[chosen], boxes[same], scores[same], iou_threshold)
    return voted
