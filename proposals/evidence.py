"""What the hierarchies of selective search tell about how well a region fits an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.grouping import Hierarchy
from proposals.neighbours import Neighbours
from proposals.votes import count_votes

FEATURES = (
    "log area",
    "log region area",
    "log aspect",
    "elongation",
    "width",
    "height",
    "borders",
    "border share",
    "log size to sibling",
    "area in parent",
    "child in area",
    "outer contrast",
    "inner contrast",
    "next contrast",
    "boundary length",
    "rank",
    "log leaves",
    "votes 0.7",
    "votes 0.9",
    "votes 1.0",
)
NUM_OWN = len(FEATURES) - 3  # all but the votes


class Evidence(NamedTuple):
    """What one hierarchy tells; only regions whose box is large enough, or the whole image.

    Attributes:
        boxes: Half-open ``xyxy`` pixels, int32 ``[M, 4]``.
        features: The ``FEATURES`` of these regions, without the votes, float64 ``[M, F - 3]``.
    """

    boxes: NDArray[np.int32]
    features: NDArray[np.float64]


def gather(
    evidence: Sequence[Evidence], width: int, height: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """Join the evidence of all hierarchies of an image, and let them vote.

    Args:
        evidence: What ``describe`` found in each hierarchy.
        width: Of the image, in pixels.
        height: Likewise.

    Returns:
        The distinct boxes sorted by area, then coordinates, ``[N, 4]``; the box of each region,
        ``[M]``; and the ``FEATURES`` of each region, ``[M, F]``.
    """
    boxes = np.concatenate([e.boxes for e in evidence])
    distinct, regions = _sort_by_area(boxes, width, height)
    votes = count_votes(distinct, regions, np.cumsum([len(e.boxes) for e in evidence]))
    agreement = np.log(votes / len(evidence))
    features = [np.concatenate([e.features for e in evidence]), agreement[regions]]
    return distinct, regions, np.concatenate(features, axis=1)


def box_codes(boxes: NDArray[np.int32], width: int, height: int) -> NDArray[np.int64]:
    """Give each box one number, in the order of the coordinates."""
    x1, y1, x2, y2 = boxes.T.astype(np.int64)
    return np.asarray((x1 * height + y1) * (width * height) + (x2 - 1) * height + (y2 - 1))


def _sort_by_area(
    boxes: NDArray[np.int32], width: int, height: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the distinct boxes sorted by area, then coordinates, and where each box went."""
    codes = box_codes(boxes, width, height)
    order = np.argsort(codes)  # in any order where equal: those are the same box
    codes = codes[order]
    new = np.append(True, codes[1:] != codes[:-1])
    number = np.empty(len(boxes), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    distinct = boxes[order[new]]
    sides = (distinct[:, 2:] - distinct[:, :2]).astype(np.int64)
    count = len(distinct)
    order = np.argsort(sides[:, 0] * sides[:, 1] * count + np.arange(count))
    place = np.empty(count, dtype=np.int64)
    place[order] = np.arange(count)
    return distinct[order], place[number]


@njit(cache=True, nogil=True)
def boundaries(
    parents: NDArray[np.int32], neighbours: Neighbours
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Measure where regions end, and where their two parts met.

    Args:
        parents: Of a hierarchy, ``[2 R - 1]``.
        neighbours: What touches in the initial regions.

    Returns:
        For every region the pixel edges to other regions, the sum of their weights, the pixel
        edges between the two regions it was merged from, and the sum of their weights.
    """
    pairs, lengths, contrasts = neighbours
    length = np.zeros(len(parents), dtype=np.int64)
    contrast = np.zeros(len(parents), dtype=np.int64)
    inner = np.zeros(len(parents), dtype=np.int64)
    inner_contrast = np.zeros(len(parents), dtype=np.int64)
    for e in range(len(pairs)):
        a, b = pairs[e]
        for leaf in (a, b):
            length[leaf] += lengths[e]
            contrast[leaf] += contrasts[e]
        while a != b:  # up to the region in which they are one; parents have higher numbers
            if a < b:
                a = np.int64(parents[a])
            else:
                b = np.int64(parents[b])
        inner[a] += lengths[e]
        inner_contrast[a] += contrasts[e]
    for region in range(len(parents)):  # children come before their parents
        length[region] -= 2 * inner[region]
        contrast[region] -= 2 * inner_contrast[region]
        parent = parents[region]
        if parent >= 0:
            length[parent] += length[region]
            contrast[parent] += contrast[region]
    return length, contrast, inner, inner_contrast


@njit(cache=True, nogil=True)
def describe(
    hierarchy: Hierarchy, neighbours: Neighbours, width: int, height: int, min_side: int
) -> Evidence:
    """Gather the evidence about the regions of a hierarchy.

    Args:
        hierarchy: To be described.
        neighbours: What touches in its initial regions.
        width: Of the image, in pixels.
        height: Likewise.
        min_side: Leave out boxes with a shorter side.
    """
    boxes, sizes, parents, _ = hierarchy
    length, contrast, inner, inner_contrast = boundaries(parents, neighbours)
    count = len(sizes)
    area, child, leaves = _sum_up(boxes, parents)
    # Contrasts are relative to the usual one of the image; + 1 where there may be no edges.
    usual = (inner_contrast.sum() + 1) / (inner.sum() + 1)
    outer = (contrast + 1) / (length + 1) / usual
    kept = np.empty((count, 4), dtype=np.int32)
    features = np.empty((count, NUM_OWN))
    num_kept = 0
    for i in range(count):
        x1, y1, x2, y2 = boxes[i]
        if min(x2 - x1, y2 - y1) < min_side and (x2 - x1 < width or y2 - y1 < height):
            continue
        kept[num_kept] = boxes[i]
        row = features[num_kept]
        num_kept += 1
        w, h = float(x2 - x1), float(y2 - y1)
        left_right = int(x1 == 0) + int(x2 == width)
        top_bottom = int(y1 == 0) + int(y2 == height)
        border = left_right * h + top_bottom * w
        parent = parents[i] if i + 1 < count else i
        row[0] = np.log(area[i] / (width * height))
        row[1] = np.log(sizes[i] / (width * height))
        row[2] = np.log(w / h)
        row[3] = abs(row[2])
        row[4] = w / width
        row[5] = h / height
        row[6] = left_right + top_bottom
        row[7] = border / (2 * (w + h))
        sibling = max(sizes[parent] - sizes[i], 1)
        row[8] = np.log(sizes[i] / sibling)
        row[9] = area[i] / area[parent]
        row[10] = child[i] / area[i]
        row[11] = np.log(outer[i])
        row[12] = np.log((inner_contrast[i] + 1) / (inner[i] + 1) / usual)
        row[13] = outer[parent]
        row[14] = min(length[i] / max(2 * (w + h) - border, 1.0), 5.0)
        row[15] = (count - i) / count
        row[16] = np.log(leaves[i])
    return Evidence(kept[:num_kept], features[:num_kept])


@njit(cache=True, nogil=True)
def _sum_up(
    boxes: NDArray[np.int32], parents: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return of every region the area of its box, that of its larger child's, and its leaves."""
    count = len(parents)
    area, child, leaves = np.empty(count), np.zeros(count), np.zeros(count)
    for i in range(count):  # children come before their parents
        area[i] = np.int64(boxes[i, 2] - boxes[i, 0]) * np.int64(boxes[i, 3] - boxes[i, 1])
        leaves[i] = max(leaves[i], 1)
        if i + 1 < count:
            leaves[parents[i]] += leaves[i]
            child[parents[i]] = max(child[parents[i]], area[i])
    return area, child, leaves
