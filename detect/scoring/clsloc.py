"""ILSVRC classification and localisation (CLS-LOC), as the devkit's eval_clsloc.m computes it.

Up to five guesses an image count. An image is classified if one of the first k has its label, and
localised if the box of such a guess overlaps one of the image's objects by an IoU of at least 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.data.problems import InputError, Kind, Problems
from detect.data.sources import read_annotations
from detect.scoring.clsloc_files import (
    GUESSES,
    NO_GUESS,
    NUM_CLASSES,
    Guesses,
    read_clsloc_synsets,
    read_guesses,
    read_image_blacklist,
    read_image_labels,
    read_image_names,
)

DROPPABLE = ("malformed", "unknown_class", "not_finite", "no_boxes")
IOU_THRESHOLD = 0.5
NO_BOXES = Kind(
    "no_boxes",
    "has no box of its class",
    "correct its annotation, blacklist it, or leave such images out of localisation with "
    "drop=[no_boxes]",
)

Errors = tuple[float | None, ...]


@dataclass(frozen=True)
class ClsLocTruth:
    """The class of every image, and where its objects are.

    Attributes:
        names: Names of the images, ``[I]``.
        labels: Class of each image from 0, int32 ``[I]``.
        blacklisted: Images that localisation leaves out, bool ``[I]``; ``None`` for no image.
        images: Position of each object's image, in any order, int32 ``[M]``; objects of other
            classes than their image's do not belong here. ``None`` where no box is known.
        corners: 1-based inclusive ``xmin, ymin, xmax, ymax`` of the objects, float64 ``[M, 4]``.
        source: What messages call the annotations.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int32]
    blacklisted: NDArray[np.bool_] | None = None
    images: NDArray[np.int32] | None = None
    corners: NDArray[np.float64] | None = None
    source: str = "annotations"


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


def score_clsloc(
    guesses: Guesses,
    truth: ClsLocTruth,
    class_names: Sequence[str],
    *,
    drop: Collection[str] = (),
    official: bool = False,
) -> ClsLocScores:
    """Score guesses as ILSVRC does.

    The blacklist is for localisation alone. An image without a box of its class cannot be judged
    once a guess has the right label: the devkit's code stops there. Before that it is simply wrong.

    Args:
        guesses: The guesses on every image; those after the fifth do not count.
        truth: The images.
        class_names: Names of the classes, ``[C]``.
        drop: ``no_boxes`` leaves images without a box of their class out of localisation.
        official: Refuse images without a box only where the devkit stops, and count the others as
            wrong, as it does; by default all such images are refused.

    Raises:
        ValueError: If columns disagree in length, a label is no class, an object's image is none,
            or a box is not finite.
        InputError: Names images that have no box of their class, unless they are dropped.
    """
    labels = _checked_labels(guesses, truth, len(class_names))  # [I, 5]
    named = labels == truth.labels[:, None]  # [I, 5]
    classified = _first(named)
    notes: list[str] = []
    localised, judged = None, np.zeros(len(labels), np.bool_)
    if guesses.corners is None:
        notes.append("Localisation was not judged: the predictions have no boxes.")
    elif truth.images is None or truth.corners is None:
        notes.append("Localisation was not judged: there are no annotations with boxes.")
    else:
        problems = Problems(truth.source, drop, "left out of localisation")
        judged = _judged(truth, named, problems, official)
        problems.raise_if_any()
        notes += problems.notes()
        localised = _localised(named, guesses.corners[:, :GUESSES], truth.images, truth.corners)
    return ClsLocScores(
        format="clsloc",
        protocol="ilsvrc-clsloc",
        num_images=len(labels),
        num_localised=int(judged.sum()),
        classification=_errors(classified),
        localisation=None if localised is None else _errors(localised[judged]),
        classes=_classes(class_names, truth.labels, classified, localised, judged),
        notes=tuple(notes),
    )


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
    unknown = [name for name in drop if name not in DROPPABLE]
    if unknown:
        raise InputError(f"drop=[{', '.join(unknown)}]: choose of {', '.join(DROPPABLE)}")
    synsets = read_clsloc_synsets(classes) if classes else None
    class_names = synsets.names if synsets else tuple(map(str, range(1, NUM_CLASSES + 1)))
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


def to_json(scores: ClsLocScores) -> dict[str, Any]:
    """Return what scores.json holds; undefined numbers are ``None``."""
    localisation = scores.localisation or (None,) * GUESSES
    errors = zip(scores.classification, localisation, strict=True)
    return {
        "format": scores.format,
        "protocol": scores.protocol,
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
    lines.append("")
    judged = f", {scores.num_localised} of them judged for localisation" * bool(scores.localisation)
    return "\n".join([*lines, f"{scores.num_images} images{judged}", *scores.notes])


def _with_objects(truth: ClsLocTruth, annotations: Path, wnids: Sequence[str]) -> ClsLocTruth:
    """Read the objects of the images' own classes; blacklisted images stay without."""
    judged = np.ones(len(truth.names), bool) if truth.blacklisted is None else ~truth.blacklisted
    positions = np.flatnonzero(judged).tolist()
    found = read_annotations(annotations, [truth.names[i] for i in positions])
    objects = [
        (i, *entry.corners)
        for i, annotation in zip(positions, found, strict=True)
        for entry in annotation.objects
        if entry.name == wnids[truth.labels[i]]
    ]
    table = np.array(objects, dtype=np.float64).reshape(-1, 5)
    images, corners = table[:, 0].astype(np.int32), table[:, 1:]
    return replace(truth, images=images, corners=corners, source=str(annotations))


def _checked_labels(guesses: Guesses, truth: ClsLocTruth, num_classes: int) -> NDArray[np.int32]:
    """Return the labels of exactly five guesses an image, ``[I, 5]``."""
    blacklisted = truth.labels if truth.blacklisted is None else truth.blacklisted
    if not len(guesses.labels) == len(truth.labels) == len(truth.names) == len(blacklisted):
        raise ValueError(
            f"guesses on {len(guesses.labels)} images, {len(truth.labels)} labels, "
            f"{len(truth.names)} names, {len(blacklisted)} of a blacklist: need one for each image"
        )
    images = np.zeros(0, np.int32) if truth.images is None else truth.images
    for what, values, low, count in (
        ("labels of the guesses", guesses.labels, NO_GUESS, num_classes),
        ("labels of the images", truth.labels, 0, num_classes),
        ("images of the objects", images, 0, len(truth.names)),
    ):
        if values.size and not low <= values.min() <= values.max() < count:
            raise ValueError(
                f"{what} are {values.min()}..{values.max()}, not within {low}..{count - 1}"
            )
    for corners in (guesses.corners, truth.corners):
        if corners is not None and not np.isfinite(corners).all():
            raise ValueError("a corner of a box is not a finite number")
    missing = max(0, GUESSES - guesses.labels.shape[1])
    labels = guesses.labels[:, :GUESSES]
    return np.pad(labels, ((0, 0), (0, missing)), constant_values=NO_GUESS)


def _judged(
    truth: ClsLocTruth, named: NDArray[np.bool_], problems: Problems, official: bool
) -> NDArray[np.bool_]:
    """Return the images that count for localisation, ``[I]``."""
    counts = np.bincount(truth.images, minlength=len(named))  # type: ignore[arg-type]
    judged: NDArray[np.bool_] = np.ones(len(named), np.bool_)
    if truth.blacklisted is not None:
        judged &= ~truth.blacklisted
    boxless = judged & (counts == 0)
    if official and not problems.accepts(NO_BOXES):
        boxless &= named.any(axis=1)
    problems.add_rows(NO_BOXES, boxless, lambda i: (f"image {i + 1}", truth.names[i]))
    judged &= ~boxless
    return judged


def _localised(
    named: NDArray[np.bool_],
    corners: NDArray[np.float64],
    images: NDArray[np.int32],
    objects: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return which guess is the first to localise each image, 0..4, 5 for none, ``[I]``.

    Args:
        named: Guesses of the right class, ``[I, 5]``.
        corners: Their boxes, ``[I, K, 4]``, K up to 5.
        images: Position of each object's image, ``[M]``.
        objects: Their boxes, ``[M, 4]``.
    """
    found = named[images, : corners.shape[1]] & (_iou(corners[images], objects) >= IOU_THRESHOLD)
    first = np.full(len(named), GUESSES)
    np.minimum.at(first, images, _first(found))
    return first


def _iou(corners: NDArray[np.float64], objects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return IoU with the devkit's operations, ``[M, K, 4]`` and ``[M, 4]`` -> ``[M, K]``."""
    x1, y1, x2, y2 = np.moveaxis(corners, -1, 0)  # [M, K]
    left, top, right, bottom = objects.T[..., None]  # [M, 1]
    with np.errstate(over="ignore", invalid="ignore"):  # of sides beyond 1e154 pixels
        width = np.minimum(x2, right) - np.maximum(x1, left) + 1
        height = np.minimum(y2, bottom) - np.maximum(y1, top) + 1
        both = width * height
        area = (x2 - x1 + 1) * (y2 - y1 + 1) + (right - left + 1) * (bottom - top + 1) - both
        overlap: NDArray[np.float64] = np.zeros_like(both)  # [M, K]
        np.divide(both, area, out=overlap, where=(width > 0) & (height > 0))
    return overlap


def _first(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the position of the first right guess, ``GUESSES`` for none, ``[N, K]`` -> ``[N]``."""
    ranks = np.where(right, np.arange(right.shape[1]), GUESSES)
    first: NDArray[np.int64] = ranks.min(axis=1, initial=GUESSES)
    return first


def _errors(first: NDArray[np.int64]) -> Errors:
    """Return the share of images that are wrong with the first 1, 2, ... 5 guesses."""
    if not len(first):
        return (None,) * GUESSES
    return tuple(int((first >= k).sum()) / len(first) for k in range(1, GUESSES + 1))


def _classes(
    names: Sequence[str],
    labels: NDArray[np.int32],
    classified: NDArray[np.int64],
    localised: NDArray[np.int64] | None,
    judged: NDArray[np.bool_],
) -> tuple[ClsLocClass, ...]:
    def count(images: NDArray[np.bool_]) -> list[int]:
        counts: list[int] = np.bincount(labels[images], minlength=len(names)).tolist()
        return counts

    missed = judged if localised is None else judged & (localised >= GUESSES)
    columns = zip(
        count(classified >= 0),
        count(classified >= 1),
        count(classified >= GUESSES),
        count(judged),
        count(missed),
        strict=True,
    )
    return tuple(
        ClsLocClass(
            id=label + 1,
            name=names[label],
            images=images,
            top1_error=wrong1 / images if images else None,
            top5_error=wrong5 / images if images else None,
            localisation_error=unlocalised / boxed if boxed else None,
        )
        for label, (images, wrong1, wrong5, boxed, unlocalised) in enumerate(columns)
    )
