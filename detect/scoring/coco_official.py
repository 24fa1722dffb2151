"""pycocotools as the reference of our own engine, and for files that nobody checked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detect.data.coco_entries import is_whole
from detect.data.coco_instances import Instances
from detect.data.problems import InputError
from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from detect.scoring.coco_files import CocoResults
from detect.scoring.coco_matching import IOU_THRESHOLDS, to_corners
from detect.scoring.matches import Matches
from detect.scoring.scores import ClassScore, class_scores
from detect.scoring.tables import GroundTruth, ScoredBoxes

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

Numbers = tuple[float | None, ...]  # the twelve of COCOeval.stats, None where undefined


def score_checked(
    results: CocoResults, instances: Instances, classes: Sequence[ClassScore]
) -> tuple[tuple[ClassScore, ...], Numbers]:
    """Let pycocotools score what was checked.

    Args:
        results: The detections.
        instances: The ground truth.
        classes: What our own engine found.

    Returns:
        The classes with the average precision of pycocotools, and its twelve numbers.
    """
    with _silence():
        evaluation = _evaluate(*_as_dicts(results, instances), allow_none=True)
    return _with_ap_of(evaluation, classes), _defined(evaluation.stats)


def score_unchecked(truth: Any, results: Any) -> tuple[Matches, tuple[ClassScore, ...], Numbers]:
    """Let pycocotools score the content of two files as it is.

    Raises:
        InputError: If it stops.
    """
    try:
        with _silence():
            evaluation = _evaluate(truth, results)
        matches = _matches_of(evaluation)
        classes = class_scores(matches, ids=_whole_ids(evaluation.params.catIds))
        return matches, _with_ap_of(evaluation, classes), _defined(evaluation.stats)
    except Exception as error:  # whatever it stumbles over
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"pycocotools stops: {reason}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what pycocotools prints off the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _evaluate(truth: Any, results: Any, *, allow_none: bool = False) -> COCOeval:
    """Run pycocotools, which is loaded only here, as it would run on files of this content.

    Args:
        truth: Content of an ``instances`` file.
        results: Content of a results file.
        allow_none: Take an empty list as no detections, where pycocotools stops.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index = COCO()
    index.dataset = truth
    index.createIndex()
    found = COCO()
    found.dataset["annotations"] = []
    if results or not allow_none:
        found = index.loadRes(results)
    evaluation = COCOeval(index, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _as_dicts(
    results: CocoResults, instances: Instances
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results as pycocotools wants them; annotation ids start at 1."""
    image_ids, category_ids = instances.image_ids, instances.category_ids
    objects = zip(
        image_ids[instances.images].tolist(),
        category_ids[instances.labels].tolist(),
        instances.boxes.tolist(),
        instances.areas.tolist(),
        instances.crowd.tolist(),
        strict=True,
    )
    found = zip(
        image_ids[results.found.images].tolist(),
        category_ids[results.found.labels].tolist(),
        results.boxes.tolist(),
        results.found.scores.tolist(),
        strict=True,
    )
    object_keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    keys = ("image_id", "category_id", "bbox", "score")
    truth = {
        "images": [{"id": number} for number in image_ids.tolist()],
        "categories": [{"id": number} for number in category_ids.tolist()],
        "annotations": [
            {"id": i, **dict(zip(object_keys, values, strict=True))}
            for i, values in enumerate(objects, start=1)
        ],
    }
    return truth, [dict(zip(keys, values, strict=True)) for values in found]


def _with_ap_of(evaluation: COCOeval, classes: Sequence[ClassScore]) -> tuple[ClassScore, ...]:
    """Return the classes with the average precision that pycocotools found."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all sizes
    return tuple(
        replace(score, ap=_mean(precision[:, :, k]), ap50=_mean(precision[0, :, k]))
        for k, score in enumerate(classes)
    )


def _mean(precision: np.ndarray) -> float | None:
    """Return the mean of precisions; pycocotools marks the undefined with -1."""
    return float(precision.mean()) if precision.size and precision.min() > -1 else None


def _defined(stats: Sequence[float]) -> Numbers:
    return tuple(None if value == -1 else float(value) for value in stats)


def _whole_ids(ids: list[Any]) -> list[int]:
    """Return ids, or positions from 1 where pycocotools was given some that are no numbers."""
    return [int(n) for n in ids] if all(map(is_whole, ids)) else list(range(1, len(ids) + 1))


def _matches_of(evaluation: COCOeval) -> Matches:
    """Return what pycocotools matched over all areas, after ``evaluate``.

    An object of id 0 that was found counts as not found, as it does there.
    """
    params, index = evaluation.params, evaluation.cocoGt
    truth, to_find, rows = _objects(evaluation)
    parts = [_class_matches(evaluation, label, rows) for label in range(len(params.catIds))]
    columns = [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
    shape = (len(IOU_THRESHOLDS), 0)
    images, ids, outcomes, objects = columns or (
        *np.zeros((2, 0)),
        np.zeros(shape),
        np.zeros(shape),
    )
    anns = [evaluation.cocoDt.anns[number] for number in ids.tolist()]
    labels = [np.full(len(part[0]), label) for label, part in enumerate(parts)]
    found = ScoredBoxes(
        images=images.astype(np.int32),
        labels=np.concatenate([*labels, np.zeros(0)]).astype(np.int32),
        scores=np.array([ann["score"] for ann in anns], dtype=np.float64),
        corners=to_corners(np.array([a["bbox"] for a in anns], dtype=np.float64).reshape(-1, 4)),
    )
    return Matches(
        rule="101 points",
        class_names=tuple(str(index.cats[number].get("name", number)) for number in params.catIds),
        found=found,
        truth=truth,
        outcomes=outcomes.astype(np.int8),
        objects=objects.astype(np.int32),
        to_find=to_find,
        iou_thresholds=np.repeat(IOU_THRESHOLDS[:, None], len(to_find), axis=1),
    )


def _objects(evaluation: COCOeval) -> tuple[GroundTruth, NDArray[np.bool_], dict[Any, int]]:
    """Return the objects that were looked at, which of them count, and their rows by id."""
    params, index = evaluation.params, evaluation.cocoGt
    label_of = {category_id: label for label, category_id in enumerate(params.catIds)}
    entries = [
        (image, label_of[ann["category_id"]], index.anns[ann["id"]])  # of equal ids, the last
        for image, image_id in enumerate(params.imgIds)
        for ann in index.imgToAnns[image_id]
        if ann["category_id"] in label_of
    ]
    low, high = params.areaRng[0]
    photos = [index.imgs[number] for number in params.imgIds]
    crowd = np.array([bool(ann["ignore"]) for *_, ann in entries], dtype=np.bool_)
    truth = GroundTruth(
        names=tuple(str(photo.get("file_name", photo["id"])) for photo in photos),
        image_ids=np.array(_whole_ids(params.imgIds), dtype=np.int64),
        sizes=np.array(
            [[int(photo.get(side) or 0) for side in ("width", "height")] for photo in photos],
            dtype=np.int64,
        ).reshape(-1, 2),
        images=np.array([image for image, *_ in entries], dtype=np.int32),
        labels=np.array([label for _, label, _ in entries], dtype=np.int32),
        corners=to_corners(
            np.array([ann["bbox"] for *_, ann in entries], dtype=np.float64).reshape(-1, 4)
        ),
        ignored=crowd,
    )
    outside = [ann["area"] < low or ann["area"] > high for *_, ann in entries]
    to_find = ~(crowd | np.array(outside, dtype=np.bool_))
    return truth, to_find, {ann["id"]: row for row, (*_, ann) in enumerate(entries)}


def _class_matches(
    evaluation: COCOeval, label: int, rows: dict[Any, int]
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return images ``[n]``, detection ids ``[n]``, outcomes and objects ``[T, n]`` of a class."""
    params = evaluation.params
    num_images, shape = len(params.imgIds), (len(IOU_THRESHOLDS), 0)
    first = label * len(params.areaRng) * num_images  # ordered by class, size, image; size 0: all
    parts = list(enumerate(evaluation.evalImgs[first : first + num_images]))
    judged = [(image, part) for image, part in parts if part is not None]
    scores = np.concatenate([np.zeros(0), *(part["dtScores"] for _, part in judged)])
    order = np.argsort(-scores, kind="mergesort")
    images = np.repeat(
        [image for image, _ in judged], [len(part["dtIds"]) for _, part in judged]
    ).astype(np.int64)
    ids = np.concatenate([np.zeros(0), *(part["dtIds"] for _, part in judged)]).astype(np.int64)
    matched, ignored = (
        np.concatenate([np.zeros(shape), *(part[key] for _, part in judged)], axis=1)[:, order]
        for key in ("dtMatches", "dtIgnore")
    )
    outcomes = np.where(matched != 0, TRUE_POSITIVE, FALSE_POSITIVE)
    outcomes[ignored != 0] = IGNORED
    objects = [rows[number] if number else -1 for number in matched.ravel().tolist()]
    return images[order], ids[order], outcomes, np.array(objects).reshape(matched.shape)
