"""Average precision of a ranked list of detections, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, 2  # what a detection turned out to be

# As the VOC devkit's own loop counts: i * 0.1, so that 3 * 0.1 lies a bit above the number 0.3.
ELEVEN_RECALLS = np.arange(11) * 0.1


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


def area_average_precision(outcomes: NDArray[np.int8], positives: int) -> float:
    """Return the area under the curve, as ILSVRC and VOC since 2010 define it.

    Precision is first replaced by the best precision at the same or a higher recall.

    Args:
        outcomes: See ``precision_recall``, ``[N]``.
        positives: Objects to be found, at least 1.
    """
    precision, recall = precision_recall(outcomes, positives)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)  # 0 except at true positives
    return float(np.sum(steps * envelope))


def eleven_point_average_precision(outcomes: NDArray[np.int8], positives: int) -> float:
    """Return the mean of the best precisions at recall 0, 0.1, ... 1, as VOC 2007 defines it.

    Args:
        outcomes: See ``precision_recall``, ``[N]``.
        positives: Objects to be found, at least 1.
    """
    precision, recall = precision_recall(outcomes, positives)
    best = [np.max(precision[recall >= r], initial=0.0) for r in ELEVEN_RECALLS]
    return float(np.mean(best))
