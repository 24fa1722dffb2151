"""One self-contained HTML page of a training: what it reached, its curves, classes and examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detect.data.records import Record
from detect.detections import Detections
from detect.files import write_atomically
from detect.pages import decimal, jpeg_address, load_template, percent, place_box, valid_text
from detect.scoring import Scores, score_voc
from detect.scoring.average_precision import FALSE_POSITIVE, TRUE_POSITIVE
from detect.scoring.scores import ClassScore, describe_rules
from detect.training_curves import best_validation, describe_panels
from detect.visualize import encode_jpeg

EXAMPLES_SHOWN = 12
PHOTO_SIDE = 640  # pixels of the longest side
DEFAULT_THRESHOLD = 0.5  # of scores, for classes without a best one


@dataclass(frozen=True)
class TrainingExample:
    """A photo of the validation set.

    Attributes:
        name: What the page calls it.
        image: The photo, RGB uint8 ``[3, H, W]``.
        record: Its objects, in the photo's pixels.
        detections: What the best checkpoint finds on it, of any score.
    """

    name: str
    image: Tensor
    record: Record
    detections: Detections


def write_training_report(
    path: Path,
    *,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Scores | None,
    examples: Sequence[TrainingExample],
    facts: Mapping[str, str],
    notes: Sequence[str],
    recipe: Mapping[str, Any],
) -> None:
    """Write the page, atomically. It fetches nothing, and equal input gives equal bytes.

    Args:
        path: The page to write.
        title: Its heading.
        rows: Of the log of the training, as ``TrainingLog`` holds them.
        scores: Of the best checkpoint on the validation photos; ``None`` without a validation.
        examples: Photos with what was found on them; the first ``EXAMPLES_SHOWN`` are shown.
        facts: What else is said at the head of the page, such as photos, time and machine.
        notes: What the reader has to know, such as photos left out of the data, a line each.
        recipe: Settings of the training, nested.
    """
    best = best_validation(rows)
    thresholds = [] if scores is None else [score.best_threshold for score in scores.classes]
    html = load_template("training_report.html.j2").render(
        title=title,
        headline=list(_headline(rows, best, scores)),
        facts=facts,
        panels=describe_panels(rows),
        has_best=best is not None,
        scores=scores,
        mean_ap=decimal(None if scores is None else scores.mean_ap),
        rules="" if scores is None else describe_rules(scores),
        classes=[] if scores is None else _describe_classes(scores.classes),
        absent=[] if scores is None else [c.name for c in scores.classes if not c.positives],
        examples=[_describe_example(e, thresholds) for e in examples[:EXAMPLES_SHOWN]],
        num_examples=len(examples),
        notes=notes,
        recipe="\n".join(_outline(recipe)),
    )
    write_atomically(path, valid_text(html))


def choose_examples(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Choose photos that show as many classes as possible, at random among equally good ones.

    Each photo is the one with most classes that those before it do not show. Once no photo adds
    any, the classes begin anew; photos without objects come last.

    Args:
        records: The photos.
        count: Photos to choose, at most; where there are as many classes, every one is shown.
        seed: Equal seeds choose equal photos.
    """
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    classes = {i: set(records[i].labels.tolist()) for i in order}
    chosen: list[Record] = []
    shown: set[int] = set()
    while classes and len(chosen) < count:
        gains = {i: len(of_photo - shown) for i, of_photo in classes.items()}
        best = max(gains, key=lambda i: gains[i])
        if not gains[best] and shown:
            shown = set()
            continue
        chosen.append(records[best])
        shown |= classes.pop(best)
    return chosen


def _headline(
    rows: Sequence[Mapping[str, Any]], best: tuple[int, float] | None, scores: Scores | None
) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and remark of the numbers at the head of the page."""
    if best is not None:
        yield "best mAP", decimal(best[1]), f"after step {best[0]:,}"
    elif scores is not None:
        yield "mAP", decimal(scores.mean_ap), ""
    else:
        yield "mAP", "-", "without validation"
    yield "steps", f"{max([0, *(row['step'] for row in rows)]):,}", ""
    yield "validations", f"{sum(row['kind'] == 'validation' for row in rows):,}", ""
    if scores is not None:
        yield "validation photos", f"{scores.matches.truth.num_images:,}", ""
        yield "objects to find", f"{sum(score.positives for score in scores.classes):,}", ""


def _describe_classes(classes: Sequence[ClassScore]) -> list[dict[str, Any]]:
    """Describe the classes that have objects, the best ones first."""
    judged = [score for score in classes if score.positives]
    return [
        {
            "score": score,
            "ap": decimal(score.ap),
            "length": percent(score.ap),
            "recall": decimal(score.recall),
            "threshold": decimal(score.best_threshold),
        }
        for score in sorted(judged, key=lambda score: -(score.ap or 0.0))
    ]


def _describe_example(
    example: TrainingExample, thresholds: Sequence[float | None]
) -> dict[str, Any]:
    """Describe a photo and its boxes as VOC judges them: found, missed and false ones."""
    found = example.detections.to("cpu")
    chosen = [thresholds[i] if i < len(thresholds) else None for i in found.labels.tolist()]
    least = [DEFAULT_THRESHOLD if threshold is None else threshold for threshold in chosen]
    shown = found[found.scores >= torch.tensor(least)]
    labels = [*shown.labels.tolist(), *example.record.labels.tolist()]
    names = found.class_names or tuple(str(label) for label in range(max([0, *labels]) + 1))
    matches = score_voc([shown], [example.record], names).matches
    outcomes, truth = matches.outcomes[0], matches.truth
    missed = matches.to_find.copy()
    missed[matches.objects[0][matches.objects[0] >= 0]] = False
    height, width = example.image.shape[-2:]

    def box(corners: Sequence[float], kind: str, tag: str) -> dict[str, Any]:
        place = place_box(corners, (0, 0, width, height))
        # A tag lies above its box, to the right: where there is no room, in it or to the left.
        sides = [" low"] * (place["top"] < 8) + [" right"] * (place["left"] > 65)
        return {"place": place, "kind": kind + "".join(sides), "tag": tag}

    boxes = [
        box(corners, "object", names[label] if lost else "")
        for corners, label, lost in zip(truth.boxes.tolist(), truth.labels, missed, strict=True)
    ]
    for i in np.argsort(matches.found.scores, kind="stable").tolist():  # the best on top
        kind = "wrong" if outcomes[i] == FALSE_POSITIVE else "hit"
        tag = f"{names[matches.found.labels[i]]} {matches.found.scores[i]:.2f}"
        boxes.append(box(matches.found.boxes[i].tolist(), kind, tag))
    return {
        "name": example.name,
        "address": jpeg_address(encode_jpeg(example.image, 80, longest_side=PHOTO_SIDE)),
        "aspect": round(width / height, 4),
        "boxes": boxes,
        "found": int(np.count_nonzero(outcomes == TRUE_POSITIVE)),
        "objects": int(matches.to_find.sum()),
        "wrong": int(np.count_nonzero(outcomes == FALSE_POSITIVE)),
    }


def _outline(settings: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Write nested settings as lines of ``name: value``, nested ones further in."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _outline(value, indent + "  ")
        else:
            plain = isinstance(value, str) and value.isprintable() and value
            text = value if plain else json.dumps(value, default=str, ensure_ascii=False)
            yield f"{indent}{key}: {text}"
