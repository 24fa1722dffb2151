"""The end of a training: the best checkpoint's precision, and the report."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detect.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from detect.data.records import Record
from detect.data.splits import spread
from detect.detections import Detections
from detect.devices import choose_device
from detect.engine import check_precision
from detect.images import read_image
from detect.precision import computes_bfloat16
from detect.rejection_training import train_rejection
from detect.scoring import Scores
from detect.svm import SVMConfig
from detect.train_data import TrainingData, TrainingRun
from detect.training_report import TrainingExample, choose_examples, write_training_report
from detect.validation import Validator
from detect.workers import CoreWorkers, available_cores

_CHECKED_PHOTOS, _CHECKED_REGIONS = 16, 100  # that bfloat16 is compared with float32 on
_EXAMPLES = 12


def make_validator(run: TrainingRun) -> Validator | None:
    """Make what measures a network in training; nothing where no photos are held back."""
    if not run.data.validation:
        return None
    return Validator(
        run.data.validation,
        run.data.proposals,
        merge=run.settings.merge,
        metric=run.settings.validation.metric,
        threads=run.settings.threads,
    )


def finish(
    run: TrainingRun,
    rows: Sequence[Mapping[str, Any]],
    validator: Validator | None,
    found: Sequence[Detections] | None = None,
) -> None:
    """Check the best checkpoint's precision and write the report.

    Args:
        run: The training.
        rows: Of its log.
        validator: What measures; None where no photos are held back.
        found: What the best checkpoint detects on the validator's photos, where that is known.
    """
    best = load_checkpoint(run.checkpoint_path)
    if best.precision_check is None and computes_bfloat16(torch.device("cpu")):
        best.precision_check = check_precision(best, _some_regions(run.data))
        save_checkpoint(run.checkpoint_path, best)
    unknown = "not compared, for this processor does not compute it"
    run.say(f"bfloat16 against float32: {best.precision_check or unknown}")
    if _wants_rejection(run, best):
        add_rejection(run, best)
    if not run.settings.report:
        return
    scores, examples = None, []
    if validator is not None:
        if found is None:
            with run.progress(len(validator.records), "validation photos") as bar:
                found = validator.detect(best, bar.update)
        scores = validator.score(found, best.class_names)
        mean_ap, count = scores.mean_ap or 0.0, len(validator.records)
        run.say(f"best checkpoint: mAP {mean_ap:.3f} on {count} photos")
        of_record = dict(zip([r.name for r in validator.records], found, strict=True))
        for record in choose_examples(validator.records, _EXAMPLES, run.settings.seed):
            image = _read(record)
            examples.append(TrainingExample(record.name, image, record, of_record[record.name]))
    path = run.out / "report.html"
    write_training_report(
        path,
        title=run.out.name,
        rows=rows,
        scores=scores,
        examples=examples,
        facts=_facts(run, rows, scores),
        notes=[*run.data.notes, *(f"{name}: {why}" for name, why in run.data.skipped)],
        recipe=run.recipe,
    )
    run.say(f"open {path}")


def _wants_rejection(run: TrainingRun, checkpoint: Checkpoint) -> bool:
    settings = run.settings
    # SVMs have settled the very photos that it would learn from: hardly a proposal of theirs passes
    # for an object, and on other photos too much would be rejected with the rest.
    if isinstance(settings.head, SVMConfig) or checkpoint.regions != "shared":
        return False
    return checkpoint.rejection is None and settings.rejection.photos > 0


def add_rejection(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Train early rejection for a checkpoint and save both; say what it leaves."""
    settings, photos = run.settings, spread(run.data.train, run.settings.rejection.photos)
    if not any(len(run.data.proposals[record.name]) for record in photos):
        run.say("no early rejection: there is no proposal on the photos to learn it from")
        return
    workers = CoreWorkers(settings.threads)
    checkpoint.network.to(choose_device(settings.device))
    with run.progress(len(photos), "photos for early rejection") as bar:
        checkpoint.rejection, share = train_rejection(
            checkpoint,
            ((_read(record), run.data.proposals[record.name]) for record in photos),
            settings.rejection,
            seed=settings.seed,
            workers=workers,
            on_photo=bar.update,
        )
    save_checkpoint(run.checkpoint_path, checkpoint)
    run.say(f"early rejection: {100 * share:.0f} % of these photos' proposals would be scored")


def _some_regions(data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield image and proposals of some training photos, ``[3, H, W]`` and ``[n, 4]``."""
    for record in data.train[:_CHECKED_PHOTOS]:
        yield _read(record), data.proposals[record.name][:_CHECKED_REGIONS]


def _read(record: Record) -> Tensor:
    assert record.path is not None
    return read_image(record.path)


def _facts(
    run: TrainingRun, rows: Sequence[Mapping[str, Any]], scores: Scores | None
) -> dict[str, str]:
    """Return what stands at the head of the report."""
    data = run.data
    objects = sum(len(record.labels) for record in data.train)
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    facts = {
        "training photos": f"{len(data.train):,} with {objects:,} objects",
        "classes": f"{len(data.class_names)}",
        "validation photos": f"{len(data.validation):,}",
        "time in steps": f"{seconds / 60:.0f} minutes",
        "machine": f"{available_cores()} cores, {platform.machine()}, torch {torch.__version__}",
    }
    if scores is not None:
        facts["measured by"] = scores.rules
    return facts
