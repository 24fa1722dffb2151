"""VOC results files, one a class -> columns, with every line checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from detect.data.problems import InputError, Kind, Problems, check_choices
from detect.data.voc import VOC_PREFIX, voc_file_names
from detect.scoring.lines import NumberLines, read_number_lines
from detect.scoring.predictions import (
    DROPPABLE,
    UNKNOWN,
    check_inverted,
    form_notes,
    kept,
)
from detect.scoring.run_names import match_images
from detect.scoring.tables import GroundTruth, ScoredBoxes

VOC_FORM = "name score xmin ymin xmax ymax"
UNKNOWN_NAME = Kind(
    "unknown_image",
    "is not in the image list",
    "score with the list the file was made for, or leave such lines out with drop=[unknown_image]",
)


def read_voc_predictions(
    source: Path,
    truth: GroundTruth,
    class_names: Sequence[str],
    *,
    drop: Collection[str] = (),
    missing: bool = False,
    any_score: bool = False,
) -> tuple[ScoredBoxes, list[str]]:
    """Read one results file a class, lines ``name score xmin ymin xmax ymax``, 1-based.

    Args:
        source: The folder of comp4_det_test_CLASS.txt, or a path with a ``*`` for the class's name,
            each file plain, .gz or .xz; empty if nothing was detected.
        truth: The images of the ground truth.
        class_names: Names of the classes, ``[C]``.
        drop: Leave out lines that are wrong in these ways, out of ``DROPPABLE``.
        missing: A class may have no file: nothing of it was detected.
        any_score: Take numbers that are not finite.

    Returns:
        The detections, and notes for the reader of the scores.

    Raises:
        InputError: If a class has no file; names the first lines of a file that are malformed, not
            finite, or of no image, and how many there are.
    """
    check_choices("drop", drop, DROPPABLE)
    positions = {name: i for i, name in enumerate(truth.names)}
    parts = [_empty()]
    notes, messages, absent = [], [], []
    for label, (name, path) in enumerate(
        zip(class_names, _class_files(source, class_names), strict=True)
    ):
        if path is None:
            absent.append(name)
            continue
        problems = Problems(str(path), drop)
        lines = read_number_lines(path, 5, VOC_FORM, problems, any_number=any_score)
        found = _of_class(lines, label, positions, problems, path)
        check_inverted(found, lines, problems, any_score)
        try:
            problems.raise_if_any()
        except InputError as error:
            messages.append(str(error))
        parts.append(kept(found))
        notes += problems.notes() + form_notes(parts[-1], truth, path)
    if absent and (not missing or len(absent) == len(class_names)):
        messages.insert(0, _missing_files(source, absent))
    if messages:
        raise InputError("\n".join(messages))
    if absent:
        notes.append(f"{source}: no file of {', '.join(absent)}: taken as nothing detected")
    columns = ("images", "labels", "scores", "corners")
    return ScoredBoxes(*(np.concatenate([getattr(p, c) for p in parts]) for c in columns)), notes


def found_classes(source: Path) -> list[str]:
    """Return the names of the classes that have a results file, see ``read_voc_predictions``."""
    folder, prefix, suffix = _pattern(source)
    found = set()
    for path in sorted(folder.glob(f"{_literal(prefix)}*{_literal(suffix)}*")):
        name = re.sub(r"\.(gz|xz)$", "", path.name)
        if path.is_file() and name.startswith(prefix) and name.endswith(suffix):
            name = name[len(prefix) : len(name) - len(suffix)]
            found.add(re.sub("%([0-9A-F]{2})", lambda sign: chr(int(sign[1], 16)), name))
    return sorted(found - {""})


def _of_class(
    lines: NumberLines, label: int, positions: Mapping[str, int], problems: Problems, path: Path
) -> ScoredBoxes:
    """Make columns of the lines of one class; images that are not listed are ``UNKNOWN``."""
    names = dict(enumerate(dict.fromkeys(lines.names)))
    matched = match_images(names, positions, str(path))
    by_name = {name: matched.get(number, UNKNOWN) for number, name in names.items()}
    images = np.fromiter((by_name[name] for name in lines.names), np.int32, len(lines))
    problems.add_rows(
        UNKNOWN_NAME,
        images == UNKNOWN,
        lambda row: (lines.place(row), f"image {lines.names[row]!r}"),
    )
    labels = np.full(len(lines), label, dtype=np.int32)
    return ScoredBoxes(images, labels, lines.values[:, 0], lines.values[:, 1:])


def _empty() -> ScoredBoxes:
    none = np.zeros(0, dtype=np.int32)
    return ScoredBoxes(none, none, np.zeros(0), np.zeros((0, 4)))


def _pattern(source: Path) -> tuple[Path, str, str]:
    """Split where results files lie into the folder and what stands around a class's name."""
    for mark in ("*", "%s", "{}"):
        if mark in source.name:
            return source.parent, *source.name.split(mark, 1)  # type: ignore[return-value]
    return source, VOC_PREFIX, ".txt"


def _literal(text: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", text)


def _class_files(source: Path, class_names: Sequence[str]) -> list[Path | None]:
    """Find each class's file, ``[C]``."""
    folder, prefix, suffix = _pattern(source)
    files: list[Path | None] = []
    for file, name in zip(voc_file_names(class_names), class_names, strict=True):
        spelt = (file.removeprefix(VOC_PREFIX).removesuffix(".txt"), name)
        paths = (
            folder / f"{prefix}{n}{suffix}{packed}" for n in spelt for packed in ("", ".gz", ".xz")
        )
        files.append(next((path for path in paths if path.is_file()), None))
    return files


def _missing_files(source: Path, names: Sequence[str]) -> str:
    folder, prefix, suffix = _pattern(source)
    if source.is_file():
        return (
            f"{source}: is a file; give the folder of the results files, or a path with "
            "* in place of the class's name"
        )
    if not folder.is_dir():
        return f"{folder}: is no folder; give the folder of the results files"
    first = voc_file_names(names)[0].removeprefix(VOC_PREFIX).removesuffix(".txt")
    more = f" nor one of {len(names) - 1} other classes" if len(names) > 1 else ""
    run = "; a run's files lie in its folder voc" if (folder / "voc").is_dir() else ""
    return (
        f"{folder}: holds no {prefix}{first}{suffix}{more}; write the file, empty if nothing of "
        f"the class was detected, or list the classes to be scored with classes=FILE{run}"
    )
