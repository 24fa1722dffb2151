"""Matching by the COCO protocol, compiled: what pycocotools' ``COCOeval`` computes.

The rules are those of ``COCOeval.evaluateImg`` and ``accumulate`` (pycocotools 2.0.8 to 2.0.11) for
boxes, to the last comparison; the twelve numbers differ from its own by rounding alone (1e-15).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.data.coco_instances import Instances
from detect.scoring.average_precision import (
    COCO_RECALLS,
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
)
from detect.scoring.coco_curves import RECALL_CAPS, coco_stats, sum_up_class
from detect.scoring.matches import Matches
from detect.scoring.tables import GroundTruth, ScoredBoxes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])  # all, S, M, L
MAX_DETECTIONS = 100  # best ones of an image and class; recall is told for 1 and 10, too


def match_coco(
    found: ScoredBoxes, boxes: NDArray[np.float64], instances: Instances, *, workers: int = 2
) -> tuple[Matches, tuple[float | None, ...]]:
    """Match detections as COCO does.

    Args:
        found: The detections; images and classes as positions in ``instances``.
        boxes: Their boxes as ``x, y, width, height``, from which alone overlaps are computed:
            corners are rounded differently, ``[N, 4]``.
        instances: The ground truth.
        workers: Threads that share the classes; the result is the same for any number.

    Returns:
        The matches over all areas, and the numbers of ``COCO_STATS``, ``None`` where undefined.
    """
    order, ranks = _judged(found.images, found.labels, found.scores, instances)
    found, boxes = found[order], np.ascontiguousarray(boxes[order], dtype=np.float64)
    outcomes, objects, precision, recall = _match_classes(found, boxes, ranks, instances, workers)
    to_find = ~(_outside(instances.areas)[0] | instances.crowd)
    matches = Matches(
        rule="101 points",
        class_names=instances.class_names,
        found=found,
        truth=ground_truth(instances),
        outcomes=outcomes,
        objects=objects,
        to_find=to_find,
        iou_thresholds=np.repeat(IOU_THRESHOLDS[:, None], len(to_find), axis=1),
    )
    return matches, coco_stats(precision, recall)


def _match_classes(
    found: ScoredBoxes,
    boxes: NDArray[np.float64],
    ranks: NDArray[np.int16],
    instances: Instances,
    workers: int,
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Match class by class, several at the same time.

    Returns:
        Outcomes and objects over all areas, ``[T, N]``; precision ``[C, A, T, 101]`` and recall
        ``[C, A, T, 3]`` of the best 1, 10 and 100, both -1 where undefined.
    """
    classes, by_label = len(instances.class_names), np.argsort(instances.labels, kind="stable")
    starts = np.searchsorted(found.labels, np.arange(classes + 1))
    object_starts = np.searchsorted(instances.labels[by_label], np.arange(classes + 1))
    object_images, object_boxes = instances.images[by_label], instances.boxes[by_label]
    crowd = instances.crowd[by_label]
    ignored = _outside(instances.areas[by_label]) | crowd  # [A, M]
    outside = _outside(boxes[:, 2] * boxes[:, 3])  # [A, N]
    shape = len(AREA_RANGES), len(IOU_THRESHOLDS)
    outcomes = np.empty((shape[1], len(found)), dtype=np.int8)
    objects = np.empty((shape[1], len(found)), dtype=np.int32)
    precision = np.full((classes, *shape, len(COCO_RECALLS)), -1.0)
    recall = np.full((classes, *shape, len(RECALL_CAPS)), -1.0)

    def work(label: int) -> None:
        own = slice(*starts[label : label + 2])
        objs = slice(*object_starts[label : label + 2])
        by_area = np.empty((*shape, own.stop - own.start), dtype=np.int8)
        _match_class(
            found.images[own],
            boxes[own],
            outside[:, own],
            by_label[objs],
            object_images[objs],
            object_boxes[objs],
            ignored[:, objs],
            crowd[objs],
            IOU_THRESHOLDS,
            by_area,
            objects[:, own],
        )
        positives = np.count_nonzero(~ignored[:, objs], axis=1)
        sum_up_class(by_area, ranks[own], positives, COCO_RECALLS, precision[label], recall[label])
        outcomes[:, own] = by_area[0]

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(work, range(classes)))
    return outcomes, objects, precision, recall


def ground_truth(instances: Instances) -> GroundTruth:
    """Return the images and objects as the table that all protocols share."""
    return GroundTruth(
        names=instances.names,
        image_ids=instances.image_ids,
        sizes=instances.sizes,
        images=instances.images,
        labels=instances.labels,
        corners=to_corners(instances.boxes),
        ignored=instances.crowd,
    )


def to_corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn ``x, y, width, height`` into 1-based inclusive corners, ``[N, 4]`` -> ``[N, 4]``."""
    return np.concatenate([boxes[:, :2] + 1, boxes[:, :2] + boxes[:, 2:]], axis=1)


def _outside(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which areas lie outside of each range, ``[N]`` -> ``[A, N]``."""
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])


def _judged(
    images: NDArray[np.int32],
    labels: NDArray[np.int32],
    scores: NDArray[np.float64],
    instances: Instances,
) -> tuple[NDArray[np.intp], NDArray[np.int16]]:
    """Select the detections that count, in the order in which ``COCOeval`` accumulates them.

    Returns:
        Their indices, by class, score, image and place in the file, ``[N]``, and the rank of each
        within its image and class from 0, ``[N]``.
    """
    order = np.argsort(images, kind="stable")
    order = order[np.argsort(-scores[order], kind="stable")]
    # numpy sorts 16 bits by counting, four times as fast.
    small = labels.astype(np.int16) if len(instances.class_names) < 2**15 else labels
    order = order[np.argsort(small[order], kind="stable")]
    ranks = _ranks(labels[order], images[order], len(instances.names))
    counted = ranks < MAX_DETECTIONS
    return order[counted], ranks[counted]


@njit(cache=True, nogil=True)
def _ranks(
    labels: NDArray[np.int32], images: NDArray[np.int32], num_images: int
) -> NDArray[np.int16]:
    """Count, for each detection, those before it of the same class and image; 100 at most."""
    ranks = np.empty(len(labels), dtype=np.int16)
    counts = np.zeros(num_images, dtype=np.int16)
    start = 0
    for i in range(len(labels)):
        if labels[i] != labels[start]:
            for j in range(start, i):
                counts[images[j]] = 0
            start = i
        ranks[i] = counts[images[i]]
        if ranks[i] < MAX_DETECTIONS:
            counts[images[i]] += 1
    return ranks


@njit(cache=True, nogil=True, error_model="numpy")
def _overlap(box: NDArray[np.float64], other: NDArray[np.float64], crowd: bool) -> float:
    """Return the IoU of two ``xywh`` boxes as maskApi.c; of a crowd, intersection / detection."""
    width = min(box[2] + box[0], other[2] + other[0]) - max(box[0], other[0])
    height = min(box[3] + box[1], other[3] + other[1]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, intersection = box[2] * box[3], width * height
    union = area if crowd else area + other[2] * other[3] - intersection
    return float(intersection / union)


@njit(cache=True, nogil=True)
def _best_object(
    first: int,
    end: int,
    overlaps: NDArray[np.float64],
    taken: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    threshold: float,
) -> int:
    """Return the object of ``first:end`` that a detection gets, -1 if none.

    Objects that count go first; only a detection that finds none of them may get an ignored one.
    Of equal overlaps the later object wins.
    """
    best, overlap = -1, min(threshold, 1 - 1e-10)
    for of_ignored in (False, True):
        for i in range(first, end):
            if ignored[i] != of_ignored or (taken[i] and not crowd[i]) or overlaps[i] < overlap:
                continue
            overlap = overlaps[i]
            best = i
        if best >= 0:
            break
    return best


@njit(cache=True, nogil=True)
def _match_class(
    images: NDArray[np.int32],
    boxes: NDArray[np.float64],
    outside: NDArray[np.bool_],
    object_rows: NDArray[np.intp],
    object_images: NDArray[np.int32],
    object_boxes: NDArray[np.float64],
    ignored: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
    outcomes: NDArray[np.int8],
    objects: NDArray[np.int32],
) -> None:
    """Match the detections of one class, over all images, for every area range and threshold.

    Args:
        images: Of the detections, best score first, ``[n]``.
        boxes: ``xywh``, ``[n, 4]``.
        outside: Whether the detection is outside of each area range, ``[A, n]``.
        object_rows: Of the objects in the ground truth, ``[m]``.
        object_images: Of the objects, ascending, ``[m]``.
        object_boxes: ``xywh``, ``[m, 4]``.
        ignored: Whether an object does not count in each area range, ``[A, m]``.
        crowd: Whether an object may be found many times, ``[m]``.
        thresholds: IoU thresholds, ascending, ``[T]``.
        outcomes: Takes what became of each detection, ``[A, T, n]``.
        objects: Takes the row of each detection's object over all areas, -1 if none, ``[T, n]``.
    """
    objects[:] = -1
    for a in range(len(ignored)):
        for t in range(len(thresholds)):
            for i in range(len(images)):
                outcomes[a, t, i] = IGNORED if outside[a, i] else FALSE_POSITIVE
    taken = np.zeros((len(ignored), len(thresholds), len(crowd)), dtype=np.bool_)
    overlaps = np.empty(len(crowd))
    for i in range(len(images)):
        first = np.searchsorted(object_images, images[i])
        end, largest = first, 0.0
        while end < len(crowd) and object_images[end] == images[i]:
            overlaps[end] = _overlap(boxes[i], object_boxes[end], crowd[end])
            # 0 / 0 of boxes too small for float64 fails no comparison, so it reaches any threshold.
            undefined = np.isnan(overlaps[end])
            largest = np.inf if undefined else max(largest, overlaps[end])
            end += 1
        for t in range(len(thresholds)):
            if largest < min(thresholds[t], 1 - 1e-10):
                break
            for a in range(len(ignored)):
                best = _best_object(
                    first, end, overlaps, taken[a, t], ignored[a], crowd, thresholds[t]
                )
                if best < 0:
                    continue
                taken[a, t, best] = True
                outcomes[a, t, i] = IGNORED if ignored[a, best] else TRUE_POSITIVE
                if a == 0:
                    objects[t, i] = object_rows[best]
