"""COCO average precision, as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.data.coco import check_instances, is_box, read_instances
from detect.data.sources import InputError, read_json
from detect.scoring.predictions import (
    DROPPED,
    match_classes,
    match_images,
    matching_notes,
    read_run_names,
)
from detect.scoring.scores import ClassScore, Scores

STATS = (
    "AP",
    "AP50",
    "AP75",
    "AP small",
    "AP medium",
    "AP large",
    "AR 1",
    "AR 10",
    "AR 100",
    "AR small",
    "AR medium",
    "AR large",
)


def score_coco(predictions: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any]) -> Scores:
    """Score detections as COCO does.

    The counts of a class are those at IoU 0.5, among the 100 best detections an image and class.

    Args:
        predictions: COCO results: ``image_id``, ``category_id``, ``bbox`` (xywh) and ``score``.
        ground_truth: What an ``instances`` file holds.

    Raises:
        InputError: If either is malformed; names the entry.
    """
    check_instances(ground_truth, "ground truth")
    check_results(predictions, ground_truth, "predictions")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        evaluation = COCOeval(
            _truth_index(ground_truth), _results_index(predictions, ground_truth), "bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    classes = tuple(
        _class_score(evaluation, k, str(category["name"]))
        for k, category in enumerate(_sorted_categories(ground_truth))
    )
    stats = {name: _defined(value) for name, value in zip(STATS, evaluation.stats, strict=True)}
    return Scores(format="coco", protocol="coco-bbox", classes=classes, stats=stats)


def score_coco_files(predictions: Path, annotations: Path) -> Scores:
    """Score a results file against an ``instances`` file, each plain, .gz or .xz.

    Raises:
        InputError: If a file is missing or malformed.
    """
    truth = read_instances(annotations)
    results = read_json(predictions)
    names, notes = read_run_names(predictions), []
    if names is not None:
        images = {image["file_name"]: image["id"] for image in truth["images"]}
        categories = {category["name"]: category["id"] for category in truth["categories"]}
        classes = match_classes(
            names.classes, categories, str(predictions.parent / "categories.json")
        )
        notes = matching_notes(predictions, names, classes)
        results = _translated(results, match_images(names.images, images), classes)
    check_results(results, truth, str(predictions))
    scores = score_coco(results, truth)
    return Scores(scores.format, scores.protocol, scores.classes, scores.stats, tuple(notes))


def check_results(results: Any, truth: Mapping[str, Any], where: str) -> None:
    """Check COCO results for what pycocotools scores wrongly without a word.

    Args:
        results: What a results file holds.
        truth: The ground truth, checked.
        where: What an error message calls the results.

    Raises:
        InputError: Names the entry that is malformed.
    """
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise InputError(f"{where}: is no list of COCO results [{{'image_id': ...}}, ...]")
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for i, entry in enumerate(results):
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}, entry {i}: {entry!r} is no COCO result")
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        bbox, score = entry.get("bbox"), entry.get("score")
        if type(image_id) is not int or image_id not in images:
            raise InputError(
                f"{where}, entry {i}: image_id {image_id!r} is not in the ground truth; "
                "remove the entry or score with the ground truth it belongs to"
            )
        if type(category_id) is not int or category_id not in categories:
            raise InputError(
                f"{where}, entry {i}: category_id {category_id!r} is not one of the ground "
                f"truth's: {sorted(categories)}"
            )
        if not is_box(bbox):
            raise InputError(
                f"{where}, entry {i}: bbox {bbox!r} is not [x, y, width, height], finite numbers"
            )
        if not isinstance(score, int | float) or not np.isfinite(score):
            raise InputError(f"{where}, entry {i}: score {score!r} is not a finite number")


def _translated(results: Any, images: Mapping[int, int], classes: Mapping[int, int]) -> Any:
    """Replace ids by the ground truth's; what has no partner is left for the check to name."""
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        return results
    translated = []
    for entry in results:
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if classes.get(category_id) != DROPPED:
            translated.append(
                {
                    **entry,
                    "image_id": images.get(image_id, f"{image_id} of images.txt"),
                    "category_id": classes.get(category_id, f"{category_id} of categories.json"),
                }
            )
    return translated


def _truth_index(truth: Mapping[str, Any]) -> COCO:
    """Index the ground truth under fresh annotation ids: pycocotools takes id 0 for unmatched."""
    annotations = [
        {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a, "id": i}
        for i, a in enumerate(truth["annotations"], start=1)
    ]
    return _index(truth, annotations)


def _results_index(results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]) -> COCO:
    """Index results as ``COCO.loadRes`` does, which fails on an empty list."""
    annotations = [
        {
            "id": i,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": list(entry["bbox"]),
            "area": entry["bbox"][2] * entry["bbox"][3],
            "score": entry["score"],
            "iscrowd": 0,
        }
        for i, entry in enumerate(results, start=1)
    ]
    return _index(truth, annotations)


def _index(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {
        "images": list(truth["images"]),
        "categories": _sorted_categories(truth),
        "annotations": annotations,
    }
    index.createIndex()
    return index


def _sorted_categories(truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(truth["categories"], key=lambda category: int(category["id"]))


def _class_score(evaluation: COCOeval, k: int, name: str) -> ClassScore:
    """Sum up class k over all sizes, from the curves and the matches at IoU 0.5."""
    params = evaluation.params
    num_images = len(params.imgIds)
    first = k * len(params.areaRng) * num_images  # ordered by class, size, image; size 0 is "all"
    images = [image for image in evaluation.evalImgs[first : first + num_images] if image]
    positives = sum(int(np.count_nonzero(np.equal(image["gtIgnore"], 0))) for image in images)
    matched = _flat([image["dtMatches"][0] for image in images]) > 0
    ignored = _flat([image["dtIgnore"][0] for image in images]) > 0
    true = int(np.count_nonzero(matched & ~ignored))
    precision = evaluation.eval["precision"][:, :, k, 0, -1]  # [IoU, recall]
    return ClassScore(
        id=int(params.catIds[k]),
        name=name,
        ap=_mean(precision),
        positives=positives,
        detections=len(matched),
        true_positives=true,
        false_positives=int(np.count_nonzero(~matched & ~ignored)),
        ignored=int(np.count_nonzero(ignored)),
        recall=true / positives if positives else None,
        ap50=_mean(precision[0]),
    )


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *arrays])


def _mean(precision: np.ndarray) -> float | None:
    """Return the mean of precisions; pycocotools marks the undefined with -1."""
    return float(precision.mean()) if precision.size and precision.min() > -1 else None


def _defined(value: float) -> float | None:
    return None if value < 0 else float(value)
