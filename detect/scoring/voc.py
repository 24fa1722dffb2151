"""PASCAL VOC average precision, as the devkit's VOCevaldet.m computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.data.problems import InputError
from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, Rule
from detect.scoring.matching import ClassBoxes, first_objects, match, overlap, sort_detections
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import GroundTruth, ScoredBoxes, check_columns, scored_boxes

if TYPE_CHECKING:
    from detect.data.records import Record
    from detect.detections import Detections

METRICS: dict[str, tuple[str, Rule]] = {
    "2007": ("voc2007-11-points", "11 points"),
    "2010": ("voc2010-area", "area"),
}


def score_voc(
    predictions: ScoredBoxes | Sequence[Detections],
    ground_truth: GroundTruth | Sequence[Record],
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
    metric: str = "2010",
    *,
    official: bool = False,
) -> Scores:
    """Score detections as VOC does.

    A detection belongs to the object of its image and class that it overlaps most, taken and
    difficult ones too. Detections on difficult objects are ignored; a second detection on an object
    is a false positive. Detections of equal score keep their order.

    Args:
        predictions: One ``Detections`` an image, or the columns of all.
        ground_truth: The images.
        class_names: Names of the classes, ``[C]``.
        iou_threshold: IoU from which a detection finds an object, 0..1.
        metric: ``2007`` for 11 points of the curve, ``2010`` for its area.
        official: Let classes without objects count as the devkit's code has them, in place of
            leaving them out of the mean.

    Raises:
        InputError: If the metric is unknown.
        ValueError: If a label is no class, or a score or box is not finite.
    """
    if metric not in METRICS:
        raise InputError(f"VOC metric {metric!r}: choose one of {', '.join(METRICS)}")
    protocol, rule = METRICS[metric]
    truth = GroundTruth.of(ground_truth)
    found = scored_boxes(predictions, truth)
    check_columns(found, truth, len(class_names), any_score=official)
    found = sort_detections(found, len(class_names), truth.num_images)

    def match_class(
        label: int, boxes: ClassBoxes, members: NDArray[np.int32], *out: NDArray[Any]
    ) -> None:
        _match(boxes, truth.ignored[members], iou_threshold, *out)

    matches = match(
        found,
        truth,
        class_names,
        match_class,
        rule=rule,
        to_find=~truth.ignored,
        iou_thresholds=np.full(len(truth.labels), iou_threshold),
    )
    curve = "11 points of the curve" if metric == "2007" else "area under the curve"
    rules = (
        f"IoU >= {iou_threshold:g}, widths xmax - xmin + 1; {curve}; no cap on detections; "
        f"{int(np.count_nonzero(truth.ignored))} difficult objects ignored; "
        f"{truth.num_images} images"
    )
    return Scores(
        format="voc",
        protocol=protocol,
        classes=class_scores(matches, official=official),
        matches=matches,
        rules=rules,
        official=official,
    )


@njit(cache=True, nogil=True)
def _match(
    boxes: ClassBoxes,
    difficult: NDArray[np.bool_],
    iou_threshold: float,
    outcomes: NDArray[np.int8],
    objects: NDArray[np.int32],
) -> None:
    """Give the objects of one class to its detections, best detection first.

    Args:
        boxes: Detections and objects.
        difficult: Objects that are not to be found, ``[o]``.
        iou_threshold: IoU from which a detection finds an object.
        outcomes: Takes what each detection turned out to be, ``[d]``.
        objects: Takes the object of each detection or -1, ``[d]``.
    """
    first = first_objects(boxes)
    taken = np.zeros(len(difficult), np.bool_)
    for i in range(len(boxes.images)):
        j = first[boxes.images[i]]
        best, best_overlap = -1, -np.inf
        while j < len(difficult) and boxes.object_images[j] == boxes.images[i]:
            iou = overlap(boxes.corners[i], boxes.object_corners[j])
            if iou >= 0 and iou > best_overlap:
                best, best_overlap = j, iou
            j += 1
        objects[i] = -1
        outcomes[i] = FALSE_POSITIVE
        if best >= 0 and best_overlap >= iou_threshold and (difficult[best] or not taken[best]):
            objects[i] = best
            taken[best] = True
            outcomes[i] = IGNORED if difficult[best] else TRUE_POSITIVE
