"""Guesses at the classes of images and the places of their objects, every line checked.

The format is that of section 3.3 of the ILSVRC 2014 devkit's readme.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.ilsvrc import NUM_CLSLOC_CLASSES
from detect.data.problems import InputError, Kind, Problems
from detect.data.sources import read_text
from detect.scoring.clsloc_scores import GUESSES

NO_GUESS = -1

_BOX_FORM = "'label xmin ymin xmax ymax', once for each guess"
_LABEL_FORM = "a list of labels"
_HALF, _NEARLY_ALL = 0.5, 0.9  # see read_guesses


@dataclass(frozen=True)
class Guesses:
    """What was guessed for every image, best first.

    Attributes:
        labels: Classes from 0; ``NO_GUESS``, which may stand anywhere, is never right, int32
            ``[I, K]``.
        corners: 1-based inclusive ``xmin, ymin, xmax, ymax``, float64 ``[I, K, 4]``; ``None`` where
            only classes were guessed.
    """

    labels: NDArray[np.int32]
    corners: NDArray[np.float64] | None = None


def read_guesses(
    path: Path,
    num_images: int,
    num_classes: int = NUM_CLSLOC_CLASSES,
    *,
    drop: Collection[str] = (),
    boxes: bool | None = None,
) -> tuple[Guesses, tuple[str, ...]]:
    """Read predictions: one line an image, the best guess first; a blank line guesses nothing.

    A guess is ``label xmin ymin xmax ymax``; in a file for classification alone it is a bare label.
    Labels are ILSVRC ids from 1, which do not follow the order of the WordNet ids as the classes of
    torchvision's networks do. Which form it is, the file as a whole tells, unless ``boxes`` does:

    - Boxes, if at least half of the lines have a multiple of five numbers, and of all groups of
      five at least 9 in 10 have ``xmin <= xmax`` and ``ymin <= ymax``. Of labels without any order,
      1 in 4 groups does.
    - Labels, if at least half of the lines have at most five numbers, at least 9 in 10 numbers are
      whole, and either fewer than half of the lines have a multiple of five numbers, or at most
      half of the groups are such boxes.
    - Anything else is refused.

    Args:
        path: The file, plain, .gz or .xz.
        num_images: Number of lines it must have; blank ones after them do no harm.
        num_classes: Labels are 1..num_classes.
        drop: What to count as wrong guesses, of ``malformed``, ``unknown_class``, ``not_finite``; a
            malformed line has no guesses.
        boxes: Whether guesses have boxes.

    Returns:
        The guesses, ``[I, 5]``, and notes for the reader of the scores.

    Raises:
        InputError: If the file is empty, has more or fewer lines, leaves open what it holds, or if
            a guess is wrong in a way that is not dropped.
    """
    lines = _image_lines(path, num_images)
    numbers, counts, bad = _parse(lines)
    notes: list[str] = []
    if boxes is None:
        boxes, notes = _has_boxes(path, numbers, counts)
    form, width = (_BOX_FORM, 5) if boxes else (_LABEL_FORM, 1)
    bad |= counts % width != 0
    problems = Problems(str(path), drop, "counted as wrong")
    malformed = Kind("malformed", f"is not {form}", _remedy("write the line again", "malformed"))
    problems.add_rows(malformed, bad, lambda i: (f"line {i + 1}", repr(lines[i].strip())))
    used = np.where(bad, 0, np.minimum(counts, GUESSES * width))
    surplus = np.flatnonzero(~bad & (used < counts))
    if len(surplus):
        notes.append(
            f"{path}: {len(surplus)} lines have more than {GUESSES} guesses, the first of them "
            f"line {surplus[0] + 1}; only the first {GUESSES} count"
        )
    table = _dense(numbers, counts, used, GUESSES * width).reshape(num_images, GUESSES, width)
    there = np.arange(GUESSES) < (used // width)[:, None]  # [I, 5]
    guesses = _check(table, there, num_classes, problems)
    problems.raise_if_any()
    return guesses, (*notes, *problems.notes(), *_inverted(path, guesses))


def _image_lines(path: Path, num_images: int) -> list[str]:
    text = read_text(path)
    if not text:
        raise InputError(f"{path}: is empty; write one line an image, blank for no guess")
    lines = text.removesuffix("\n").split("\n")
    while len(lines) > num_images and not lines[-1].strip():
        lines.pop()
    if surplus := len(lines) - num_images:
        raise InputError(
            f"{path}: has {len(lines)} lines for {num_images} images, {abs(surplus)} too "
            f"{'many' if surplus > 0 else 'few'}; write one line an image, in the order of the "
            "ground truth, blank for no guess"
        )
    return lines


def _parse(
    lines: Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return all numbers, how many each line has, and which lines hold anything else."""
    rows: list[list[float]] = []
    bad = np.zeros(len(lines), np.bool_)
    for i, line in enumerate(lines):
        try:
            rows.append([*map(float, line.split())])
        except ValueError:
            rows.append([])
            bad[i] = True
        if "_" in line:  # to float() a separator of digits
            rows[i], bad[i] = [], True
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    numbers = np.fromiter(chain.from_iterable(rows), np.float64, int(counts.sum()))
    return numbers, counts, bad


def _has_boxes(
    path: Path, numbers: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[bool, list[str]]:
    """Tell boxes from bare labels, by the rule that ``read_guesses`` states."""
    if not len(numbers):
        return True, []
    groups = numbers[np.repeat(counts % 5 == 0, counts)].reshape(-1, 5)
    groups = groups[np.isfinite(groups).all(axis=1)]
    ordered = (groups[:, 1] <= groups[:, 3]) & (groups[:, 2] <= groups[:, 4])
    boxes = float(ordered.mean()) if len(ordered) else 0.0
    fives, short = (np.mean(fits[counts > 0]) for fits in (counts % 5 == 0, counts <= GUESSES))
    note = "{}: a line of five numbers was taken for {}; if it is not, give boxes={}"
    if fives >= _HALF and boxes >= _NEARLY_ALL:
        return True, [note.format(path, "a label and its box", "false")] if short == 1 else []
    whole = np.mean(numbers == np.floor(numbers))
    if short >= _HALF and whole >= _NEARLY_ALL and (fives < _HALF or boxes <= _HALF):
        return False, [note.format(path, "five labels", "true")] if fives == 1 else []
    raise InputError(
        f"{path}: its lines are neither clearly {_BOX_FORM}, nor clearly lists of labels: "
        f"{fives:.0%} of them have a multiple of five numbers, {short:.0%} at most five, and "
        f"{boxes:.0%} of the groups of five have xmin <= xmax and ymin <= ymax; "
        "say which with boxes=true or boxes=false"
    )


def _dense(
    numbers: NDArray[np.float64],
    counts: NDArray[np.int64],
    used: NDArray[np.int64],
    columns: int,
) -> NDArray[np.float64]:
    """Put the first ``used`` of the ``counts`` numbers of every line into a table, the rest 0."""
    columns_of = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((len(counts), columns))
    table[np.arange(columns) < used[:, None]] = numbers[columns_of < np.repeat(used, counts)]
    return table


def _check(
    table: NDArray[np.float64], there: NDArray[np.bool_], num_classes: int, problems: Problems
) -> Guesses:
    """Turn numbers, ``[I, 5, width]``, into guesses; wrong ones are ``NO_GUESS``."""

    def describe(n: int) -> tuple[str, str]:
        image, guess = divmod(n, GUESSES)
        numbers = " ".join(f"{value:.10g}" for value in table[image, guess])
        return f"line {image + 1}, guess {guess + 1}", f"'{numbers}'"

    infinite = ~np.isfinite(table).all(axis=2)  # absent guesses are zeros
    label = table[..., 0]
    known = (label >= 1) & (label <= num_classes) & (label == np.floor(label))
    unknown = there & ~infinite & ~known
    not_finite = _remedy("labels and boxes are finite numbers", "not_finite")
    problems.add_rows(Kind("not_finite", "is not finite", not_finite), infinite.ravel(), describe)
    unknown_class = _remedy("ids start at 1, as the class list gives them", "unknown_class")
    problems.add_rows(
        Kind("unknown_class", f"has no class id of 1..{num_classes}", unknown_class),
        unknown.ravel(),
        describe,
    )
    usable = there & ~infinite & ~unknown
    labels = np.where(usable, label, NO_GUESS + 1).astype(np.int32) - np.int32(1)
    if table.shape[2] == 1:
        return Guesses(labels)
    return Guesses(labels, np.where(usable[..., None], table[..., 1:], 0.0))


def _inverted(path: Path, guesses: Guesses) -> list[str]:
    if guesses.corners is None:
        return []
    x1, y1, x2, y2 = np.moveaxis(guesses.corners, -1, 0)
    images, _ = np.nonzero((x2 < x1) | (y2 < y1))
    if not len(images):
        return []
    return [
        f"{path}: {len(images)} boxes have xmax < xmin or ymax < ymin and so find nothing, the "
        f"first in line {images[0] + 1}"
    ]


def _remedy(what: str, kind: str) -> str:
    return f"{what}, or count such guesses as wrong with drop=[{kind}]"
