"""Average precision where images count several times or not at all, for many draws at a time.

A draw scores exactly as a data set would in which an image stands as often as it was drawn, its
copies next to each other in every ranking: precision falls with every false positive and rises
with every copy of a true one, so that the envelope at any copy is the envelope at the last, and
weighted counts at the end of each detection are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from detect.scoring.average_precision import (
    COCO_RECALLS,
    ELEVEN_RECALLS,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    Rule,
)
from detect.scoring.matches import Matches

# Draws scored at a time: their counts fill a few vector registers, and the weights of all images,
# a byte each, stay in the second-level cache.
LANES = 16

_RECALLS: dict[Rule, NDArray] = {
    "area": np.zeros(0),
    "11 points": ELEVEN_RECALLS,
    "101 points": COCO_RECALLS,
}


@dataclass(frozen=True)
class WeightedCurves:
    """What of the matches decides average precisions, with nothing that a draw would change.

    There is a curve for each IoU threshold and class, one threshold after the other. False
    positives below a curve's last true positive are left out: they change no AP.

    Attributes:
        recalls: Points of the curve that count, ascending; none for its area.
        starts: First true positive of each curve, ``[T C + 1]``.
        true_images: Images of the true positives, best first within a curve, ``[K]``.
        false_starts: First false positive between a true positive and the one before, ``[K + 1]``.
        false_images: Images of the false positives, in the same order.
        object_starts: First object to be found of each class, ``[C + 1]``.
        object_images: Images of these objects.
    """

    recalls: NDArray[np.float64]
    starts: NDArray[np.int64]
    true_images: NDArray[np.int32]
    false_starts: NDArray[np.int64]
    false_images: NDArray[np.int32]
    object_starts: NDArray[np.int64]
    object_images: NDArray[np.int32]

    @classmethod
    def of(cls, matches: Matches) -> WeightedCurves:
        """Pick out what decides average precisions."""
        images, labels, num_classes = (
            matches.found.images,
            matches.found.labels,
            matches.num_classes,
        )
        true_curves, true_images, false_counts, false_images = [], [], [], []
        for threshold, outcomes in enumerate(matches.outcomes):
            true = np.flatnonzero(outcomes == TRUE_POSITIVE)
            last = np.full(num_classes, -1, dtype=np.intp)
            np.maximum.at(last, labels[true], true)
            matters = (outcomes == FALSE_POSITIVE) & (np.arange(len(labels)) < last[labels])
            before = np.cumsum(matters)[true]  # a true positive is no false one: those above it
            true_curves.append(threshold * num_classes + labels[true])
            true_images.append(images[true])
            false_counts.append(np.diff(before, prepend=0))
            false_images.append(images[matters])
        curves = np.arange(len(matches.outcomes) * num_classes + 1)
        order = np.argsort(matches.truth.labels[matches.to_find], kind="stable")
        return cls(
            recalls=_RECALLS[matches.rule],
            starts=np.searchsorted(_joined(true_curves), curves).astype(np.int64),
            true_images=_joined(true_images),
            false_starts=_starts(_joined(false_counts)),
            false_images=_joined(false_images),
            object_starts=_starts(matches.positives),
            object_images=matches.truth.images[matches.to_find][order],
        )

    def average_precisions(self, weights: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return each class's AP in each draw, its mean over the IoU thresholds, ``[LANES, C]``.

        Args:
            weights: How often each image was drawn, ``[I, LANES]``.

        Returns:
            APs 0..1, NaN where the draw has no object of the class.
        """
        num_classes = len(self.object_starts) - 1
        sums = np.zeros((num_classes, LANES))
        _add_average_precisions(
            sums,
            weights,
            self.recalls,
            self.starts,
            self.true_images,
            self.false_starts,
            self.false_images,
            self.object_starts,
            self.object_images,
        )
        return sums.T / max(1, (len(self.starts) - 1) // max(1, num_classes))


def _joined(parts: list[NDArray]) -> NDArray:
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts])


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(counts)).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _add_average_precisions(
    sums: NDArray[np.float64],
    weights: NDArray[np.uint8],
    recalls: NDArray[np.float64],
    starts: NDArray[np.int64],
    true_images: NDArray[np.int32],
    false_starts: NDArray[np.int64],
    false_images: NDArray[np.int32],
    object_starts: NDArray[np.int64],
    object_images: NDArray[np.int32],
) -> None:
    """Add up the APs of each class over its curves, ``[C, LANES]``; see ``WeightedCurves``."""
    num_classes = len(object_starts) - 1
    for label in range(num_classes):
        positives = np.zeros(LANES, np.int64)
        for m in range(object_starts[label], object_starts[label + 1]):
            for lane in range(LANES):
                positives[lane] += weights[object_images[m], lane]
        for curve in range(label, len(starts) - 1, num_classes):
            start, end = starts[curve], starts[curve + 1]
            images = true_images[start:end]
            precision = np.empty((end - start, LANES))
            true = _measure(precision, weights, images, false_starts[start : end + 1], false_images)
            if len(recalls):
                _add_points(sums[label], precision, weights, images, true, positives, recalls)
            else:
                _add_area(sums[label], precision, weights, images, positives)
        for lane in range(LANES):
            if positives[lane] == 0:
                sums[label, lane] = np.nan


@numba.njit(cache=True, nogil=True, error_model="numpy")  # a test for zero would not be vectorised
def _measure(
    precision: NDArray[np.float64],
    weights: NDArray[np.uint8],
    true_images: NDArray[np.int32],
    false_starts: NDArray[np.int64],
    false_images: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Note the precision after each true positive, ``[K, LANES]``; return how many there are."""
    true, false = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    for k in range(len(true_images)):
        for n in range(false_starts[k], false_starts[k + 1]):
            for lane in range(LANES):
                false[lane] += weights[false_images[n], lane]
        for lane in range(LANES):
            true[lane] += weights[true_images[k], lane]
            precision[k, lane] = true[lane] / max(1, true[lane] + false[lane])
    return true


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add_area(
    sums: NDArray[np.float64],
    precision: NDArray[np.float64],
    weights: NDArray[np.uint8],
    true_images: NDArray[np.int32],
    positives: NDArray[np.int64],
) -> None:
    """Add the area under the envelope, followed from its right end to the left."""
    best, area = np.zeros(LANES), np.zeros(LANES)
    for k in range(len(true_images) - 1, -1, -1):
        for lane in range(LANES):
            best[lane] = max(best[lane], precision[k, lane])
            area[lane] += weights[true_images[k], lane] * best[lane]
    for lane in range(LANES):
        sums[lane] += area[lane] / max(1, positives[lane])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add_points(
    sums: NDArray[np.float64],
    precision: NDArray[np.float64],
    weights: NDArray[np.uint8],
    true_images: NDArray[np.int32],
    true: NDArray[np.int64],
    positives: NDArray[np.int64],
    recalls: NDArray[np.float64],
) -> None:
    """Add the mean of the envelope at the recalls, followed from its right end to the left."""
    for lane in range(LANES):
        best, total, left = 0.0, 0.0, true[lane]
        reached = _count_reached(left, positives[lane], recalls)
        for k in range(len(true_images) - 1, -1, -1):
            weight = weights[true_images[k], lane]
            if weight > 0:
                best = max(best, precision[k, lane])
                left -= weight
                below = _count_reached(left, positives[lane], recalls)
                total += (reached - below) * best
                reached = below
        sums[lane] += total / len(recalls)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _count_reached(true: int, positives: int, recalls: NDArray[np.float64]) -> int:
    """Return how many recalls so many true positives reach, none without any.

    Decided by the very comparison of the exact rule; the guess only saves the search.
    """
    if true == 0:
        return 0
    recall = true / positives
    count = int(recall * (len(recalls) - 1))
    while count < len(recalls) and recalls[count] <= recall:
        count += 1
    while count > 0 and recalls[count - 1] > recall:
        count -= 1
    return count
