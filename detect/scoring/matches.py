"""What became of every detection and object: all curves, intervals and reasons come from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detect.scoring.average_precision import Rule
from detect.scoring.tables import GroundTruth, ScoredBoxes


@dataclass(frozen=True)
class Matches:
    """Detections with the objects that were given to them.

    Several IoU thresholds are judged apart from each other (COCO: 10); ILSVRC and VOC have one.

    Attributes:
        rule: How a curve becomes an average precision.
        class_names: Names of the classes, ``[C]``.
        found: The judged detections, class by class and best first within a class, ``[N]``.
        truth: The objects, ``[M]``.
        outcomes: ``FALSE_POSITIVE``, ``TRUE_POSITIVE`` or ``IGNORED``, int8 ``[T, N]``.
        objects: The object each detection was given, or was ignored for; -1 if there is none,
            int32 ``[T, N]``.
        to_find: Objects that count, bool ``[M]``: neither difficult, crowd nor blacklisted.
        iou_thresholds: IoU from which a detection finds an object, float64 ``[T, M]``.
    """

    rule: Rule
    class_names: tuple[str, ...]
    found: ScoredBoxes
    truth: GroundTruth
    outcomes: NDArray[np.int8]
    objects: NDArray[np.int32]
    to_find: NDArray[np.bool_]
    iou_thresholds: NDArray[np.float64]

    @property
    def num_classes(self) -> int:
        """Number of classes, with and without objects."""
        return len(self.class_names)

    @cached_property
    def class_starts(self) -> NDArray[np.intp]:
        """Where each class's detections start, and where the last one's end, ``[C + 1]``."""
        return np.searchsorted(self.found.labels, np.arange(self.num_classes + 1))

    @cached_property
    def positives(self) -> NDArray[np.int64]:
        """Objects of each class that are to be found, ``[C]``."""
        labels = self.truth.labels[self.to_find]
        return np.bincount(labels, minlength=self.num_classes).astype(np.int64)
