"""The result of scoring: one line a class, their mean, a table and a JSON file."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.files import write_atomically
from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE

AveragePrecision = Callable[[NDArray[np.int8], int], float]


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
    ap50: float | None = None


@dataclass(frozen=True)
class Scores:
    """How well a data set was found.

    Attributes:
        format: ``ilsvrc``, ``coco`` or ``voc``.
        protocol: What exactly was computed, such as ``voc2010-area``.
        classes: One entry a class, in the order of the ids, ``[C]``.
        stats: COCO alone: its twelve numbers by name; ``None`` where undefined.
        notes: What the reader of the numbers has to know, one sentence each.
    """

    format: str
    protocol: str
    classes: tuple[ClassScore, ...]
    stats: dict[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def mean_ap(self) -> float | None:
        """Mean over the classes with objects, 0..1; ``None`` where no class has any."""
        aps = self._defined()
        return math.fsum(aps) / len(aps) if aps else None

    @property
    def median_ap(self) -> float | None:
        """Median over the classes with objects, 0..1; ``None`` where no class has any."""
        aps = self._defined()
        return statistics.median(aps) if aps else None

    def _defined(self) -> list[float]:
        return [score.ap for score in self.classes if score.ap is not None]


def class_scores(
    labels: NDArray[np.int64],
    outcomes: NDArray[np.int8],
    positives: NDArray[np.int64],
    class_names: Sequence[str],
    average_precision: AveragePrecision,
) -> tuple[ClassScore, ...]:
    """Sum up every class's detections.

    Args:
        labels: Class of each detection from 0, sorted, ``[N]``.
        outcomes: What each turned out to be, best score of its class first, ``[N]``.
        positives: Objects of each class that are to be found, ``[C]``.
        class_names: Names of the classes, ``[C]``.
        average_precision: Function of one class's outcomes and positives.
    """
    ends = np.searchsorted(labels, np.arange(len(class_names) + 1))  # [C + 1]
    scores = []
    for label, (name, count) in enumerate(zip(class_names, positives.tolist(), strict=True)):
        of_class = outcomes[ends[label] : ends[label + 1]]
        true = int(np.count_nonzero(of_class == TRUE_POSITIVE))
        scores.append(
            ClassScore(
                id=label + 1,
                name=name,
                ap=average_precision(of_class, count) if count else None,
                positives=count,
                detections=len(of_class),
                true_positives=true,
                false_positives=int(np.count_nonzero(of_class == FALSE_POSITIVE)),
                ignored=int(np.count_nonzero(of_class == IGNORED)),
                recall=true / count if count else None,
            )
        )
    return tuple(scores)


def to_json(scores: Scores) -> dict[str, Any]:
    """Return what scores.json holds; undefined numbers are ``None``."""
    classes = [asdict(score) for score in scores.classes]
    content = {
        "format": scores.format,
        "protocol": scores.protocol,
        "mean_ap": scores.mean_ap,
        "median_ap": scores.median_ap,
        "classes": classes,
    }
    if scores.stats:
        return {**content, "stats": scores.stats}
    for entry in classes:
        del entry["ap50"]
    return content


def write_scores(path: Path, scores: Scores) -> None:
    """Write the scores as JSON, atomically and without NaN."""
    text = json.dumps(to_json(scores), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def format_table(scores: Scores) -> str:
    """Return a table for people: one line a class, then the means, stats and notes."""
    heads = ["AP", "positives", "detections", "true", "false", "ignored", "recall"]
    if scores.stats:
        heads.insert(1, "AP50")
    width = max([len("median AP"), *(len(score.name) for score in scores.classes)])
    lines = [f"{'class':{width}}" + "".join(f"  {head:>{max(6, len(head))}}" for head in heads)]
    for score in scores.classes:
        counts = (score.positives, score.detections, score.true_positives, score.false_positives)
        cells = [_decimal(score.ap), *map(str, (*counts, score.ignored)), _decimal(score.recall)]
        if scores.stats:
            cells.insert(1, _decimal(score.ap50))
        columns = zip(cells, heads, strict=True)
        lines.append(
            f"{score.name:{width}}"
            + "".join(f"  {cell:>{max(6, len(head))}}" for cell, head in columns)
        )
    lines.append("")
    lines += [f"{name:{width}}  {_decimal(value):>6}" for name, value in scores.stats.items()]
    lines.append(f"{'mean AP':{width}}  {_decimal(scores.mean_ap):>6}")
    lines.append(f"{'median AP':{width}}  {_decimal(scores.median_ap):>6}")
    undefined = [score.name for score in scores.classes if score.ap is None]
    if undefined:
        lines.append(f"No object to be found, left out of the mean: {', '.join(undefined)}")
    return "\n".join([*lines, *scores.notes])


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
