"""The result of scoring: one line a class, their mean, a table and a JSON file."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.files import write_atomically
from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    average_precision,
)
from detect.scoring.matches import Matches

# Names of COCOeval's twelve numbers, in its order.
COCO_STATS = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large"),
)


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found.

    Attributes:
        id: The class's number in the results files, from 1 except where COCO says otherwise.
        name: Its name.
        ap: Average precision 0..1; ``None`` where no object is to be found.
        positives: Objects to be found.
        detections: Detections that were judged.
        true_positives: Of them, those that found an object.
        false_positives: Of them, those that did not.
        ignored: Of them, those that count neither way.
        recall: True positives per positive, 0..1; ``None`` where no object is to be found.
        best_f1: Largest harmonic mean of precision and recall over all thresholds of the score;
            ``None`` where no object is to be found.
        best_threshold: The score of the last detection that ``best_f1`` takes; ``None`` without
            true positives.
        ap50: COCO alone: average precision at IoU 0.5, where ``ap`` is that at 0.5:0.95.
    """

    id: int
    name: str
    ap: float | None
    positives: int
    detections: int
    true_positives: int
    false_positives: int
    ignored: int
    recall: float | None
    best_f1: float | None = None
    best_threshold: float | None = None
    ap50: float | None = None


@dataclass(frozen=True)
class Scores:
    """How well a data set was found.

    Attributes:
        format: ``ilsvrc``, ``coco`` or ``voc``.
        protocol: What exactly was computed, such as ``voc2010-area``.
        classes: One entry a class, in the order of the ids, ``[C]``.
        matches: What became of every detection; all counts of ``classes`` are at its first IoU
            threshold.
        stats: COCO alone: the twelve numbers of ``COCOeval.stats``; ``None`` where undefined.
        rules: What the numbers rest on: rule, cap, blacklist, images, classes averaged over.
        notes: What else the reader of the numbers has to know, one sentence each.
        official: The official code's own answer also where it is undefined or of no use.
        num_averaged: Classes that ``official`` means go over, from the first; ``None``: all.
        mean_ap: Mean over the classes with objects, 0..1; ``None`` where no class has any.
        median_ap: Their median, 0..1.
    """

    format: str
    protocol: str
    classes: tuple[ClassScore, ...]
    matches: Matches = field(compare=False, repr=False)
    stats: tuple[float | None, ...] = ()
    rules: str = ""
    notes: tuple[str, ...] = ()
    official: bool = False
    num_averaged: int | None = None

    @property
    def mean_ap(self) -> float | None:
        """Mean over the classes with objects, 0..1; ``None`` where no class has any."""
        aps = self._averaged()
        return math.fsum(aps) / len(aps) if aps else None

    @property
    def median_ap(self) -> float | None:
        """Median over the classes with objects, 0..1; ``None`` where no class has any."""
        aps = self._averaged()
        return statistics.median(aps) if aps else None

    def _averaged(self) -> list[float]:
        classes = self.classes[: self.num_averaged]
        aps = [score.ap for score in classes if score.ap is not None]
        undefined = self.official and self.format != "coco" and len(aps) < len(classes)
        return [] if undefined else aps


def class_scores(
    matches: Matches, ids: Sequence[int] | None = None, *, official: bool = False
) -> tuple[ClassScore, ...]:
    """Sum up every class's detections.

    Args:
        matches: What became of every detection.
        ids: Number of each class in results files, ``[C]``; by default 1, 2, 3, ...
        official: Give classes without objects the AP that the devkits' code gives them: 0 with 11
            points of the curve or without detections, else undefined (0 / 0).
    """
    numbers = range(1, matches.num_classes + 1) if ids is None else ids
    scores = [_class_score(matches, label, number) for label, number in enumerate(numbers)]
    if official:
        scores = [
            replace(score, ap=0.0)
            if not score.positives and (matches.rule == "11 points" or not score.detections)
            else score
            for score in scores
        ]
    return tuple(scores)


def _class_score(matches: Matches, label: int, number: int) -> ClassScore:
    start, end = matches.class_starts[label : label + 2]
    outcomes = matches.outcomes[:, start:end]  # [T, n]
    positives = int(matches.positives[label])
    counts = np.bincount(outcomes[0], minlength=3)
    true = int(counts[TRUE_POSITIVE])
    ap = ap50 = best_f1 = threshold = None
    if positives:
        aps = [
            average_precision(of_threshold, positives, matches.rule) for of_threshold in outcomes
        ]
        ap = math.fsum(aps) / len(aps)
        ap50 = aps[0] if len(aps) > 1 else None
        best_f1, threshold = _best_f1(outcomes[0], matches.found.scores[start:end], positives)
    return ClassScore(
        id=int(number),
        name=matches.class_names[label],
        ap=ap,
        positives=positives,
        detections=int(end - start),
        true_positives=true,
        false_positives=int(counts[FALSE_POSITIVE]),
        ignored=int(counts[IGNORED]),
        recall=true / positives if positives else None,
        best_f1=best_f1,
        best_threshold=threshold,
        ap50=ap50,
    )


def _best_f1(
    outcomes: NDArray[np.int8], scores: NDArray[np.float64], positives: int
) -> tuple[float, float | None]:
    """Return the best F1 and its threshold, which cannot part detections of equal score."""
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal scores
    true = np.cumsum(outcomes == TRUE_POSITIVE)[last]
    counted = np.cumsum(outcomes != IGNORED)[last]
    f1 = 2 * true / (counted + positives)  # 2 P R / (P + R), without rounding twice
    best = int(np.argmax(f1)) if len(f1) else 0
    if not len(f1) or not f1[best]:
        return 0.0, None
    threshold = float(scores[last[best]])
    return float(f1[best]), threshold if math.isfinite(threshold) else None


def to_json(scores: Scores) -> dict[str, Any]:
    """Return what scores.json holds; undefined numbers are ``None``."""
    classes = [asdict(score) for score in scores.classes]
    content: dict[str, Any] = {
        "format": scores.format,
        "protocol": scores.protocol,
        "rules": describe_rules(scores),
        "official": scores.official,
        "mean_ap": scores.mean_ap,
        "median_ap": scores.median_ap,
        "classes": classes,
        "notes": list(scores.notes),
    }
    if scores.stats:
        content["stats"] = list(scores.stats)
    else:
        for entry in classes:
            del entry["ap50"]
    return content


def describe_rules(scores: Scores) -> str:
    """Return what the numbers rest on, one line."""
    judged = scores.classes[: scores.num_averaged]
    averaged = [score for score in judged if score.ap is not None]
    count = len(judged) if scores.official and scores.format != "coco" else len(averaged)
    return f"{scores.rules}; mean over {count} of {len(scores.classes)} classes"


def write_scores(path: Path, scores: Scores) -> None:
    """Write the scores as JSON, atomically and without NaN."""
    text = json.dumps(to_json(scores), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def format_table(scores: Scores) -> str:
    """Return a table for people: one line a class, then the means, stats, rules and notes."""
    heads = ["AP", "positives", "detections", "true", "false", "ignored", "recall"]
    heads += ["best F1", "from score"]
    if scores.stats:
        heads.insert(1, "AP50")
    width = max([len("median AP"), *(len(score.name) for score in scores.classes)])
    lines = [f"{'class':{width}}" + "".join(f"  {head:>{max(6, len(head))}}" for head in heads)]
    for score in scores.classes:
        counts = (score.positives, score.detections, score.true_positives, score.false_positives)
        cells = [_decimal(score.ap), *map(str, (*counts, score.ignored)), _decimal(score.recall)]
        threshold = "-" if score.best_threshold is None else f"{score.best_threshold:.4g}"
        cells += [_decimal(score.best_f1), threshold]
        if scores.stats:
            cells.insert(1, _decimal(score.ap50))
        columns = zip(cells, heads, strict=True)
        lines.append(
            f"{score.name:{width}}"
            + "".join(f"  {cell:>{max(6, len(head))}}" for cell, head in columns)
        )
    lines.append("")
    if scores.stats:
        lines.append("positives to best F1: at IoU 0.5")
        named = zip(COCO_STATS, scores.stats, strict=True)
        lines += [f"{name:{width}}  {_decimal(value):>6}" for name, value in named]
    lines.append(f"{'mean AP':{width}}  {_decimal(scores.mean_ap):>6}")
    lines.append(f"{'median AP':{width}}  {_decimal(scores.median_ap):>6}")
    lines.append(f"{scores.protocol}: {describe_rules(scores)}")
    undefined = [score.name for score in scores.classes if not score.positives]
    if undefined:
        fate = "the official code's own answer" if scores.official else "left out of the mean"
        lines.append(f"No object to be found, {fate}: {', '.join(undefined)}")
    return "\n".join([*lines, *scores.notes])


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
