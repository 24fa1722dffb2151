"""PASCAL VOC average precision, as the devkit's VOCevaldet.m computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from detect.data.records import Record
from detect.data.sources import InputError
from detect.data.voc import read_voc_annotations
from detect.detections import Detections
from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    area_average_precision,
    eleven_point_average_precision,
)
from detect.scoring.predictions import read_voc_predictions
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import ScoredBoxes, group_truth, inclusive, scored_boxes, truth_boxes

METRICS = {
    "2007": ("voc2007-11-points", eleven_point_average_precision),
    "2010": ("voc2010-area", area_average_precision),
}


def score_voc(
    detections: ScoredBoxes | Sequence[Detections],
    records: Sequence[Record],
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
    metric: str = "2010",
) -> Scores:
    """Score detections as VOC does.

    A detection belongs to the object of its image and class that it overlaps most, taken and
    difficult ones too. Detections on difficult objects are ignored; a second detection on an object
    is a false positive. Detections of equal score keep their order.

    Args:
        detections: One ``Detections`` a record, or the columns of all.
        records: The images.
        class_names: Names of the classes, ``[C]``.
        iou_threshold: IoU from which a detection finds an object, 0..1.
        metric: ``2007`` for 11 points of the curve, ``2010`` for its area.

    Raises:
        InputError: If the metric is unknown.
        ValueError: If a label is no class, or a score or box is not finite.
    """
    if metric not in METRICS:
        raise InputError(f"VOC metric {metric!r}: choose one of {', '.join(METRICS)}")
    protocol, average_precision = METRICS[metric]
    found = scored_boxes(detections, len(records), len(class_names))
    truth = truth_boxes(records, len(class_names))
    found = found[np.lexsort((-found.scores, found.labels))]
    order, truth_keys = group_truth(truth, len(records))
    found_keys = found.labels * len(records) + found.images
    outcomes = _match(
        inclusive(found.boxes),
        np.searchsorted(truth_keys, found_keys, side="left"),
        np.searchsorted(truth_keys, found_keys, side="right"),
        inclusive(truth.boxes[order]),
        truth.ignored[order],
        iou_threshold,
    )
    positives = np.bincount(truth.labels[~truth.ignored], minlength=len(class_names))
    scores = class_scores(found.labels, outcomes, positives, class_names, average_precision)
    return Scores(format="voc", protocol=protocol, classes=scores)


def score_voc_files(
    predictions: Path,
    annotations: Path,
    image_list: Path,
    class_names: Sequence[str],
    metric: str = "2010",
) -> Scores:
    """Score a folder of results files.

    Args:
        predictions: Folder of comp4_det_test_CLASS.txt, lines ``name score xmin ymin xmax ymax``.
        annotations: Folder or tar archive of the XML files.
        image_list: The name of one image a line.
        class_names: Names of the classes, ``[C]``.
        metric: ``2007`` or ``2010``.

    Raises:
        InputError: If a file is missing or malformed.
    """
    records = read_voc_annotations(annotations, image_list, class_names)
    found = read_voc_predictions(predictions, records, class_names)
    return score_voc(found, records, class_names, metric=metric)


@numba.njit(cache=True)
def _match(
    boxes: NDArray[np.float64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    objects: NDArray[np.float64],
    difficult: NDArray[np.bool_],
    iou_threshold: float,
) -> NDArray[np.int8]:
    """Give objects to detections, best detection first.

    Args:
        boxes: Detections, 1-based inclusive, best first within a class, ``[N, 4]``.
        starts: First object of each detection's image and class, ``[N]``.
        ends: One past the last, ``[N]``.
        objects: Objects, 1-based inclusive, ``[M, 4]``.
        difficult: Objects that are not to be found, ``[M]``.
        iou_threshold: IoU from which a detection finds an object.

    Returns:
        What each detection turned out to be, ``[N]``.
    """
    outcomes = np.zeros(len(boxes), np.int8)
    taken = np.zeros(len(objects), np.bool_)
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i]
        best, best_overlap = -1, -np.inf
        for j in range(starts[i], ends[i]):
            left, top, right, bottom = objects[j]
            width = min(x2, right) - max(x1, left) + 1
            height = min(y2, bottom) - max(y1, top) + 1
            if width <= 0 or height <= 0:
                continue
            area = (right - left + 1) * (bottom - top + 1)
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + area - width * height
            overlap = width * height / union
            if overlap > best_overlap:
                best, best_overlap = j, overlap
        if best < 0 or best_overlap < iou_threshold or (taken[best] and not difficult[best]):
            outcomes[i] = FALSE_POSITIVE
        elif difficult[best]:
            outcomes[i] = IGNORED
        else:
            taken[best] = True
            outcomes[i] = TRUE_POSITIVE
    return outcomes
