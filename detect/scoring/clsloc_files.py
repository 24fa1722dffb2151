"""Score the files of ILSVRC's classification and localisation task (CLS-LOC).

Formats as in sections 3.1 to 3.3 of the ILSVRC 2014 devkit's readme. Predictions, labels and names
of images share one order: the number of the line is all that ties them together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.annotations import read_annotations
from detect.data.ilsvrc import NUM_CLSLOC_CLASSES, read_clsloc_synsets
from detect.data.problems import InputError, Kind, Problems, check_choices
from detect.data.sources import first_repeated, read_lines, read_text
from detect.scoring.clsloc import ClsLocTruth, score_clsloc
from detect.scoring.clsloc_guesses import read_guesses
from detect.scoring.clsloc_scores import ClsLocScores

DROPPABLE = ("malformed", "unknown_class", "not_finite", "no_boxes")


def score_clsloc_files(
    predictions: Path,
    image_list: Path | None,
    ground_truth: Path,
    annotations: Path | None = None,
    classes: Path | None = None,
    blacklist: Path | None = None,
    *,
    drop: Collection[str] = (),
    official: bool = False,
    boxes: bool | None = None,
) -> ClsLocScores:
    """Score a submission file.

    Args:
        predictions: One line an image: up to five of ``label xmin ymin xmax ymax``, or for
            classification alone of bare labels; ``read_guesses`` says how they are told apart.
        image_list: Lines ``name id`` or ``name``, in the order of the lines of the other files;
            ``None`` for ILSVRC2012_val_00000001 and so on.
        ground_truth: One class id a line.
        annotations: Folder or tar archive of the XML files; blacklisted images need none. Without
            it, localisation is left out.
        classes: meta_clsloc.mat, or lines ``wnid id name``. Without it, the classes are 1..1000,
            named by their ids, and localisation cannot be judged.
        blacklist: Positions of the images that localisation leaves out, one a line.
        drop: What to count as wrong guesses, of ``malformed``, ``unknown_class``, ``not_finite``;
            ``no_boxes`` leaves images without a box of their class out of localisation.
        official: Judge as the devkit does where it gives a number: it takes guesses of unknown
            classes for wrong, and images without a box of their class unless it has to judge one.
        boxes: Whether guesses have boxes; ``None`` to find out.

    Raises:
        InputError: If a file is missing or malformed, or files do not belong together.
    """
    check_choices("drop", drop, DROPPABLE)
    synsets = read_clsloc_synsets(classes) if classes else None
    class_names = synsets.names if synsets else tuple(map(str, range(1, NUM_CLSLOC_CLASSES + 1)))
    labels = read_image_labels(ground_truth, len(class_names))
    names = read_image_names(image_list, len(labels))
    blacklisted = read_image_blacklist(blacklist, len(labels))
    accepted = {*drop, "unknown_class"} if official else drop
    guesses, notes = read_guesses(
        predictions, len(labels), len(class_names), drop=accepted, boxes=boxes
    )
    truth = ClsLocTruth(names, labels, blacklisted)
    if annotations is not None and guesses.corners is not None:
        if synsets is None:
            raise InputError(
                f"{annotations}: names classes by WordNet id; give the class list that has them, "
                "classes=meta_clsloc.mat"
            )
        truth = _with_objects(truth, annotations, synsets.wnids)
    scores = score_clsloc(guesses, truth, class_names, drop=drop, official=official)
    return replace(scores, notes=(*notes, *scores.notes))


def read_image_labels(path: Path, num_classes: int = NUM_CLSLOC_CLASSES) -> NDArray[np.int32]:
    """Read the class of every image, one id from 1 a line.

    Returns:
        Classes from 0, ``[I]``.

    Raises:
        InputError: If the file is empty, or names the lines that are no class id.
    """
    lines = read_text(path).rstrip().split("\n")
    if lines == [""]:
        raise InputError(f"{path}: is empty; write the class id of every image on a line")
    kind = Kind(
        "malformed",
        f"is not a class id, 1..{num_classes}",
        "the ground truth has one id a line; correct it, or give the class list it belongs to",
    )
    problems, labels = Problems(str(path)), []
    for number, line in enumerate(lines, start=1):
        labels.append(_whole(line))
        if not 1 <= labels[-1] <= num_classes:
            problems.add(kind, f"line {number}", repr(line.strip()))
    problems.raise_if_any()
    return np.array(labels, dtype=np.int32) - np.int32(1)


def read_image_names(path: Path | None, num_images: int) -> tuple[str, ...]:
    """Read the names of the images: lines ``name id``, or ``name`` alone; a name may hold spaces.

    The order of the lines counts, not the ids. A suffix .JPEG is taken off.

    Args:
        path: The list; ``None`` for the validation images' own names by position.
        num_images: Number of names there must be.

    Raises:
        InputError: If there are more or fewer names, or a name occurs twice.
    """
    if path is None:
        return tuple(f"ILSVRC2012_val_{i:08d}" for i in range(1, num_images + 1))
    lines = [line.strip() for _, line in read_lines(path)]
    parts = [line.rsplit(maxsplit=1) for line in lines]
    if all(len(part) == 2 and _whole(part[1]) >= 0 for part in parts):
        lines = [part[0] for part in parts]
        ids = [_whole(part[1]) for part in parts]
        for i, (before, after) in enumerate(pairwise(ids)):
            if after <= before:
                raise InputError(
                    f"{path}, image {i + 2}: {lines[i + 1]!r} has id {after} after {before}; list "
                    "the images in the order of the lines of the predictions"
                )
    names = tuple(re.sub(r"\.jpe?g$", "", line, flags=re.IGNORECASE) for line in lines)
    if len(names) != num_images:
        raise InputError(
            f"{path}: names {len(names)} images, and the ground truth has {num_images}; "
            "give the list that belongs to it"
        )
    if (repeated := first_repeated(names)) is not None:
        raise InputError(f"{path}: names {repeated!r} twice; every image has one line")
    return names


def read_image_blacklist(path: Path | None, num_images: int) -> NDArray[np.bool_]:
    """Read the images that localisation leaves out: one position from 1 a line; ``None`` for none.

    Returns:
        Whether each image is blacklisted, ``[I]``.

    Raises:
        InputError: Names the lines that are no position of an image, or repeat one.
    """
    outside = Kind(
        "blacklist",
        f"is not the position of an image, 1..{num_images}",
        "give the blacklist that belongs to the ground truth",
    )
    twice = Kind("blacklist_twice", "is blacklisted a second time", "remove the line")
    problems, blacklisted = Problems(str(path)), np.zeros(num_images, np.bool_)
    for number, line in [] if path is None else read_lines(path):
        position = _whole(line)
        if not 1 <= position <= num_images:
            problems.add(outside, f"line {number}", repr(line.strip()))
        elif blacklisted[position - 1]:
            problems.add(twice, f"line {number}", f"image {position}")
        else:
            blacklisted[position - 1] = True
    problems.raise_if_any()
    return blacklisted


def _with_objects(truth: ClsLocTruth, annotations: Path, wnids: Sequence[str]) -> ClsLocTruth:
    """Read the objects of the images' own classes; blacklisted images stay without."""
    judged = np.ones(len(truth.names), bool) if truth.blacklisted is None else ~truth.blacklisted
    positions = np.flatnonzero(judged).tolist()
    found = read_annotations(annotations, [truth.names[i] for i in positions])
    images = np.array(positions, dtype=np.int32)[found.images]  # [M]
    own = np.array(
        [name == wnids[truth.labels[i]] for name, i in zip(found.classes, images, strict=True)],
        dtype=np.bool_,
    )
    images, corners = images[own], found.corners[own]
    return replace(truth, images=images, corners=corners, source=str(annotations))


def _whole(text: str) -> int:
    """Return a whole number, -1 if it is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else -1
