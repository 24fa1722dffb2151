"""Average precision by size and by crowding: which objects are hard to find."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    average_precision,
)
from detect.scoring.matches import Matches

SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32.0**2, 96.0**2)  # square pixels, where medium and large start; COCO

CROWDINGS = ("alone", "1-3 others", "4 or more others")
CROWDING_LIMITS = (1, 4)  # other objects of the class in the image


@dataclass(frozen=True)
class GroupScore:
    """How well one group of objects was found.

    Attributes:
        name: What the objects have in common.
        ap: Mean over the classes with objects in the group, and over the IoU thresholds, 0..1;
            ``None`` where the group is empty.
        positives: Objects of the group that are to be found.
        found: Of them, those found at the first IoU threshold.
    """

    name: str
    ap: float | None
    positives: int
    found: int


def score_groups(matches: Matches) -> dict[str, tuple[GroupScore, ...]]:
    """Score objects group by group.

    Sizes are COCO's: small below 32 x 32 square pixels of the box, large from 96 x 96 on. Crowding
    is the number of other objects of the class in the image that are to be found.

    A detection that was given an object outside the group is ignored. A false positive counts in
    the group of its own size, as COCO does with unmatched detections; in all groups of crowding,
    because it has none itself: their APs compare with each other, not with the AP of all objects.
    Objects are given once, over all groups; COCO gives them anew for each size, and its sizes are
    those of segments, so that its ``AP_small`` can differ a little.

    Returns:
        ``size`` and ``crowding`` with their groups, in the order of ``SIZES`` and ``CROWDINGS``.
    """
    every = np.full(len(matches.found), -1)
    return {
        "size": _score(matches, SIZES, sizes(matches.truth.corners), sizes(matches.found.corners)),
        "crowding": _score(matches, CROWDINGS, crowding(matches), every),
    }


def sizes(corners: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index into ``SIZES`` of boxes given by 1-based inclusive corners, ``[N]``."""
    areas: NDArray[np.float64] = np.prod(corners[:, 2:] - corners[:, :2] + 1, axis=1)
    return np.searchsorted(SIZE_LIMITS, areas, side="right")


def crowding(matches: Matches) -> NDArray[np.intp]:
    """Return the index into ``CROWDINGS`` of every object, ``[M]``."""
    truth = matches.truth
    keys = truth.images.astype(np.int64) * matches.num_classes + truth.labels
    distinct, which = np.unique(keys, return_inverse=True)
    counts = np.bincount(which[matches.to_find], minlength=len(distinct))
    others = counts[which] - matches.to_find
    return np.searchsorted(CROWDING_LIMITS, others, side="right")


def _score(
    matches: Matches,
    names: tuple[str, ...],
    object_groups: NDArray[np.intp],
    detection_groups: NDArray[np.intp],
) -> tuple[GroupScore, ...]:
    """Score each group; a false positive of group -1 counts in all."""
    labels = matches.truth.labels
    scores = []
    for group, name in enumerate(names):
        members = matches.to_find & (object_groups == group)
        positives = np.bincount(labels[members], minlength=matches.num_classes)
        counts_here = (detection_groups == group) | (detection_groups == -1)
        outcomes = [
            _within(matches, threshold, members, counts_here)
            for threshold in range(len(matches.outcomes))
        ]
        aps = [
            average_precision(of_threshold[start:end], int(positives[label]), matches.rule)
            for label in np.flatnonzero(positives)
            for start, end in [matches.class_starts[label : label + 2]]
            for of_threshold in outcomes
        ]
        scores.append(
            GroupScore(
                name=name,
                ap=math.fsum(aps) / len(aps) if aps else None,
                positives=int(positives.sum()),
                found=int(np.count_nonzero(outcomes[0] == TRUE_POSITIVE)),
            )
        )
    return tuple(scores)


def _within(
    matches: Matches, threshold: int, members: NDArray[np.bool_], counts_here: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Return what detections are to a group, ``[N]``: those of no concern to it are ignored."""
    outcomes: NDArray[np.int8] = matches.outcomes[threshold].copy()
    true = np.flatnonzero(outcomes == TRUE_POSITIVE)
    outcomes[true[~members[matches.objects[threshold][true]]]] = IGNORED
    outcomes[(outcomes == FALSE_POSITIVE) & ~counts_here] = IGNORED
    return outcomes
