"""Average precision of a ranked list of detections, in float64."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, 2  # what a detection turned out to be

# How a curve becomes one number: its area (ILSVRC, VOC since 2010), 11 points of it (VOC 2007) or
# 101 (COCO).
Rule = Literal["area", "11 points", "101 points"]

# As the VOC devkit's own loop counts: i * 0.1, so that 3 * 0.1 lies a bit above the number 0.3.
ELEVEN_RECALLS = np.arange(11) * np.float64(0.1)
COCO_RECALLS = np.linspace(0.0, 1.0, 101, dtype=np.float64)


def average_precision(outcomes: NDArray[np.int8], positives: int, rule: Rule) -> float:
    """Return the average precision of one class, 0..1.

    Args:
        outcomes: ``FALSE_POSITIVE``, ``TRUE_POSITIVE`` or ``IGNORED``, best score first, ``[N]``.
        positives: Objects to be found, at least 1.
        rule: How the curve is summed up.

    Raises:
        ValueError: If there is nothing to be found.
    """
    precision, recall = precision_recall(outcomes, positives)
    if rule == "area":
        steps = np.diff(recall, prepend=0.0)  # 0 except at true positives
        return float(np.sum(steps * envelope(precision)))
    recalls: NDArray = ELEVEN_RECALLS if rule == "11 points" else COCO_RECALLS
    return float(np.mean(precision_at(precision, recall, recalls)))


def precision_recall(
    outcomes: NDArray[np.int8], positives: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall after each detection.

    Args:
        outcomes: ``FALSE_POSITIVE``, ``TRUE_POSITIVE`` or ``IGNORED``, best score first, ``[N]``.
        positives: Objects to be found, at least 1.

    Returns:
        Precision ``[N]`` and recall ``[N]``, both 0..1; precision is 0 before any detection counts.

    Raises:
        ValueError: If there is nothing to be found.
    """
    if positives < 1:
        raise ValueError(f"recall needs at least one object to be found, got {positives}")
    true = np.cumsum(outcomes == TRUE_POSITIVE, dtype=np.float64)
    counted = np.cumsum(outcomes != IGNORED, dtype=np.float64)
    return true / np.maximum(counted, 1), true / positives


def envelope(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best precision at the same or a higher recall, ``[N]`` -> ``[N]``."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def precision_at(
    precision: NDArray[np.float64], recall: NDArray[np.float64], recalls: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the best precision from each given recall on, 0 where it is never reached, ``[R]``."""
    best = np.append(envelope(precision), 0.0)
    return best[np.searchsorted(recall, recalls, side="left")]
