"""COCO average precision: our own engine, and pycocotools as its reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detect.data.coco_instances import Instances, check_instances, read_instances
from detect.data.problems import InputError, check_choices
from detect.data.sources import read_json
from detect.scoring.coco_files import (
    COCO_DROP,
    COCO_REPAIR,
    CocoResults,
    check_results,
    ids_of_file,
    ids_of_truth,
    read_results,
)
from detect.scoring.coco_matching import MAX_DETECTIONS, ground_truth, match_coco
from detect.scoring.coco_official import score_checked, score_unchecked
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import ScoredBoxes, check_columns

__all__ = ["COCO_DROP", "COCO_REPAIR", "ENGINES", "score_coco", "score_coco_files"]

Engine = Literal["numba", "pycocotools"]
ENGINES: tuple[Engine, ...] = ("numba", "pycocotools")


def score_coco(
    predictions: ScoredBoxes | Sequence[Mapping[str, Any]],
    ground_truth: Mapping[str, Any],
    *,
    engine: Engine = "numba",
    drop: Collection[str] = (),
    repair: Collection[str] = (),
) -> Scores:
    """Score detections as COCO does.

    The counts of a class are those at IoU 0.5, among the 100 best detections an image and class.

    Args:
        predictions: COCO results: ``image_id``, ``category_id``, ``bbox`` (xywh) and ``score``. Or
            columns: images as positions in the ground truth's list, labels in the order of the
            category ids.
        ground_truth: What an ``instances`` file holds.
        engine: What computes the numbers; they are the same up to rounding.
        drop: Kinds of bad predictions to leave out, of ``COCO_DROP``.
        repair: What to put right, of ``COCO_REPAIR``.

    Raises:
        InputError: If either is malformed; names the entries.
        ValueError: If columns hold what is no image, class or box.
    """
    _check_engine(engine)
    check_choices("drop", drop, COCO_DROP)
    check_choices("repair", repair, COCO_REPAIR)
    instances = check_instances(ground_truth, "ground truth", repair=repair)
    if isinstance(predictions, ScoredBoxes):
        results = _from_columns(predictions, instances)
    else:
        ids = ids_of_truth(instances)
        results = check_results(
            predictions, instances, ids, "predictions", drop=drop, repair=repair
        )
    return _score(results, instances, engine)


def score_coco_files(
    predictions: Path,
    annotations: Path,
    *,
    engine: Engine = "numba",
    official: bool = False,
    drop: Collection[str] = (),
    repair: Collection[str] = (),
) -> Scores:
    """Score a results file against an ``instances`` file, each plain, .gz or .xz.

    Results of a run of tools/detect.py are matched by the names in images.txt and categories.json
    beside them.

    Args:
        predictions: List of COCO results.
        annotations: The ground truth.
        engine: What computes the numbers; they are the same up to rounding.
        official: Hand the files to pycocotools unchecked, whatever it makes of them.
        drop: Kinds of bad predictions to leave out, of ``COCO_DROP``.
        repair: What to put right, of ``COCO_REPAIR``.

    Raises:
        InputError: If a file is missing or malformed, or pycocotools stops.
    """
    _check_engine(engine)
    check_choices("drop", drop, COCO_DROP)
    check_choices("repair", repair, COCO_REPAIR)
    if official:
        if drop or repair:
            raise InputError("official=true takes files as they are; leave out drop and repair")
        return _official(predictions, annotations)
    instances = read_instances(annotations, repair=repair)
    ids = ids_of_file(predictions, instances)
    results = check_results(
        read_results(predictions), instances, ids, str(predictions), drop=drop, repair=repair
    )
    return _score(results, instances, engine)


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise InputError(f"engine={engine}: choose from {', '.join(ENGINES)}")


def _from_columns(predictions: ScoredBoxes, instances: Instances) -> CocoResults:
    """Check columns and put their images into the order of the ids."""
    check_columns(predictions, ground_truth(instances), len(instances.class_names))
    corners = predictions.corners
    boxes = np.concatenate([corners[:, :2] - 1, corners[:, 2:] - (corners[:, :2] - 1)], axis=1)
    if (boxes[:, 2:] < 0).any():
        row = int(np.argmax((boxes[:, 2:] < 0).any(axis=1)))
        raise ValueError(f"corners {corners[row].tolist()} of detection {row} are inverted")
    indices = np.empty(len(instances.names), dtype=np.int32)
    indices[instances.positions] = np.arange(len(indices))
    notes = () if len(predictions) else ("predictions: nothing was detected",)
    return CocoResults(replace(predictions, images=indices[predictions.images]), boxes, notes)


def _score(results: CocoResults, instances: Instances, engine: Engine) -> Scores:
    matches, stats = match_coco(results.found, results.boxes, instances)
    classes = class_scores(matches, ids=instances.category_ids.tolist())
    if engine == "pycocotools":
        classes, stats = score_checked(results, instances, classes)
    notes = (*instances.notes, *results.notes)
    return Scores(
        format="coco",
        protocol="coco-bbox",
        classes=classes,
        matches=matches,
        stats=stats,
        rules=_rules(len(instances.names), engine),
        notes=notes,
    )


def _rules(num_images: int, engine: str) -> str:
    by = f"; computed by pycocotools {version('pycocotools')}" if engine == "pycocotools" else ""
    return (
        f"AP at 101 recalls, mean over IoU 0.50:0.05:0.95; the {MAX_DETECTIONS} best detections of "
        f"an image and class; crowds count neither way; {num_images} images{by}"
    )


def _official(predictions: Path, annotations: Path) -> Scores:
    """Let pycocotools score two files as they are."""
    matches, classes, stats = score_unchecked(read_json(annotations), read_json(predictions))
    return Scores(
        format="coco",
        protocol="coco-bbox",
        classes=classes,
        matches=matches,
        stats=stats,
        rules=_rules(matches.truth.num_images, "pycocotools"),
        notes=("The files were handed to pycocotools unchecked.",),
    )
