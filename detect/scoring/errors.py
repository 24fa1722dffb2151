"""Why detections are wrong and objects are missing, and what each kind of error costs.

After Bolya, Foley, Hays & Hoffman, "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020. Departures: an object keeps the threshold that its protocol gives it (ILSVRC:
small objects are easier to hit); fixes that claim the same object compete within their kind alone,
so that a gain is what fixing this kind and nothing else would add; and a class without any object
left to find leaves the mean, as it does in the protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    Rule,
    average_precision,
)
from detect.scoring.matches import Matches
from detect.scoring.matching import overlap

ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)

BACKGROUND_THRESHOLD = 0.1  # IoU below which a detection has nothing to do with an object; TIDE


@dataclass(frozen=True)
class ErrorAnalysis:
    """The errors of detections at the first IoU threshold.

    Attributes:
        kinds: Index into ``ERRORS`` of each detection's error, -1 for true positives and ignored
            ones, int8 ``[N]``.
        targets: The object the error is about, the best overlapped of those that make it this
            kind; -1 where there is none, int32 ``[N]``.
        overlaps: IoU with that object, 0 where there is none, float64 ``[N]``.
        missed: Objects that nothing found and no classification or localisation error is about,
            bool ``[M]``.
        unfound: All objects to be found that no detection got, bool ``[M]``.
        counts: Number of errors of each kind, in the order of ``ERRORS``.
        gains: What fixing all errors of a kind, and no others, would add to the mean AP at the
            first IoU threshold, 0..1; beside the kinds of ``ERRORS`` also ``false positives`` (all
            removed) and ``false negatives`` (all objects not found taken off the list).
        confusion: Detections by class of the object (rows) and class detected (columns): true
            positives on the diagonal, classification errors beside it, int64 ``[C, C]``.
    """

    kinds: NDArray[np.int8]
    targets: NDArray[np.int32]
    overlaps: NDArray[np.float64]
    missed: NDArray[np.bool_]
    unfound: NDArray[np.bool_]
    counts: dict[str, int]
    gains: dict[str, float]
    confusion: NDArray[np.int64]


def analyse_errors(
    matches: Matches, on_progress: Callable[[], object] = lambda: None
) -> ErrorAnalysis:
    """Find out of every false positive and every object not found what went wrong.

    Objects that are not to be found (difficult, crowd, blacklisted) explain nothing. Of the others
    in its image, a false positive is, the first that applies:

    - localisation: of its class it overlaps one by at least 0.1, and found none that was taken;
    - classification: it reaches the threshold of one of another class;
    - duplicate: it reaches the threshold of one of its class that was taken;
    - both: it overlaps one by at least 0.1;
    - background: it overlaps none by that much.

    Fixing a classification or localisation error makes the detection a true positive (of the
    object's class) if the object was not found and no better scored error of the kind is about it;
    else the detection is removed, as errors of the other kinds are. Fixing a missed object takes it
    off the list of those to be found.

    Args:
        matches: What became of every detection; only the first IoU threshold is looked at.
        on_progress: Called after each of the eight gains.
    """
    outcomes, objects = matches.outcomes[0], matches.objects[0]
    truth, num_classes = matches.truth, matches.num_classes
    taken = np.zeros(len(truth.labels), dtype=np.bool_)
    taken[objects[outcomes == TRUE_POSITIVE]] = True
    kinds, targets, overlaps = _explain(
        outcomes == FALSE_POSITIVE,
        matches.found.images,
        matches.found.labels,
        matches.found.corners,
        np.searchsorted(truth.images, np.arange(truth.num_images + 1)),
        truth.labels,
        truth.corners,
        matches.to_find,
        taken,
        matches.iou_thresholds[0],
    )
    unfound = matches.to_find & ~taken
    missed = unfound.copy()
    missed[targets[(kinds == CLASSIFICATION) | (kinds == LOCALISATION)]] = False
    counts = [*np.bincount(kinds[kinds >= 0], minlength=MISSED)[:MISSED], missed.sum()]
    return ErrorAnalysis(
        kinds=kinds,
        targets=targets,
        overlaps=overlaps,
        missed=missed,
        unfound=unfound,
        counts={name: int(count) for name, count in zip(ERRORS, counts, strict=True)},
        gains=_gains(matches, kinds, targets, unfound, missed, on_progress),
        confusion=_confusion(matches, kinds == CLASSIFICATION, targets, num_classes),
    )


def _confusion(
    matches: Matches, confused: NDArray[np.bool_], targets: NDArray[np.int32], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs of the object's class and the detected class, ``[C, C]``."""
    correct = matches.outcomes[0] == TRUE_POSITIVE
    objects = np.where(correct, matches.objects[0], targets)[correct | confused]
    columns = matches.found.labels[correct | confused]
    cells = matches.truth.labels[objects].astype(np.int64) * num_classes + columns
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


def _gains(
    matches: Matches,
    kinds: NDArray[np.int8],
    targets: NDArray[np.int32],
    unfound: NDArray[np.bool_],
    missed: NDArray[np.bool_],
    on_progress: Callable[[], object],
) -> dict[str, float]:
    """Return what each fix adds to the mean AP; all 0 where there is nothing to be found."""
    starts, positives, rule = matches.class_starts, matches.positives, matches.rule
    outcomes = matches.outcomes[0]
    before = _mean_ap(outcomes, starts, positives, rule)

    def removed(errors: NDArray[np.bool_]) -> NDArray[np.int8]:
        return np.where(errors, np.int8(IGNORED), outcomes)

    def gain(
        outcomes: NDArray[np.int8],
        starts: NDArray[np.intp] = starts,
        positives: NDArray[np.int64] = positives,
    ) -> float:
        after = _mean_ap(outcomes, starts, positives, rule)
        on_progress()
        if before is None:
            return 0.0
        # Nothing left to find means that nothing was found before: the whole 1 is lost by it.
        return (1.0 if after is None else after) - before

    def without(objects: NDArray[np.bool_]) -> NDArray[np.int64]:
        return positives - np.bincount(matches.truth.labels[objects], minlength=len(positives))

    winners = {
        kind: _best_per_object(matches, np.flatnonzero(kinds == kind), targets, unfound)
        for kind in (CLASSIFICATION, LOCALISATION)
    }
    localised = removed(kinds == LOCALISATION)
    localised[winners[LOCALISATION]] = TRUE_POSITIVE
    relabelled = _with_relabelled(
        matches, removed(kinds == CLASSIFICATION), winners[CLASSIFICATION], targets
    )
    return {
        "classification": gain(*relabelled),
        "localisation": gain(localised),
        **{ERRORS[kind]: gain(removed(kinds == kind)) for kind in (BOTH, DUPLICATE, BACKGROUND)},
        "missed": gain(outcomes, positives=without(missed)),
        "false positives": gain(removed(outcomes == FALSE_POSITIVE)),
        "false negatives": gain(outcomes, positives=without(unfound)),
    }


def _best_per_object(
    matches: Matches,
    errors: NDArray[np.intp],
    targets: NDArray[np.int32],
    unfound: NDArray[np.bool_],
) -> NDArray[np.intp]:
    """Return, for every object not found that errors are about, the best scored of them."""
    errors = errors[unfound[targets[errors]]]
    errors = errors[np.argsort(-matches.found.scores[errors], kind="stable")]
    _, first = np.unique(targets[errors], return_index=True)
    return errors[first]


def _with_relabelled(
    matches: Matches,
    outcomes: NDArray[np.int8],
    winners: NDArray[np.intp],
    targets: NDArray[np.int32],
) -> tuple[NDArray[np.int8], NDArray[np.intp]]:
    """Put detections into the classes of their objects as true positives, after equal scores.

    Returns:
        The outcomes with them, and where each class starts in these, ``[C + 1]``.
    """
    starts, scores = matches.class_starts, matches.found.scores
    labels = matches.truth.labels[targets[winners]]
    order = np.argsort(labels, kind="stable")
    winners, labels = winners[order], labels[order]
    positions = np.zeros(len(winners), dtype=np.intp)
    for label in np.unique(labels):
        start, end = starts[label : label + 2]
        own = labels == label
        ranks = np.searchsorted(-scores[start:end], -scores[winners[own]], side="right")
        positions[own] = start + ranks
    added = np.cumsum(np.bincount(labels, minlength=matches.num_classes))
    return np.insert(outcomes, positions, TRUE_POSITIVE), starts + np.append(0, added)


def _mean_ap(
    outcomes: NDArray[np.int8], starts: NDArray[np.intp], positives: NDArray[np.int64], rule: Rule
) -> float | None:
    """Return the mean AP over the classes with objects, ``None`` where no class has any."""
    aps = [
        average_precision(outcomes[starts[label] : starts[label + 1]], int(positives[label]), rule)
        for label in np.flatnonzero(positives)
    ]
    return float(np.mean(aps)) if aps else None


@numba.njit(cache=True, nogil=True)
def _explain(
    false_positive: NDArray[np.bool_],
    images: NDArray[np.int32],
    labels: NDArray[np.int32],
    corners: NDArray[np.float64],
    starts: NDArray[np.intp],
    object_labels: NDArray[np.int32],
    object_corners: NDArray[np.float64],
    to_find: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float64]]:
    """Return kind, target and overlap of each false positive; -1, -1 and 0 of the others.

    ``starts`` says where the objects of each image start, ``[I + 1]``.
    """
    kinds = np.full(len(images), -1, np.int8)
    targets = np.full(len(images), -1, np.int32)
    overlaps = np.zeros(len(images))
    best = np.empty(BACKGROUND)  # for each kind, the object that best makes the detection one
    best_object = np.empty(BACKGROUND, np.int32)
    for i in range(len(images)):
        if not false_positive[i]:
            continue
        best[:] = 0.0
        best_object[:] = -1
        for j in range(starts[images[i]], starts[images[i] + 1]):
            iou = max(0.0, overlap(corners[i], object_corners[j])) if to_find[j] else 0.0
            same, reached = labels[i] == object_labels[j], iou >= thresholds[j]
            for kind, applies in (
                (CLASSIFICATION, reached and not same),
                (LOCALISATION, same),
                (BOTH, True),  # any object
                (DUPLICATE, same and reached and taken[j]),
            ):
                if applies and iou > best[kind]:
                    best[kind], best_object[kind] = iou, j
        if best_object[DUPLICATE] < 0 and best[LOCALISATION] >= BACKGROUND_THRESHOLD:
            kind = chosen = LOCALISATION
        elif best_object[CLASSIFICATION] >= 0:
            kind = chosen = CLASSIFICATION
        elif best_object[DUPLICATE] >= 0:
            kind = chosen = DUPLICATE
        else:
            chosen = BOTH
            kind = BOTH if best[BOTH] >= BACKGROUND_THRESHOLD else BACKGROUND
        kinds[i], targets[i], overlaps[i] = kind, best_object[chosen], best[chosen]
    return kinds, targets, overlaps
