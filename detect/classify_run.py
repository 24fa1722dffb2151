"""What tools/classify.py writes and says: predictions, CLS-LOC lines, error rates."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detect.checkpoint import file_digest
from detect.data.ilsvrc import read_clsloc_synsets
from detect.data.imagefolder import ClassifiedPhotos
from detect.data.imagenet import imagenet_wnids
from detect.data.problems import InputError
from detect.detections import Detections
from detect.files import write_atomically
from detect.image_classifier import TOP
from detect.results import ImageResult, tell_skipped
from detect.run import RunOutcome


@dataclass(frozen=True)
class ErrorRates:
    """How often the right class is not the best guess, or not among the best five.

    Attributes:
        images: How many were judged.
        top1_error: Share of them, 0 to 1.
        top5_error: Share of them, 0 to 1.
    """

    images: int
    top1_error: float
    top5_error: float

    def __str__(self) -> str:
        """Tell both as percentages, with the standard error of each."""
        parts = [f"{self.images} images"]
        for name, error in (("top-1", self.top1_error), ("top-5", self.top5_error)):
            deviation = (error * (1 - error) / max(1, self.images)) ** 0.5
            parts.append(f"{name} error {100 * error:.2f} % (+- {100 * deviation:.2f})")
        return ", ".join(parts)


def digests(weights: Sequence[str]) -> list[str]:
    """Return what tells the weights from others."""
    return [file_digest(path) if Path(path).is_file() else path for path in weights]


def judge(results: Sequence[ImageResult], labels: Mapping[str, int]) -> ErrorRates:
    """Compare the guesses of images with their classes, by the images' names."""
    judged = [(result, labels[result.name]) for result in results if result.name in labels]
    count = max(1, len(judged))
    first = sum(guesses(result.detections)[:1] == [label] for result, label in judged)
    five = sum(label in guesses(result.detections) for result, label in judged)
    return ErrorRates(len(judged), 1 - first / count, 1 - five / count)


def guesses(found: Detections) -> list[int]:
    """Return the labels that were found, best first, at most five."""
    return [int(label) for label in found.labels[:TOP]]


def check_labels(photos: ClassifiedPhotos, num_classes: int) -> None:
    """Refuse data with classes that the networks do not know.

    Raises:
        InputError: Names the first photo.
    """
    for image, label in zip(photos.images, photos.labels, strict=True):
        if label >= num_classes:
            raise InputError(
                f"{image.name}: class {label} of {num_classes}; if the list counts from 1, say "
                "data.first_label=1"
            )


def class_ids(classes: str | None, num_classes: int) -> list[int]:
    """Return the number of each class in CLS-LOC files.

    Args:
        classes: meta_clsloc.mat, or lines ``wnid id name``; None: 1, 2, 3 ... in the networks'
            order, which is not the devkit's.
        num_classes: Of the networks.

    Raises:
        InputError: If the file lacks a class.
    """
    if classes is None:
        return list(range(1, num_classes + 1))
    synsets = read_clsloc_synsets(Path(classes))
    ids = {wnid: number for number, wnid in enumerate(synsets.wnids, start=1)}
    if missing := [wnid for wnid in imagenet_wnids() if wnid not in ids]:
        raise InputError(f"{classes}: lacks {missing[0]}, a class of ILSVRC 2012")
    return [ids[wnid] for wnid in imagenet_wnids()]


def write_predictions(
    out: Path,
    results: Sequence[ImageResult],
    ids: Sequence[int],
    rates: ErrorRates | None,
    labels: Mapping[str, int],
) -> None:
    """Write ``predictions.csv``, ``clsloc.txt`` and, where the classes are known, ``scores.json``.

    Args:
        out: Folder of the run.
        results: The images, in the order of the lines.
        ids: Number of each class in ``clsloc.txt``.
        rates: What the run amounts to.
        labels: Right classes by the images' names.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "rank", "class", "probability", "right"])
    for result in results:
        found, right = result.detections, labels.get(result.name)
        rows = zip(found.names, found.scores.tolist(), found.labels.tolist(), strict=True)
        for rank, (name, score, label) in enumerate(rows, start=1):
            known = "" if right is None else int(label == right)
            table.writerow([result.name, rank, name, f"{score:.6f}", known])
    write_atomically(out / "predictions.csv", text.getvalue())
    lines = [" ".join(str(ids[i]) for i in guesses(result.detections)) for result in results]
    write_atomically(out / "clsloc.txt", "".join(f"{line}\n" for line in lines))
    write_atomically(out / "images.txt", "".join(f"{result.name}\n" for result in results))
    if rates is not None:
        write_atomically(out / "scores.json", json.dumps(vars(rates), indent=1) + "\n")


def summarise(outcome: RunOutcome, rates: ErrorRates | None, seconds: float, out: Path) -> str:
    """Return the closing lines of a run."""
    done, skipped = outcome.results, outcome.skipped
    lines = [
        f"{len(done)} photos ({outcome.resumed} done before), {len(skipped)} skipped, "
        f"{seconds:.1f} s"
    ]
    lines += tell_skipped(skipped, out / "skipped.csv")
    if rates is not None:
        lines.append(str(rates))
    return "\n".join([*lines, f"results: {out}: predictions.csv, clsloc.txt, images.txt"])
