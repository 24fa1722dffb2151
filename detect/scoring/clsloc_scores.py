"""The result of scoring classification and localisation: errors, a table and a JSON file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GUESSES = 5  # guesses of an image that count

Errors = tuple[float | None, ...]


@dataclass(frozen=True)
class ClsLocClass:
    """How often the images of one class were got wrong.

    Attributes:
        id: The class's number in the files, from 1.
        name: Its name.
        images: Its images.
        top1_error: Share of them whose first guess is of another class, 0..1; ``None`` without any.
        top5_error: Share of them whose first five guesses are of other classes.
        localisation_error: Share of those not left out that none of five guesses localises;
            ``None`` without any, or where boxes were not judged.
    """

    id: int
    name: str
    images: int
    top1_error: float | None
    top5_error: float | None
    localisation_error: float | None


@dataclass(frozen=True)
class ClsLocScores:
    """How often images were got wrong.

    Attributes:
        format: ``clsloc``.
        protocol: ``ilsvrc-clsloc``.
        num_images: Images, all of which count for classification.
        num_localised: Images that count for localisation; 0 where boxes were not judged.
        classification: Error with the first 1, 2, ... 5 guesses, 0..1; ``None`` without images.
        localisation: Likewise; ``None`` as a whole where boxes were not judged.
        classes: One entry a class, in the order of the ids, ``[C]``.
        notes: What else the reader of the numbers has to know, one sentence each.
    """

    format: str
    protocol: str
    num_images: int
    num_localised: int
    classification: Errors
    localisation: Errors | None
    classes: tuple[ClsLocClass, ...]
    notes: tuple[str, ...] = ()


def to_json(scores: ClsLocScores) -> dict[str, Any]:
    """Return what scores.json holds; undefined numbers are ``None``."""
    localisation = scores.localisation or (None,) * GUESSES
    errors = zip(scores.classification, localisation, strict=True)
    return {
        "format": scores.format,
        "protocol": scores.protocol,
        "rules": describe_rules(scores),
        "top1_error": scores.classification[0],
        "top5_error": scores.classification[-1],
        "localisation_error": localisation[-1],
        "errors": [
            {"guesses": k, "classification": named, "localisation": found}
            for k, (named, found) in enumerate(errors, start=1)
        ],
        "classes": [asdict(entry) for entry in scores.classes],
        "notes": list(scores.notes),
    }


def format_table(scores: ClsLocScores) -> str:
    """Return the devkit's table for people: one line a number of guesses, then the notes."""
    localisation = scores.localisation or (None,) * GUESSES
    lines = ["# guesses vs clsloc error vs cls-only error"]
    for k, errors in enumerate(zip(localisation, scores.classification, strict=True), start=1):
        cells = ("-" if error is None else f"{error:.4f}" for error in errors)
        lines.append(f"{k:>9}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, "", f"{scores.protocol}: {describe_rules(scores)}", *scores.notes])


def describe_rules(scores: ClsLocScores) -> str:
    """Return what the numbers rest on, one line."""
    rules = f"classification over {scores.num_images} images"
    if scores.localisation is None:
        return rules
    left_out = scores.num_images - scores.num_localised
    return (
        f"{rules}; localisation over {scores.num_localised}, {left_out} left out by the blacklist "
        "or for want of boxes; IoU >= 0.5 with any object of the image, widths xmax - xmin + 1"
    )
