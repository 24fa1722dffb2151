"""ILSVRC DET average precision, as the devkit's eval_detection.m computes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from detect.scoring.matching import ClassBoxes, first_objects, match, overlap, sort_detections
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import GroundTruth, ScoredBoxes, check_columns, scored_boxes

if TYPE_CHECKING:
    from detect.data.records import Record
    from detect.detections import Detections

PROTOCOL = "ilsvrc-det"


def score_ilsvrc(
    predictions: ScoredBoxes | Sequence[Detections],
    ground_truth: GroundTruth | Sequence[Record],
    class_names: Sequence[str],
    blacklist: Collection[tuple[int, int]] = frozenset(),
    *,
    official: bool = False,
) -> Scores:
    """Score detections as ILSVRC DET does.

    A detection takes the not yet taken object of its image and class that it overlaps most, if the
    IoU reaches ``min(0.5, w h / ((w + 10) (h + 10)))``, w and h being the object's sides: small
    objects are easier to hit. Detections of equal score come in the order of image id, then file.

    Args:
        predictions: One ``Detections`` an image, or the columns of all.
        ground_truth: The images, with unique ids; nothing is difficult in ILSVRC.
        class_names: Names of the classes, ``[C]``.
        blacklist: Pairs ``(image_id, label)`` that are not judged: neither objects nor detections.
        official: Let classes without objects make the mean undefined, as the devkit's code does,
            in place of leaving them out; it does not look beyond the last class that has objects.

    Raises:
        ValueError: If a label is no class, or a score or box is not finite.
    """
    truth = GroundTruth.of(ground_truth)
    found = scored_boxes(predictions, truth)
    check_columns(found, truth, len(class_names), any_score=official)
    found = sort_detections(found, len(class_names), truth.num_images, truth.image_ids)

    skipped = _images_by_class(blacklist, truth.image_ids, len(class_names))
    to_find = _without(skipped, truth)
    thresholds = small_object_thresholds(truth.corners)

    def match_class(
        label: int, boxes: ClassBoxes, members: NDArray[np.int32], *out: NDArray[Any]
    ) -> None:
        _match(boxes, skipped[label], thresholds[members], *out)

    matches = match(
        found,
        truth,
        class_names,
        match_class,
        rule="area",
        to_find=to_find,
        iou_thresholds=thresholds,
    )
    return Scores(
        format="ilsvrc",
        protocol=PROTOCOL,
        classes=class_scores(matches, official=official),
        matches=matches,
        rules=_rules(truth, skipped, to_find),
        official=official,
        num_averaged=int(truth.labels.max(initial=-1)) + 1 if official else None,
    )


def small_object_thresholds(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU from which each object counts as found, ``[M, 4]`` -> ``[M]``."""
    w = corners[:, 2] - corners[:, 0] + 1
    h = corners[:, 3] - corners[:, 1] + 1
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes that are none, official=True
        return np.minimum(0.5, w * h / ((w + 10) * (h + 10)))


def _images_by_class(
    blacklist: Collection[tuple[int, int]], image_ids: NDArray[np.int64], num_classes: int
) -> list[NDArray[np.int32]]:
    """Return the positions of each class's blacklisted images; other images fall out."""
    positions = {image_id: i for i, image_id in enumerate(image_ids.tolist())} if blacklist else {}
    images: list[list[int]] = [[] for _ in range(num_classes)]
    for image_id, label in blacklist:
        if image_id in positions and 0 <= label < num_classes:
            images[label].append(positions[image_id])
    return [np.array(of_class, dtype=np.int32) for of_class in images]


def _without(skipped: Sequence[NDArray[np.int32]], truth: GroundTruth) -> NDArray[np.bool_]:
    """Tell which objects are not on a blacklisted image of their class, ``[M]``."""
    to_find = np.ones(len(truth.labels), dtype=np.bool_)
    for label, images in enumerate(skipped):
        if len(images):
            to_find[(truth.labels == label) & np.isin(truth.images, images)] = False
    return to_find


def _rules(
    truth: GroundTruth, skipped: Sequence[NDArray[np.int32]], to_find: NDArray[np.bool_]
) -> str:
    pairs, objects = sum(map(len, skipped)), int(np.count_nonzero(~to_find))
    blacklist = f"{pairs} blacklisted pairs of image and class take {objects} objects away"
    return (
        "IoU >= min(0.5, w h / ((w + 10) (h + 10))), w = xmax - xmin + 1, h alike; area under the "
        f"curve; no cap on detections; {blacklist if pairs else 'nothing blacklisted'}; "
        f"{truth.num_images} images"
    )


@njit(cache=True, nogil=True)
def _match(
    boxes: ClassBoxes,
    skipped: NDArray[np.int32],
    thresholds: NDArray[np.float64],
    outcomes: NDArray[np.int8],
    objects: NDArray[np.int32],
) -> None:
    """Give the objects of one class to its detections, best detection first.

    Args:
        boxes: Detections and objects.
        skipped: Images that are not judged.
        thresholds: IoU from which each object counts as found, ``[o]``.
        outcomes: Takes what each detection turned out to be, ``[d]``.
        objects: Takes the object of each detection or -1, ``[d]``.
    """
    first = first_objects(boxes)
    for image in skipped:
        first[image] = -1
    taken = np.zeros(len(thresholds), np.bool_)
    for i in range(len(boxes.images)):
        image = boxes.images[i]
        j = first[image]
        objects[i] = -1
        if j < 0:
            outcomes[i] = IGNORED
            continue
        best = -np.inf
        while j < len(thresholds) and boxes.object_images[j] == image:
            if not taken[j]:
                iou = overlap(boxes.corners[i], boxes.object_corners[j])
                if iou >= thresholds[j] and iou > best and iou >= 0:
                    objects[i], best = j, iou
            j += 1
        outcomes[i] = FALSE_POSITIVE
        if objects[i] >= 0:
            outcomes[i] = TRUE_POSITIVE
            taken[objects[i]] = True
