"""ILSVRC classification and localisation (CLS-LOC), as the devkit's eval_clsloc.m computes it.

Up to five guesses an image count. An image is classified if one of the first k has its label, and
localised if the box of such a guess overlaps one of the image's objects by an IoU of at least 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.data.problems import Kind, Problems
from detect.scoring.clsloc_guesses import NO_GUESS, Guesses
from detect.scoring.clsloc_scores import GUESSES, ClsLocClass, ClsLocScores, Errors

IOU_THRESHOLD = 0.5
NO_BOXES = Kind(
    "no_boxes",
    "has no box of its class",
    "correct its annotation, blacklist it, or leave such images out of localisation with "
    "drop=[no_boxes]",
)


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
