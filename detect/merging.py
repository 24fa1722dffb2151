"""From scored boxes to detections: soft-NMS or NMS, box voting and the best of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detect.detections import Detections
from detect.merging_kernels import find_candidates, keep_best, vote
from detect.soft_nms import keep_softly
from proposals.compiling import announce_compiling
from proposals.overlaps import box_iou

_PAIRS = 1 << 20  # of boxes compared at a time in voting; bounds its memory to about 160 MB


@dataclass
class MergeConfig:
    """How the scored boxes of one image become its detections.

    Raises:
        ValueError: If a threshold lies outside 0..1, a limit below 1 or sigma at 0 or below.
    """

    score_threshold: float = 0.01  # probability; low, as average precision counts weak ones too
    nms_threshold: float | None = None  # NMS, no soft-NMS: IoU above which boxes go; R-CNN: 0.3
    vote_threshold: float | None = 0.5  # IoU from which boxes vote; Gidaris & Komodakis 2015
    max_per_class: int = 100  # detections an image and class, before voting; R-CNN
    max_detections: int = 100  # detections an image, over all classes; Fast R-CNN
    soft_sigma: float = 0.2  # of soft-NMS: the smaller, the more a score falls with overlap

    def __post_init__(self) -> None:
        for name in ("nms_threshold", "vote_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is an IoU, 0 to 1: got {value}")
        if not 0 < self.soft_sigma < math.inf:
            raise ValueError(f"soft_sigma must be above 0: got {self.soft_sigma}")
        for name in ("max_per_class", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: got {getattr(self, name)}")


def merge_detections(boxes: Tensor, scores: Tensor, config: MergeConfig) -> Detections:
    """Merge the scored boxes of one image into detections, best first.

    Weak scores are dropped, then each class on its own goes through soft-NMS, in which boxes lose
    score by their overlap with better ones (see ``detect.soft_nms``), or with ``nms_threshold``
    through NMS. The best of the image are kept and moved by box voting, with the scores as they
    were. Voting leaves scores and order alone, so that only the boxes which survive need to be
    moved. Equal scores are ordered by label, then as they were picked, of equal ones by the place
    of the box in the input. On a CPU this is compiled code, made by the first call.

    Args:
        boxes: Half-open ``xyxy`` pixels, shared by all classes, ``[N, 4]``, or one for each
            class, ``[N, C, 4]``. Those without area are dropped.
        scores: Probabilities of the classes, ``[N, C + 1]``. The last column is the background:
            it never becomes a detection.
        config: Thresholds and limits.

    Returns:
        The detections, on the device of the scores; voted boxes may leave the image no farther
        than the given ones.

    Raises:
        ValueError: If shapes disagree, or a score or the box of a candidate is not finite.
    """
    _check(boxes, scores, config.score_threshold)
    boxes, scores = boxes.detach(), scores.detach()
    if boxes.device.type == scores.device.type == "cpu":
        return _merge_compiled(boxes, scores, config)
    if config.nms_threshold is None:  # one box after the other, which is no work for a GPU
        return _merge_compiled(boxes.cpu(), scores.cpu(), config).to(scores.device)
    return _merge_with_torch(boxes, scores, config)


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
    return _average(box_iou(kept, boxes) >= iou_threshold, boxes, scores)


def _average(votes: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the mean of those boxes ``[..., N, 4]`` that have a vote ``[..., K, N]``."""
    # Not quite nothing, so that boxes which all score zero have a mean.
    positive = scores.to(boxes.dtype).clamp(min=torch.finfo(torch.float32).tiny)
    weights = positive[..., None, :] * votes  # [..., K, N]
    mean: Tensor = weights @ boxes / weights.sum(dim=-1, keepdim=True)
    return mean


def _check(boxes: Tensor, scores: Tensor, score_threshold: float) -> None:
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"scores must be [N, C + 1], background last: got {list(scores.shape)}")
    n, num_classes = scores.shape[0], scores.shape[1] - 1
    if tuple(boxes.shape) not in ((n, 4), (n, num_classes, 4)):
        shapes = f"boxes {list(boxes.shape)}, scores {list(scores.shape)}"
        raise ValueError(f"boxes must be [N, 4] or [N, C, 4] for scores [N, C + 1]: got {shapes}")
    if not _are_finite(scores):
        raise ValueError(f"{int((~scores.isfinite()).sum())} scores are not finite")
    if not _are_finite(boxes):  # which matters where a box is a candidate
        bad = ~boxes.isfinite().all(dim=-1)  # [N] or [N, C]
        bad = (bad[:, None] if boxes.ndim == 2 else bad) & (scores[:, :-1] >= score_threshold)
        if bad.any():
            raise ValueError(f"{int(bad.sum())} boxes are not finite")


def _are_finite(values: Tensor) -> bool:
    # What is not finite shows in the sum, at a tenth of the time of a look at each value; but the
    # sum of large values need not be finite either.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _merge_compiled(boxes: Tensor, scores: Tensor, config: MergeConfig) -> Detections:
    """Merge on the CPU, looking at no more candidates than needed."""
    folder = Path(__file__).parent / "__pycache__"
    announce_compiling("detect", "the merging of boxes", folder)
    chosen, threshold = scores, np.float32(config.score_threshold)
    if scores.dtype != torch.float32:
        # Compared as given: rounding could let a score pass, or the threshold.
        chosen = scores.float().masked_fill(scores < config.score_threshold, -torch.inf)
        threshold = np.finfo(np.float32).min
    corners = _as_corners(boxes)
    candidates = find_candidates(corners, chosen.contiguous().numpy(), threshold)
    count = len(candidates.rows)
    limits = min(config.max_per_class, count), min(config.max_detections, count)
    if config.nms_threshold is None:
        least = float(np.float32(config.score_threshold))
        keep, left = keep_softly(corners, candidates, config.soft_sigma, least, *limits)
    else:
        keep = keep_best(corners, candidates, config.nms_threshold, *limits)
        left = candidates.scores[keep]
    labels = np.searchsorted(candidates.starts, keep, side="right") - 1
    if config.vote_threshold is None:
        kept = corners[candidates.rows[keep], labels if boxes.ndim == 3 else 0]
    else:
        kept = vote(corners, candidates, keep, config.vote_threshold)
    return Detections(
        torch.from_numpy(kept).float(),
        torch.from_numpy(left),
        torch.from_numpy(labels),
    )


def _as_corners(boxes: Tensor) -> NDArray[np.floating]:
    """Return boxes as the kernels take them, ``[N, 1, 4]`` or ``[N, C, 4]``."""
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    elif boxes.dtype != torch.float32:
        boxes = boxes.double()
    if boxes.ndim == 2:
        boxes = boxes[:, None]
    corners: NDArray[np.floating] = boxes.contiguous().numpy()
    return corners


def _merge_with_torch(boxes: Tensor, scores: Tensor, config: MergeConfig) -> Detections:
    """Do the same, with NMS, by operations on all classes at once, on any device."""
    assert config.nms_threshold is not None
    boxes, scores, labels = _candidates(boxes, scores, config.score_threshold)
    keep = _nms_per_class(boxes, labels, config.nms_threshold)
    keep = keep[_rank_within_label(labels[keep]) < config.max_per_class]
    keep = keep[: config.max_detections]
    kept = boxes[keep]
    if config.vote_threshold is not None and len(keep):
        kept = _vote_per_class(keep, boxes, scores, labels, config.vote_threshold)
    return Detections(kept.float(), scores[keep], labels[keep])


def _candidates(
    boxes: Tensor, scores: Tensor, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes ``[M, 4]`` float64, scores and labels that can be detections, best first."""
    # Class-major, so that the stable sort settles ties by label, then by box.
    labels, rows = (scores[:, :-1] >= score_threshold).T.nonzero(as_tuple=True)  # [M]
    scores = scores[rows, labels].float()
    # float64 keeps IoUs exact next to a threshold, and sums independent of a TF32 setting.
    boxes = (boxes[rows] if boxes.ndim == 2 else boxes[rows, labels]).double()
    x1, y1, x2, y2 = boxes.unbind(-1)
    order = scores.sort(descending=True, stable=True).indices
    order = order[((x2 > x1) & (y2 > y1))[order]]
    return boxes[order], scores[order], labels[order]


def _nms_per_class(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of boxes, given best first, that no better one of their class hides."""
    if len(boxes) == 0:
        return labels
    from torchvision.ops import batched_nms  # a second to import, and for other devices alone

    # Ranks are distinct, so that NMS has no ties to settle in an order of its own.
    ranks = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    # From the origin: batched_nms sets classes apart by an offset that ignores negative corners.
    # The offset costs some of the 53 bits of a coordinate; those of pixels have bits to spare.
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
    """Move the boxes ``keep``, at least one, by the votes of their own class, ``[K, 4]``."""
    grouped, order = labels.sort(stable=True)
    first = torch.searchsorted(grouped, labels[keep])  # of the class of each kept box, [K]
    last = torch.searchsorted(grouped, labels[keep], right=True)
    places = torch.arange(int((last - first).max()), device=labels.device)  # [V]
    step = max(1, _PAIRS // len(places))
    voted = []
    for begin in range(0, len(keep), step):
        some = slice(begin, begin + step)
        at = first[some, None] + places  # [k, V]
        voters = order[at.clamp(max=len(order) - 1)]
        given = boxes[voters]  # [k, V, 4]
        overlaps = box_iou(boxes[keep[some], None], given)  # [k, 1, V]
        votes = (overlaps >= iou_threshold) & (at < last[some, None])[:, None]
        voted.append(_average(votes, given, scores[voters])[:, 0])
    return torch.cat(voted)
