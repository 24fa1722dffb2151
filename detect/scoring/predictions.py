"""Results files of ILSVRC and VOC -> columns, with every line checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.ilsvrc import Synsets
from detect.data.problems import InputError, Kind, Problems
from detect.data.voc import VOC_PREFIX, voc_file_names
from detect.scoring.lines import NumberLines, read_number_lines
from detect.scoring.run_names import (
    DROPPED,
    lone_list_note,
    match_classes,
    match_images,
    matching_notes,
    read_run_names,
)
from detect.scoring.tables import GroundTruth, ScoredBoxes

ILSVRC_FORM = "image_id class_id score xmin ymin xmax ymax"
VOC_FORM = "name score xmin ymin xmax ymax"
DROPPABLE = ("malformed", "not_finite", "unknown_image", "unknown_class")  # lines, by what is wrong
_FEW = 20  # boxes, from which the layout of a file shows
_UNKNOWN = -2  # in place of an image or class that is none

UNKNOWN_ID = Kind(
    "unknown_image",
    "is not in the image list, whose second column holds the ids, from 1",
    "score with the list the file was made for, or leave such lines out with drop=[unknown_image]",
)
UNKNOWN_NAME = Kind(
    "unknown_image",
    "is not in the image list",
    "score with the list the file was made for, or leave such lines out with drop=[unknown_image]",
)
INVERTED = Kind(
    "inverted",
    "ends before it begins, as most boxes of the file do",
    "write xmin ymin xmax ymax, not x y width height; official=true takes boxes as they are",
)
UNKNOWN_CLASS = Kind(
    "unknown_class",
    "is none of the classes, whose ids start at 1",
    "correct the lines, or leave them out with drop=[unknown_class]",
)


def read_ilsvrc_predictions(
    path: Path,
    truth: GroundTruth,
    synsets: Synsets,
    *,
    drop: Collection[str] = (),
    any_score: bool = False,
) -> tuple[ScoredBoxes, list[str]]:
    """Read lines ``image_id class_id score xmin ymin xmax ymax``, 1-based inclusive.

    Args:
        path: The file, plain, .gz or .xz; empty if nothing was detected.
        truth: The images of the ground truth.
        synsets: The classes; matched by name or WordNet id where the file comes from a run.
        drop: Leave out lines that are wrong in these ways, out of ``DROPPABLE``.
        any_score: Take numbers that are not finite.

    Returns:
        The detections, and notes for the reader of the scores.

    Raises:
        InputError: Names the first lines that are malformed, not finite, or of no image or class,
            and how many there are.
    """
    check_choices("drop", drop, DROPPABLE)
    # The devkit's code looks for the classes it knows, and passes over the others.
    problems = Problems(str(path), [*drop, "unknown_class"] if any_score else drop)
    lines = read_number_lines(path, 7, ILSVRC_FORM, problems, any_number=any_score)
    names, notes = read_run_names(path), []
    if names is None:
        images = dict(zip(truth.image_ids.tolist(), range(truth.num_images), strict=True))
        classes = {label + 1: label for label in range(len(synsets.names))}
        notes += lone_list_note(path)
    else:
        by_name = {name: i for i, name in enumerate(truth.names)}
        images = match_images(names.images, by_name, str(path.parent / "images.txt"))
        known = {**synsets.label_of(), **{name: i for i, name in enumerate(synsets.names)}}
        classes = match_classes(names.classes, known, str(path.parent / "categories.json"))
        notes = matching_notes(path, names, classes)
    found = ScoredBoxes(
        images=_translate(lines.values[:, 0], images),
        labels=_translate(lines.values[:, 1], classes),
        scores=lines.values[:, 2],
        corners=lines.values[:, 3:],
    )
    for what, column, kind, translated in (
        ("image id", 0, UNKNOWN_ID, found.images),
        ("class id", 1, UNKNOWN_CLASS, found.labels),
    ):

        def describe(row: int, what: str = what, column: int = column) -> tuple[str, str]:
            value = lines.values[row, column]
            text = f"{what} {int(value) if value.is_integer() else value}"
            if names is not None and column == 0 and value in names.images:
                text = f"{text}, {names.images[int(value)]!r},"
            return lines.place(row), text

        problems.add_rows(kind, translated == _UNKNOWN, describe)
    _check_inverted(found, lines, problems, any_score)
    problems.raise_if_any()
    if dropped := int(np.count_nonzero(found.labels == DROPPED)):
        notes.append(f"{path}: {dropped} detections of these classes left out")
    return _kept(found), [*notes, *problems.notes()]


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
        _check_inverted(found, lines, problems, any_score)
        try:
            problems.raise_if_any()
        except InputError as error:
            messages.append(str(error))
        parts.append(_kept(found))
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


def check_choices(setting: str, chosen: Collection[str], choices: Sequence[str]) -> Collection[str]:
    """Return what was chosen.

    Raises:
        InputError: If something is no choice.
    """
    for name in chosen:
        if name not in choices:
            raise InputError(f"{setting}: no choice {name!r}; there are {', '.join(choices)}")
    return chosen


def _translate(numbers: NDArray[np.float64], table: Mapping[int, int]) -> NDArray[np.int32]:
    """Look whole numbers up, ``[N]`` -> ``[N]``; ``_UNKNOWN`` where the table has none."""
    keys = np.array(sorted(table), dtype=np.float64)  # ids are below 2^53
    values = np.array([*(table[int(key)] for key in keys), _UNKNOWN], dtype=np.int32)
    if len(keys) and keys[0] >= 0 and keys[-1] < 10 * len(keys) + 1e6:  # a table is faster
        places = np.full(int(keys[-1]) + 2, len(keys))
        places[keys.astype(np.int64)] = np.arange(len(keys))
        within = (numbers >= 0) & (numbers <= keys[-1])
        with np.errstate(invalid="ignore"):
            at = places[np.where(within, numbers, len(places) - 1).astype(np.int64)]
    else:
        at = np.searchsorted(keys, numbers)
    right = np.append(keys, np.nan)[at] == numbers
    return values[np.where(right, at, len(keys))]


def _check_inverted(
    found: ScoredBoxes, lines: NumberLines, problems: Problems, any_box: bool
) -> None:
    """Refuse files most of whose boxes end before they begin: they have another layout.

    A few boxes tell nothing: the devkits score such boxes, and so does a test of a scorer.
    """
    xmin, ymin, xmax, ymax = found.corners.T
    inverted = (xmax < xmin) | (ymax < ymin)
    few = len(found) < _FEW or 2 * int(np.count_nonzero(inverted)) <= len(found)
    if any_box or few:
        return
    problems.add_rows(
        INVERTED,
        inverted,
        lambda row: (lines.place(row), " ".join(f"{v:.12g}" for v in found.corners[row])),
    )


def _of_class(
    lines: NumberLines, label: int, positions: Mapping[str, int], problems: Problems, path: Path
) -> ScoredBoxes:
    """Make columns of the lines of one class; images that are not listed are ``_UNKNOWN``."""
    names = dict(enumerate(dict.fromkeys(lines.names)))
    matched = match_images(names, positions, str(path))
    by_name = {name: matched.get(number, _UNKNOWN) for number, name in names.items()}
    images = np.fromiter((by_name[name] for name in lines.names), np.int32, len(lines))
    problems.add_rows(
        UNKNOWN_NAME,
        images == _UNKNOWN,
        lambda row: (lines.place(row), f"image {lines.names[row]!r}"),
    )
    labels = np.full(len(lines), label, dtype=np.int32)
    return ScoredBoxes(images, labels, lines.values[:, 0], lines.values[:, 1:])


def _kept(found: ScoredBoxes) -> ScoredBoxes:
    """Leave out detections of no image or class."""
    keep = (found.images >= 0) & (found.labels >= 0)
    return found if keep.all() else found[keep]


def form_notes(found: ScoredBoxes, truth: GroundTruth, path: Path) -> list[str]:
    """Tell what is strange and yet allowed: no detections, boxes that are none or leave."""
    if not len(found):
        return [f"{path}: holds no detection"]
    notes = []
    xmin, ymin, xmax, ymax = found.corners.T
    if inverted := int(np.count_nonzero((xmax < xmin) | (ymax < ymin))):
        notes.append(f"{path}: {inverted} of {len(found)} boxes end before they begin")
    if truth.sizes.any():
        width, height = truth.sizes[found.images].T
        leaving = (xmin < 0) | (ymin < 0) | (xmax > width + 1) | (ymax > height + 1)
        if count := int(np.count_nonzero(leaving & (width > 0))):
            notes.append(f"{path}: {count} of {len(found)} boxes leave their image by over a pixel")
    return notes


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
