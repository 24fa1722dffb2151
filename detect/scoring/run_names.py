"""What the numbers in a run's results files stand for.

A run of tools/detect.py numbers photos and classes in its own order, and leaves images.txt and
categories.json beside its results: with them, numbers are translated by name into the ground
truth's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detect.data.ilsvrc import read_image_list
from detect.data.problems import InputError
from detect.data.sources import read_json

DROPPED = -1  # the label of detections whose class the ground truth does not have


@dataclass(frozen=True)
class RunNames:
    """What the numbers in the results files of a run stand for.

    Attributes:
        images: Name of each photo by its number.
        classes: Name of each class by its number.
    """

    images: Mapping[int, str]
    classes: Mapping[int, str]


def read_run_names(predictions: Path) -> RunNames | None:
    """Read images.txt and categories.json beside a results file; ``None`` unless both are there.

    Raises:
        InputError: If one of them is malformed.
    """
    images, categories = (predictions.parent / name for name in ("images.txt", "categories.json"))
    if not (images.is_file() and categories.is_file()):
        return None
    names = {number: name for name, number in read_image_list(images).items()}
    try:
        classes = {int(entry["id"]): str(entry["name"]) for entry in read_json(categories)}
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'{categories}: is not [{{"id": 1, "name": "..."}}, ...] ({error!r})'
        ) from error
    return RunNames(names, classes)


def match_images(names: Mapping[int, str], truth: Mapping[str, int], where: str) -> dict[int, int]:
    """Translate numbers of photos by their names; photos without a partner fall out.

    Names match as they are, without suffix, or without folder where that is unambiguous.

    Args:
        names: Name of each photo by its number.
        truth: What the photos of the ground truth are to be called, by name.
        where: What an error message calls the file of the names.

    Raises:
        InputError: If two photos would become the same image.
    """
    shortened = _shortened(truth)
    matched: dict[int, int] = {}
    taken: dict[int, str] = {}
    for number, name in names.items():
        keys = (name, _stem(name), _stem(name).rpartition("/")[2])
        key = next((key for key in keys if key in shortened), None)
        if key is None:
            continue
        image = matched[number] = shortened[key]
        if image in taken:
            raise InputError(
                f"{where}: {taken[image]!r} and {name!r} would both be the image {key!r} of the "
                "ground truth; leave out one of them"
            )
        taken[image] = name
    return matched


def match_classes(names: Mapping[int, str], truth: Mapping[str, int], where: str) -> dict[int, int]:
    """Translate numbers of classes by their names, ``DROPPED`` where the truth has no such class.

    Case and ``_`` for a space make no difference.

    Args:
        names: Name of each class by its number.
        truth: What the classes of the ground truth are to be called, by name.
        where: What an error message calls the file of the names.

    Raises:
        InputError: If no class has a partner.
    """
    by_key = {_class_key(name): value for name, value in truth.items()}
    matched = {number: by_key.get(_class_key(name), DROPPED) for number, name in names.items()}
    if matched and all(value == DROPPED for value in matched.values()):
        raise InputError(
            f"{where}: none of its classes ({', '.join(list(names.values())[:5])} ...) is one of "
            f"the ground truth's ({', '.join(list(truth)[:5])} ...); rename them or move it away"
        )
    return matched


def matching_notes(predictions: Path, names: RunNames, classes: Mapping[int, int]) -> list[str]:
    """Say that numbers were translated, and what was left out."""
    notes = [
        f"Images and classes of {predictions.name} were matched by name, "
        f"as images.txt and categories.json in {predictions.parent} give them."
    ]
    dropped = [names.classes[number] for number, label in classes.items() if label == DROPPED]
    if dropped:
        notes.append(f"Not in the ground truth, detections left out: {', '.join(dropped)}")
    return notes


def lone_list_note(predictions: Path) -> list[str]:
    """Warn of a run's list that lies beside a results file without the other one."""
    names = ("images.txt", "categories.json")
    there = [name for name in names if (predictions.parent / name).is_file()]
    if len(there) != 1:
        return []
    absent = next(name for name in names if name not in there)
    return [
        f"{predictions.parent}: holds {there[0]} without {absent}: the ids of {predictions.name} "
        "were taken as they are, not matched by name"
    ]


def _shortened(truth: Mapping[str, int]) -> dict[str, int]:
    """Add every name without suffix and folder where only one image has it."""
    shortened: dict[str, int] = {}
    for shorten in (lambda name: _stem(name).rpartition("/")[2], _stem):
        counts = Counter(map(shorten, truth))
        shortened |= {shorten(name): i for name, i in truth.items() if counts[shorten(name)] == 1}
    return {**shortened, **truth}


def _stem(name: str) -> str:
    return re.sub(r"(?<=[^/])\.[A-Za-z0-9]+$", "", name)


def _class_key(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
