"""One self-contained HTML page of what was scored: numbers, curves, errors, the worst examples."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detect.files import write_atomically
from detect.pages import decimal, load_template, percent, signed, valid_text
from detect.scoring.errors import ERRORS, ErrorAnalysis
from detect.scoring.scores import COCO_STATS, ClassScore, Scores, describe_rules
from detect.scoring_examples import Crop, cut_crops, worst_errors
from detect.scoring_figures import describe_chart, describe_confusion, describe_examples

if TYPE_CHECKING:
    from detect.scoring.bootstrap import Difference, Interval, Intervals
    from detect.scoring.groups import GroupScore

logger = logging.getLogger(__name__)

EXAMPLES_A_KIND = 8

FORMATS = {"ilsvrc": "ILSVRC DET", "coco": "COCO", "voc": "PASCAL VOC"}
STATS_MEANINGS = (  # in the order of COCO_STATS
    "mean over IoU 0.5, 0.55, ..., 0.95",
    "at IoU 0.5",
    "at IoU 0.75",
    "objects below 32 x 32 pixels",
    "objects from 32 x 32 to 96 x 96 pixels",
    "objects above 96 x 96 pixels",
    "recall with the best detection an image and class",
    "recall with the 10 best",
    "recall with the 100 best",
    "recall of small objects, 100 best",
    "recall of medium objects, 100 best",
    "recall of large objects, 100 best",
)
MEANINGS = {
    "classification": "The box fits an object, but one of another class.",
    "localisation": "The class is right, the box fits an object of it too badly.",
    "both": "The box lies on an object, but neither class nor place is right.",
    "duplicate": "The object was already given to another detection.",
    "background": "The box lies on no object, or hardly.",
    "missed": "An object that nothing found, and no wrong class or place explains.",
    "false positives": "All wrong detections, of whatever kind.",
    "false negatives": "All objects not found, those with a wrong class or place too.",
}
GROUPS = {
    "size": ("By size", "small below 32 x 32 pixels, large from 96 x 96"),
    "crowding": (
        "By crowding",
        "other objects of the class in the image; these APs compare with each other alone",
    ),
}


def write_report(
    folder: Path,
    scores: Scores,
    *,
    errors: ErrorAnalysis,
    groups: Mapping[str, Sequence[GroupScore]],
    intervals: Intervals | None = None,
    difference: tuple[Difference | None, Sequence[Difference | None]] | None = None,
    other: str = "the other submission",
    photos: Path | None = None,
    on_progress: Callable[[], object] = lambda: None,
) -> Path:
    """Write report.html, atomically. It fetches nothing, and equal input gives equal bytes.

    Args:
        folder: Made if need be.
        scores: What was scored.
        errors: Why detections are wrong and objects missing.
        groups: APs of groups of objects, by what they were grouped by.
        intervals: How far the APs may be trusted.
        difference: What the submission has over another: of the mean AP and of each class,
            ``[C]``, as ``bootstrap_differences`` returns it.
        other: What the page calls that other submission.
        photos: Folder of the images, searched to its depths: the worst errors are shown on them.
            An image that is missing or broken is named in the page. Without a folder the errors
            stand in tables.
        on_progress: Called after each photo.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If the folder of photos does not exist.
    """
    worst = worst_errors(scores.matches, errors, EXAMPLES_A_KIND)
    crops: list[Crop] = []
    problems: dict[str, str] = {}
    if photos is not None:
        examples = [example for of_kind in worst.values() for example in of_kind]
        crops, problems = cut_crops(examples, photos, on_progress)
    for name, reason in problems.items():
        logger.warning("%s is missing in the report: %s", valid_text(name), reason)
    mean_difference, class_differences = (None, ()) if difference is None else difference
    html = load_template("scoring_report.html.j2").render(
        title=f"{FORMATS.get(scores.format, scores.format)} scores",
        scores=scores,
        rules=describe_rules(scores),
        level=f"{100 * intervals.level:g}%" if intervals else "",
        intervals=intervals,
        facts=list(_facts(scores, intervals)),
        undefined=[score.name for score in scores.classes if score.ap is None],
        difference=_describe_difference(mean_difference),
        other=other,
        stats=_describe_stats(scores.stats),
        chart=describe_chart(scores),
        errors=_describe_errors(errors),
        groups=[_describe_group(key, rows) for key, rows in groups.items()],
        classes=list(_describe_classes(scores.classes, intervals, class_differences)),
        confusion=describe_confusion(errors.confusion, scores.matches.class_names),
        examples=list(describe_examples(worst, None if photos is None else iter(crops))),
        meanings=MEANINGS,
        has_photos=photos is not None,
        problems=problems,
    )
    path = folder / "report.html"
    write_atomically(path, valid_text(html))
    return path


def _range(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{decimal(interval.low)} to {decimal(interval.high)}"


def _facts(scores: Scores, intervals: Intervals | None) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and remark of the numbers at the head of the page."""
    matches, remark = scores.matches, ""
    if intervals is not None and intervals.mean_ap is not None:
        remark = _range(intervals.mean_ap)
    yield "mean AP", decimal(scores.mean_ap), remark
    yield "median AP", decimal(scores.median_ap), ""
    halves = [score.ap50 for score in scores.classes if score.ap50 is not None]
    if halves:
        yield "mean AP at IoU 0.5", decimal(math.fsum(halves) / len(halves)), ""
    scored = sum(score.ap is not None for score in scores.classes)
    yield "classes", f"{scored:,}", "" if scored == len(scores.classes) else "with objects"
    yield "images", f"{matches.truth.num_images:,}", ""
    yield "objects to find", f"{int(matches.positives.sum()):,}", ""
    yield "detections", f"{len(matches.found):,}", ""


def _describe_difference(difference: Difference | None) -> dict[str, str] | None:
    if difference is None:
        return None
    return {
        "value": signed(difference.value),
        "interval": f"{signed(difference.interval.low)} to {signed(difference.interval.high)}",
        "better": f"{100 * difference.first_better:.1f}",
    }


def _describe_stats(stats: Sequence[float | None]) -> list[tuple[str, str, str, float]]:
    """Name COCO's twelve numbers: name, meaning, value, length of the bar."""
    if not stats:
        return []
    rows = zip(COCO_STATS, STATS_MEANINGS, stats, strict=True)
    return [(name, meaning, decimal(value), percent(value)) for name, meaning, value in rows]


def _describe_errors(errors: ErrorAnalysis) -> list[dict[str, Any]]:
    """Describe the six kinds and the two sums: count, gain, length of the bar."""
    largest = max([0.0, *errors.gains.values()])
    counts = {
        **errors.counts,
        "false positives": sum(errors.counts.get(kind, 0) for kind in ERRORS[:-1]),
        "false negatives": int(np.count_nonzero(errors.unfound)),
    }
    return [
        {
            "name": name,
            "count": counts.get(name, 0),
            "gain": signed(gain),
            "length": percent(gain / largest if largest > 0 else 0),
            "kind": name in ERRORS,
        }
        for name in MEANINGS
        for gain in [errors.gains.get(name)]
        if gain is not None
    ]


def _describe_group(key: str, rows: Sequence[GroupScore]) -> dict[str, Any]:
    title, remark = GROUPS.get(key, (f"By {key}", ""))
    described = [
        {
            "name": row.name,
            "ap": decimal(row.ap),
            "length": percent(row.ap),
            "positives": row.positives,
            "found": row.found,
            "recall": decimal(row.found / row.positives if row.positives else None),
        }
        for row in rows
    ]
    return {"title": title, "remark": remark, "rows": described}


def _describe_classes(
    classes: Sequence[ClassScore],
    intervals: Intervals | None,
    differences: Sequence[Difference | None],
) -> Iterator[dict[str, Any]]:
    """Describe the rows of the table of classes."""
    for i, score in enumerate(classes):
        interval = intervals.classes[i] if intervals is not None else None
        difference = differences[i] if differences else None
        threshold = score.best_threshold
        yield {
            "score": score,
            "ap": decimal(score.ap),
            "length": percent(score.ap),
            "ap50": decimal(score.ap50),
            "interval": _range(interval),
            "low": percent(interval.low) if interval else None,
            "spread": percent(interval.high - interval.low) if interval else None,
            "difference": signed(difference.value if difference else None),
            "recall": decimal(score.recall),
            "best_f1": decimal(score.best_f1),
            "threshold": "-" if threshold is None else f"{threshold:.4g}",
        }
