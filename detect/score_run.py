"""What tools/score.py does: score files as its settings say, and write numbers and reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect.files import write_atomically
from detect.progress import Progress
from detect.score_settings import ScoreConfig, as_path, check_settings

if TYPE_CHECKING:  # each format is loaded where it is asked for
    from detect.scoring.bootstrap import Difference, Interval, Intervals
    from detect.scoring.clsloc_scores import ClsLocScores
    from detect.scoring.scores import Scores

    Differences = tuple[Difference | None, tuple[Difference | None, ...]]

REPETITIONS = 1000  # draws of a report that was asked for without saying how many


def score_and_write(settings: ScoreConfig, progress: Progress) -> str:
    """Score what the settings name and write scores.json, with a report if one was asked for.

    Args:
        settings: Of the tool.
        progress: Makes a progress bar of a number of steps and what they are.

    Returns:
        What to print.

    Raises:
        InputError: If a setting is missing or a file malformed; nothing is written then.
    """
    check_settings(settings)
    from proposals.compiling import announce_compiling  # loads numba, as all scoring does

    announce_compiling("detect", "scoring", Path(__file__).parent / "scoring" / "__pycache__")
    out = as_path(settings.out)
    if settings.format == "clsloc":
        from detect.scoring import clsloc_scores

        errors = score_clsloc(settings)
        _write_json(out / "scores.json", clsloc_scores.to_json(errors))
        return f"{clsloc_scores.format_table(errors)}\nwritten to {out / 'scores.json'}"

    from detect.scoring.scores import format_table, to_json

    scores, second = score_both(settings)
    intervals, differences = _draw_images(settings, scores, second, progress)
    content = to_json(scores)
    _add_intervals(content, settings.compare, intervals, differences)
    _write_json(out / "scores.json", content)
    text = [format_table(scores), *_describe(settings, scores, second, intervals, differences)]
    text.append(f"written to {out / 'scores.json'}")
    if settings.report:
        text.append(f"open {_write_report(settings, scores, intervals, differences, progress)}")
    return "\n".join(text)


def score_both(settings: ScoreConfig) -> tuple[Scores, Scores | None]:
    """Score the submission, and the one it is to be compared with, on the same classes."""
    predictions = as_path(settings.predictions)
    scores = score_detections(settings, predictions)
    if settings.compare is None:
        return scores, None
    other = as_path(settings.compare)
    second = score_detections(settings, other)
    names, others = scores.matches.class_names, second.matches.class_names
    if names != others:  # classes are those found: take all of them for both
        classes = sorted({*names, *others})
        scores = score_detections(settings, predictions, classes)
        second = score_detections(settings, other, classes)
    return scores, second


def score_detections(
    settings: ScoreConfig, predictions: Path, class_names: Sequence[str] | None = None
) -> Scores:
    """Score one submission to a detection task; of VOC, these classes or those it finds."""
    annotations = as_path(str(settings.annotations))
    drop, official = settings.drop, settings.official
    if settings.format == "coco":
        from detect.scoring.coco import score_coco_files

        return score_coco_files(
            predictions,
            annotations,
            engine=settings.engine,  # type: ignore[arg-type]  # checked there
            official=official,
            drop=drop,
            repair=settings.repair,
        )
    from detect.scoring.files import score_ilsvrc_files, score_voc_files

    image_list, classes = as_path(str(settings.image_list)), _path(settings.classes)
    if settings.format == "voc":
        return score_voc_files(
            predictions,
            annotations,
            image_list,
            classes or class_names,
            settings.voc_metric,
            drop=drop,
            official=official,
        )
    blacklist = _path(settings.blacklist)
    return score_ilsvrc_files(
        predictions,
        annotations,
        image_list,
        classes or Path(),
        blacklist,
        drop=drop,
        official=official,
    )


def score_clsloc(settings: ScoreConfig) -> ClsLocScores:
    """Score a submission to classification and localisation."""
    from detect.scoring.clsloc_files import score_clsloc_files

    return score_clsloc_files(
        as_path(settings.predictions),
        _path(settings.image_list),
        as_path(str(settings.ground_truth)),
        _path(settings.annotations),
        _path(settings.classes),
        _path(settings.blacklist),
        drop=settings.drop,
        official=settings.official,
        boxes=settings.boxes,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else as_path(text)


def _draw_images(
    settings: ScoreConfig, scores: Scores, second: Scores | None, progress: Progress
) -> tuple[Intervals | None, Differences | None]:
    """Draw images with replacement: intervals, and the differences to a second submission."""
    needed = settings.report or second is not None
    repetitions = settings.bootstrap or (REPETITIONS if needed else 0)
    if not repetitions or not scores.matches.truth.num_images:
        return None, None
    from detect.scoring.bootstrap import bootstrap_differences, bootstrap_intervals

    total = repetitions * (1 if second is None else 2)
    with progress(total, "draws") as bar:
        options = {"repetitions": repetitions, "seed": settings.seed, "on_progress": bar.update}
        intervals = bootstrap_intervals(scores.matches, **options)  # type: ignore[arg-type]
        differences = None
        if second is not None:
            differences = bootstrap_differences(scores.matches, second.matches, **options)  # type: ignore[arg-type]
    return intervals, differences


def _add_intervals(
    content: dict[str, Any],
    compared: str | None,
    intervals: Intervals | None,
    differences: Differences | None,
) -> None:
    """Add intervals and differences to what scores.json holds."""

    def ends(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [interval.low, interval.high]

    def describe(difference: Difference | None) -> dict[str, Any] | None:
        if difference is None:
            return None
        return {
            "value": difference.value,
            "interval": ends(difference.interval),
            "first_better": difference.first_better,
        }

    if intervals is not None:
        content["bootstrap"] = {
            "repetitions": intervals.repetitions,
            "seed": intervals.seed,
            "level": intervals.level,
        }
        content["mean_ap_interval"] = ends(intervals.mean_ap)
        for entry, interval in zip(content["classes"], intervals.classes, strict=True):
            entry["ap_interval"] = ends(interval)
    if differences is not None:
        content["compared_with"] = compared
        content["difference"] = describe(differences[0])
        for entry, difference in zip(content["classes"], differences[1], strict=True):
            entry["difference"] = describe(difference)


def _describe(
    settings: ScoreConfig,
    scores: Scores,
    second: Scores | None,
    intervals: Intervals | None,
    differences: Differences | None,
) -> list[str]:
    """Put intervals and the difference of two submissions into lines for people."""
    lines = []
    if intervals is not None and intervals.mean_ap is not None:
        low, high = intervals.mean_ap.low, intervals.mean_ap.high
        lines.append(
            f"mean AP between {low:.3f} and {high:.3f} in {intervals.level:.0%} of "
            f"{intervals.repetitions} draws of images (seed {intervals.seed})"
        )
    if second is not None and differences is not None and differences[0] is not None:
        whole = differences[0]
        named = zip(scores.matches.class_names, differences[1], strict=True)
        apart = [(n, d) for n, d in named if d and not d.interval.low <= 0 <= d.interval.high]
        lines.append(
            f"{settings.compare} has mean AP {second.mean_ap or 0:.3f}: {settings.predictions} has "
            f"{whole.value:+.3f} to it, between {whole.interval.low:+.3f} and "
            f"{whole.interval.high:+.3f}, and is the better one in {whole.first_better:.1%} of the "
            "same draws (ties not counted)"
        )
        lines.append(
            f"classes that differ beyond the draws' {intervals.level if intervals else 0:.0%}: "
            + (", ".join(f"{name} {d.value:+.3f}" for name, d in apart) or "none")
        )
        lines += [
            note if str(settings.compare) in note else f"{settings.compare}: {note}"
            for note in second.notes
        ]
    return lines


def _write_report(
    settings: ScoreConfig,
    scores: Scores,
    intervals: Intervals | None,
    differences: Differences | None,
    progress: Progress,
) -> Path:
    """Look for reasons, and write curves and page; return the page."""
    from detect.scoring.curves import write_curves
    from detect.scoring.errors import analyse_errors
    from detect.scoring.groups import score_groups
    from detect.scoring_report import write_report

    out = as_path(settings.out)
    errors = analyse_errors(scores.matches)
    write_curves(out, scores)
    with progress(None, "photos drawn") as bar:
        return write_report(
            out,
            scores,
            errors=errors,
            groups=score_groups(scores.matches),
            intervals=intervals,
            difference=differences,
            other=str(settings.compare),
            photos=_path(settings.photos),
            on_progress=bar.update,
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")
