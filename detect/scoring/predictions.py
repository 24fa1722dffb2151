"""Results files of ILSVRC and VOC -> columns, with every line checked.

A run of tools/detect.py numbers photos and classes in its own order, and leaves images.txt and
categories.json beside its results: with them, numbers are translated by name into the ground
truth's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.ilsvrc import Synsets, read_image_list
from detect.data.records import Record
from detect.data.sources import InputError, read_json, read_lines
from detect.results import voc_file_names
from detect.scoring.tables import ScoredBoxes

DROPPED = -1  # the label of detections whose class the ground truth does not have

NumberedLines = Sequence[tuple[int, str]]


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


def match_images(names: Mapping[int, str], truth: Mapping[str, int]) -> dict[int, int]:
    """Translate numbers of photos by their names; photos without a partner fall out.

    Names match as they are, without suffix, or without folder where that is unambiguous.

    Args:
        names: Name of each photo by its number.
        truth: What the photos of the ground truth are to be called, by name.
    """
    shortened = _shortened(truth)
    matched = {}
    for number, name in names.items():
        for key in (name, _stem(name), _stem(name).rpartition("/")[2]):
            if key in shortened:
                matched[number] = shortened[key]
                break
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


def read_ilsvrc_predictions(
    path: Path, records: Sequence[Record], synsets: Synsets
) -> tuple[ScoredBoxes, tuple[str, ...]]:
    """Read lines ``image_id class_id score xmin ymin xmax ymax``, 1-based inclusive.

    Args:
        path: The file, plain, .gz or .xz; empty if nothing was detected.
        records: The images of the ground truth.
        synsets: The classes; matched by name or WordNet id where the file comes from a run.

    Returns:
        The detections, and notes for the reader of the scores.

    Raises:
        InputError: Names the first line that is malformed, not finite, or of no image or class.
    """
    lines = read_lines(path)
    table = _parse_numbers(lines, [line for _, line in lines], 7, path, ILSVRC_FORM)
    names, notes = read_run_names(path), []
    if names is None:
        images = {record.image_id: i for i, record in enumerate(records)}
        classes = {label + 1: label for label in range(len(synsets.names))}
    else:
        images = match_images(names.images, {record.name: i for i, record in enumerate(records)})
        known = {**synsets.label_of(), **{name: i for i, name in enumerate(synsets.names)}}
        classes = match_classes(names.classes, known, str(path.parent / "categories.json"))
        notes = matching_notes(path, names, classes)
    image_remedy = "is not in the image list; image ids are 1-based, and the list's second column"
    class_remedy = f"is not one of the classes; class ids are 1..{len(classes)}"
    found = ScoredBoxes(
        images=_translate(table[:, 0], images, lines, path, f"image id {{}} {image_remedy}"),
        labels=_translate(table[:, 1], classes, lines, path, f"class id {{}} {class_remedy}"),
        scores=table[:, 2],
        boxes=_half_open(table[:, 3:]),
    )
    return found[np.flatnonzero(found.labels != DROPPED)], tuple(notes)


def read_voc_predictions(
    folder: Path, records: Sequence[Record], class_names: Sequence[str]
) -> ScoredBoxes:
    """Read comp4_det_test_CLASS.txt files, lines ``name score xmin ymin xmax ymax``, 1-based.

    Args:
        folder: Where the files lie, each plain, .gz or .xz; empty if nothing was detected.
        records: The images of the ground truth.
        class_names: Names of the classes, ``[C]``.

    Raises:
        InputError: If a class has no file; names the first line that is malformed, not finite, or
            of no image.
    """
    positions = {record.name: i for i, record in enumerate(records)}
    parts = []
    for label, file in enumerate(voc_file_names(class_names)):
        path = _class_file(folder, file)
        lines = read_lines(path)
        split = [line.strip().rsplit(maxsplit=5) for _, line in lines]
        numbers = [" ".join(parts[1:]) for parts in split]
        table = _parse_numbers(lines, numbers, 5, path, VOC_FORM)
        names = dict(enumerate(dict.fromkeys(parts[0] for parts in split)))
        matched = match_images(names, positions)
        by_name = {name: matched.get(number) for number, name in names.items()}
        for (number, _), (name, *_) in zip(lines, split, strict=True):
            if by_name[name] is None:
                raise InputError(
                    f"{path}, line {number}: image {name!r} is not in the image list; "
                    "remove the line or score with the list it belongs to"
                )
        parts.append(
            ScoredBoxes(
                images=np.array([by_name[line[0]] for line in split], dtype=np.int64),
                labels=np.full(len(lines), label),
                scores=table[:, 0],
                boxes=_half_open(table[:, 1:]),
            )
        )
    return ScoredBoxes(
        *(
            np.concatenate([getattr(part, column) for part in parts])
            for column in ("images", "labels", "scores", "boxes")
        )
    )


ILSVRC_FORM = "'image_id class_id score xmin ymin xmax ymax'"
VOC_FORM = "'name score xmin ymin xmax ymax'"


def _parse_numbers(
    lines: NumberedLines, texts: Sequence[str], columns: int, path: Path, form: str
) -> NDArray[np.float64]:
    """Parse the columns of numbers, ``[N, columns]``; the slow search is for bad lines only."""
    if not texts:
        return np.zeros((0, columns))
    try:
        table = np.loadtxt(texts, dtype=np.float64, comments=None, ndmin=2)
    except ValueError:
        table = np.zeros((0, 0))
    if table.shape != (len(texts), columns):
        for (number, line), text in zip(lines, texts, strict=True):
            if not _is_row(text, columns):
                raise InputError(
                    f"{path}, line {number}: {line!r} is not {form}; write the line again"
                )
        raise InputError(f"{path}: its lines are not {form}; write the file again")
    infinite = ~np.isfinite(table).all(axis=1)
    if infinite.any():
        number, line = lines[int(np.argmax(infinite))]
        raise InputError(
            f"{path}, line {number}: {line!r} holds a number that is not finite; "
            "scores and boxes must be finite numbers"
        )
    return table


def _is_row(text: str, columns: int) -> bool:
    try:
        return len([float(number) for number in text.split()]) == columns
    except ValueError:
        return False


def _translate(
    numbers: NDArray[np.float64],
    table: Mapping[int, int],
    lines: NumberedLines,
    path: Path,
    message: str,
) -> NDArray[np.int64]:
    """Look numbers up, ``[N]`` -> ``[N]``; the message names the first unknown one."""
    unique, inverse = np.unique(numbers, return_inverse=True)
    values = [table.get(int(n)) if n == int(n) else None for n in unique.tolist()]
    unknown = np.array([value is None for value in values], dtype=bool)[inverse]
    if unknown.any():
        row = int(np.argmax(unknown))
        raise InputError(f"{path}, line {lines[row][0]}: " + message.format(f"{numbers[row]:g}"))
    return np.array(values, dtype=np.int64)[inverse]


def _half_open(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.subtract(corners, (1.0, 1.0, 0.0, 0.0), dtype=np.float64)


def _class_file(folder: Path, file: str) -> Path:
    for suffix in ("", ".gz", ".xz"):
        if (path := folder / f"{file}{suffix}").is_file():
            return path
    raise InputError(
        f"{folder}: holds no {file}; write the file, empty if nothing of the class was detected, "
        "or list the classes to be scored with classes=FILE"
    )


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
