"""Detections and objects of a whole data set as columns, ready to be matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detect.data.records import Record
from detect.detections import Detections


@dataclass(frozen=True)
class ScoredBoxes:
    """Detections on all images, in the order of their file.

    Attributes:
        images: Position of each one's image in the ground truth, int64 ``[N]``.
        labels: Classes from 0, int64 ``[N]``.
        scores: Confidences, finite, float64 ``[N]``.
        boxes: Half-open ``xyxy`` pixels, finite, float64 ``[N, 4]``.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]

    def __getitem__(self, keep: NDArray[np.int64]) -> ScoredBoxes:
        """Select or reorder detections by index."""
        return ScoredBoxes(
            self.images[keep], self.labels[keep], self.scores[keep], self.boxes[keep]
        )


@dataclass(frozen=True)
class TruthBoxes:
    """Objects on all images, in the order of their images and files.

    Attributes:
        images: Position of each one's image in the ground truth, int64 ``[M]``.
        labels: Classes from 0, int64 ``[M]``.
        boxes: Half-open ``xyxy`` pixels, float64 ``[M, 4]``.
        ignored: Objects that are not to be found, bool ``[M]``.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]


def scored_boxes(
    detections: ScoredBoxes | Sequence[Detections], num_images: int, num_classes: int
) -> ScoredBoxes:
    """Put detections into columns and check them.

    Args:
        detections: The columns themselves, or one ``Detections`` an image.
        num_images: Images of the ground truth.
        num_classes: Classes that are scored.

    Raises:
        ValueError: If images and detections disagree in number, a label is no class, or a score or
            box is not finite.
    """
    if not isinstance(detections, ScoredBoxes):
        if len(detections) != num_images:
            raise ValueError(f"{len(detections)} detections for {num_images} images: need one each")
        detections = _columns(detections)
    if len(detections.labels):
        low, high = int(detections.labels.min()), int(detections.labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"labels {low}..{high} leave the {num_classes} classes")
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.boxes).all()):
        raise ValueError("a score or box of the detections is not a finite number")
    return detections


def truth_boxes(records: Sequence[Record], num_classes: int) -> TruthBoxes:
    """Put the objects of all images into columns.

    Raises:
        ValueError: If a label is no class.
    """
    counts = [len(record.labels) for record in records]
    labels = _concatenate([record.labels for record in records], np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels {labels.min()}..{labels.max()} leave the {num_classes} classes")
    return TruthBoxes(
        images=np.repeat(np.arange(len(records)), counts),
        labels=labels,
        boxes=_concatenate([record.boxes for record in records], np.float64).reshape(-1, 4),
        ignored=_concatenate([record.difficult for record in records], np.bool_),
    )


def group_truth(truth: TruthBoxes, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort objects by class and image, in the order of their file within both.

    Returns:
        The order ``[M]``, and the sorted keys ``label * num_images + image`` ``[M]``.
    """
    keys = truth.labels * num_images + truth.images
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def inclusive(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half-open boxes as 1-based inclusive ones, ``[N, 4]`` -> ``[N, 4]``.

    The devkits' arithmetic can then be followed to the last bit: x - 1 + 1 = x holds exactly in
    float64 for every x >= 1, while ``x2 - (x1 - 1)`` need not equal ``x2 - x1 + 1``.
    """
    return np.add(boxes, (1.0, 1.0, 0.0, 0.0), dtype=np.float64)


def _columns(detections: Sequence[Detections]) -> ScoredBoxes:
    counts = [len(found) for found in detections]
    return ScoredBoxes(
        images=np.repeat(np.arange(len(detections)), counts),
        labels=_concatenate([found.labels for found in detections], np.int64),
        scores=_concatenate([found.scores for found in detections], np.float64),
        boxes=_concatenate([found.boxes for found in detections], np.float64).reshape(-1, 4),
    )


def _concatenate(tensors: Sequence[torch.Tensor], dtype: type) -> NDArray:
    if not tensors:
        return np.zeros(0, dtype)
    return torch.cat([tensor.detach().cpu() for tensor in tensors]).numpy().astype(dtype)
