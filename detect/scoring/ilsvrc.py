"""ILSVRC DET average precision, as the devkit's eval_detection.m computes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from detect.data.ilsvrc import read_blacklist, read_ilsvrc, read_synsets
from detect.data.records import Record
from detect.detections import Detections
from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    area_average_precision,
)
from detect.scoring.predictions import read_ilsvrc_predictions
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import ScoredBoxes, group_truth, inclusive, scored_boxes, truth_boxes


def score_ilsvrc(
    predictions: ScoredBoxes | Sequence[Detections],
    ground_truth: Sequence[Record],
    class_names: Sequence[str],
    blacklist: Collection[tuple[int, int]] = frozenset(),
) -> Scores:
    """Score detections as ILSVRC DET does.

    A detection takes the not yet taken object of its image and class that it overlaps most, if the
    IoU reaches ``min(0.5, w h / ((w + 10) (h + 10)))``, w and h being the object's sides: small
    objects are easier to hit. Detections of equal score come in the order of image id, then file.

    Args:
        predictions: One ``Detections`` a record, or the columns of all.
        ground_truth: The images, with unique ``image_id``; nothing is difficult in ILSVRC.
        class_names: Names of the classes, ``[C]``.
        blacklist: Pairs ``(image_id, label)`` that are not judged: neither objects nor detections.

    Raises:
        ValueError: If a label is no class, or a score or box is not finite.
    """
    found = scored_boxes(predictions, len(ground_truth), len(class_names))
    truth = truth_boxes(ground_truth, len(class_names))
    image_ids = np.array([record.image_id for record in ground_truth], dtype=np.int64)
    found = found[np.lexsort((image_ids[found.images], -found.scores, found.labels))]

    ignored_pairs = _pair_keys(blacklist, image_ids)
    order, truth_keys = group_truth(truth, len(ground_truth))
    found_keys = found.labels * len(ground_truth) + found.images
    judged = ~np.isin(truth_keys, ignored_pairs)
    positives = np.bincount(truth.labels[order][judged], minlength=len(class_names))
    outcomes = _match(
        inclusive(found.boxes),
        np.searchsorted(truth_keys, found_keys, side="left"),
        np.searchsorted(truth_keys, found_keys, side="right"),
        np.isin(found_keys, ignored_pairs),
        inclusive(truth.boxes[order]),
    )
    scores = class_scores(found.labels, outcomes, positives, class_names, area_average_precision)
    return Scores(format="ilsvrc", protocol="ilsvrc-det", classes=scores)


def score_ilsvrc_files(
    predictions: Path,
    annotations: Path,
    image_list: Path,
    classes: Path,
    blacklist: Path | None = None,
) -> Scores:
    """Score a submission file.

    Args:
        predictions: Lines ``image_id class_id score xmin ymin xmax ymax``, any order.
        annotations: Folder or tar archive of the XML files.
        image_list: Lines ``name id``.
        classes: meta_det.mat, or lines ``wnid id name``.
        blacklist: Lines ``image_id wnid``; without it every object counts.

    Raises:
        InputError: If a file is missing or malformed.
    """
    synsets = read_synsets(classes)
    pairs = read_blacklist(blacklist, synsets) if blacklist else frozenset()
    records = read_ilsvrc(annotations, image_list, synsets)
    found, notes = read_ilsvrc_predictions(predictions, records, synsets)
    scores = score_ilsvrc(found, records, synsets.names, pairs)
    return Scores(scores.format, scores.protocol, scores.classes, notes=notes)


def _pair_keys(
    blacklist: Collection[tuple[int, int]], image_ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return keys ``label * num_images + image``; pairs of other images fall out."""
    positions = {image_id: i for i, image_id in enumerate(image_ids.tolist())}
    keys = [
        label * len(image_ids) + positions[image_id]
        for image_id, label in blacklist
        if image_id in positions
    ]
    return np.array(keys, dtype=np.int64)


@numba.njit(cache=True)
def _match(
    boxes: NDArray[np.float64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    ignored: NDArray[np.bool_],
    objects: NDArray[np.float64],
) -> NDArray[np.int8]:
    """Give objects to detections, best detection first.

    Args:
        boxes: Detections, 1-based inclusive, best first within a class, ``[N, 4]``.
        starts: First object of each detection's image and class, ``[N]``.
        ends: One past the last, ``[N]``.
        ignored: Detections on blacklisted images of their class, ``[N]``.
        objects: Objects, 1-based inclusive, ``[M, 4]``.

    Returns:
        What each detection turned out to be, ``[N]``.
    """
    outcomes = np.zeros(len(boxes), np.int8)
    taken = np.zeros(len(objects), np.bool_)
    for i in range(len(boxes)):
        if ignored[i]:
            outcomes[i] = IGNORED
            continue
        x1, y1, x2, y2 = boxes[i]
        best, best_overlap = -1, -np.inf
        for j in range(starts[i], ends[i]):
            left, top, right, bottom = objects[j]
            width = min(x2, right) - max(x1, left) + 1
            height = min(y2, bottom) - max(y1, top) + 1
            if taken[j] or width <= 0 or height <= 0:
                continue
            w, h = right - left + 1, bottom - top + 1
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + w * h - width * height
            overlap = width * height / union
            threshold = min(0.5, w * h / ((w + 10) * (h + 10)))
            if overlap >= threshold and overlap > best_overlap:
                best, best_overlap = j, overlap
        if best >= 0:
            taken[best] = True
        outcomes[i] = TRUE_POSITIVE if best >= 0 else FALSE_POSITIVE
    return outcomes
