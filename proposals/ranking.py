"""The order of selective search's boxes: which to try first when not all can be tried.

Two orders of the same boxes. R-CNN's knows only how late a region arose and mixes hierarchies by
chance. The other one estimates from what the hierarchies hold anyway how well a region fits an
object, and puts off boxes that overlap better ones, since a second hit of an object gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.evidence import Evidence, box_codes, gather
from proposals.grouping import Hierarchy
from proposals.ranking_table import HIDDEN, OUTPUT
from proposals.votes import measure_areas, overlaps_with

_HEAD = 1000  # so many boxes are kept apart; the rest follows by what is left of its score
_OVERLAP = 0.5  # IoU from which a box repeats another one, the lowest that recall asks for
_REPETITION = 2.0  # loss of score for each further unit of IoU with each box before it
_BLOCK = 64  # scores of which the best is remembered
_TAKEN = -(2**30)  # below any score, and no loss carries it out of 32 bits
_UNITS = 65536  # scores are integers of this many a unit: equal on every machine


def order_by_rcnn(
    hierarchies: Sequence[Hierarchy], width: int, height: int, *, seed: int = 0, min_side: int = 1
) -> NDArray[np.int32]:
    """Order boxes as R-CNN did.

    The last merge of a hierarchy has rank 1, the initial regions the highest ranks; boxes are
    sorted by rank times a random number.

    Args:
        hierarchies: Of one image.
        width: Of that image, in pixels.
        height: Likewise.
        seed: Of the random numbers.
        min_side: Drop boxes with a shorter side, except that of the whole image.

    Returns:
        Distinct half-open ``xyxy`` boxes, best first, ``[N, 4]``.
    """
    boxes = np.concatenate([h.boxes for h in hierarchies])
    ranks = np.concatenate([np.arange(len(h.sizes), 0, -1) for h in hierarchies])
    keys = ranks * np.random.default_rng(seed).random(len(ranks))
    boxes = boxes[np.argsort(keys, kind="stable")]
    boxes = boxes[_large_enough(boxes, width, height, min_side)]
    _, first = np.unique(box_codes(boxes, width, height), return_index=True)
    return np.asarray(boxes[np.sort(first)])


def _large_enough(
    boxes: NDArray[np.int32], width: int, height: int, side: int
) -> NDArray[np.bool_]:
    """Tell which boxes have no side below ``side`` or are that of the whole image, ``[N]``."""
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = (sides == [width, height]).all(axis=1)
    return np.asarray(whole | (sides.min(axis=1) >= side))


def order_by_evidence(evidence: Sequence[Evidence], width: int, height: int) -> NDArray[np.int32]:
    """Order boxes by how well they seem to fit objects, near-duplicates of better ones later.

    Equal boxes of several regions count once, by the best of the regions. Ties go to the smaller
    box, then the smaller coordinates, so that the order of the hierarchies does not matter.

    Args:
        evidence: About each hierarchy of an image.
        width: Of the image, in pixels.
        height: Likewise.

    Returns:
        Distinct half-open ``xyxy`` boxes, best first, ``[N, 4]``.
    """
    boxes, regions, features = gather(evidence, width, height)
    units = np.full(len(boxes), _TAKEN, dtype=np.int32)
    np.maximum.at(units, regions, np.rint(scores(features) * _UNITS).astype(np.int32))
    return np.asarray(boxes[_spread(boxes, units)])


def scores(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the logarithm of how well regions fit objects, ``[M, F] -> [M]``, at most 0."""
    return np.asarray(_scores(features, HIDDEN, OUTPUT))


_HIDDEN_UNITS = HIDDEN.shape[1]  # known to the compiler, which keeps them all in one register


@njit(cache=True, nogil=True)
def _scores(
    features: NDArray[np.float64], hidden: NDArray[np.float64], output: NDArray[np.float64]
) -> NDArray[np.float64]:
    # Sums in one order, which those of a matrix product are not on every machine.
    count, width = features.shape
    weights = hidden.reshape((width + 1) * _HIDDEN_UNITS)
    units = np.empty(_HIDDEN_UNITS)
    scores = np.empty(count)
    for i in range(count):
        for u in range(_HIDDEN_UNITS):
            units[u] = weights[width * _HIDDEN_UNITS + u]
        for f in range(width):
            feature = features[i, f]
            for u in range(_HIDDEN_UNITS):
                units[u] += feature * weights[f * _HIDDEN_UNITS + u]
        logit = output[_HIDDEN_UNITS]
        for u in range(_HIDDEN_UNITS):
            logit += max(units[u], 0.0) * output[u]
        scores[i] = min(logit, 0.0) - np.log1p(np.exp(-abs(logit)))
    return scores


@njit(cache=True, nogil=True)
def _spread(boxes: NDArray[np.int32], units: NDArray[np.int32]) -> NDArray[np.int64]:
    """Order boxes greedily: the best first, what overlaps it loses, and so on.

    Args:
        boxes: Sorted by area, ``[N, 4]``.
        units: Their scores, at most 0, ``[N]``; ties go to the first.

    Returns:
        The order, ``[N]``.
    """
    count = len(boxes)
    blocks = (count + _BLOCK - 1) // _BLOCK
    left = np.full(blocks * _BLOCK, _TAKEN, dtype=np.int32)
    left[:count] = units
    tops = np.empty(blocks, dtype=np.int32)  # the best of each block
    for block in range(blocks):
        tops[block] = _best(left, block)
    areas = measure_areas(boxes)
    corners = np.ascontiguousarray(boxes.T).astype(np.float32)
    iou = np.empty(count, dtype=np.float32)
    zero, overlap = np.float32(0), np.float32(_OVERLAP)
    loss = np.float32(_REPETITION * _UNITS)
    order = np.empty(count, dtype=np.int64)
    head = min(_HEAD, count)
    for place in range(head):
        top = int(np.argmax(tops))
        i = top * _BLOCK
        while left[i] != tops[top]:
            i += 1
        order[place] = i
        begin = np.searchsorted(areas, areas[i] * overlap)
        end = np.searchsorted(areas, areas[i] / overlap, side="right")
        overlaps = iou[: end - begin]
        overlaps_with(corners, areas, i, begin, end, overlaps)
        near = left[begin:end]
        for j in range(len(near)):
            repeated = overlaps[j] - overlap
            near[j] -= np.int32((repeated if repeated > zero else zero) * loss)
        left[i] = _TAKEN
        for block in range(begin // _BLOCK, (end - 1) // _BLOCK + 1):
            tops[block] = _best(left, block)
    rest = np.argsort(-left[:count], kind="mergesort")
    order[head:] = rest[: count - head]
    return order


@njit(cache=True, nogil=True, inline="always")
def _best(left: NDArray[np.int32], block: int) -> np.int32:
    """Return the best score of a block."""
    best: np.int32 = left[block * _BLOCK]
    for score in left[block * _BLOCK : (block + 1) * _BLOCK]:
        best = score if score > best else best
    return best
