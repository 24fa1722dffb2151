"""Hierarchical grouping: join the two most similar neighbouring regions until one is left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from proposals.regions import COLOUR_BINS, Regions
from proposals.similarity import ONE, Pairs, shape_similarity
from proposals.texture import TEXTURE_BINS


class Hierarchy(NamedTuple):
    """A tree of regions: the ``R`` given ones, then ``R - 1`` unions in the order they were made.

    Attributes:
        boxes: Half-open ``xyxy`` pixels, int32 ``[2 R - 1, 4]``.
        sizes: Pixels, int64 ``[2 R - 1]``.
        parents: The union that each region went into, -1 for the last, int32 ``[2 R - 1]``.
        similarities: Of the two parts of each union, 0 for given regions, float64 ``[2 R - 1]``.
    """

    boxes: NDArray[np.int32]
    sizes: NDArray[np.int64]
    parents: NDArray[np.int32]
    similarities: NDArray[np.float64]


class _Graph(NamedTuple):
    """Who touches whom: a pair has two cells, ``c`` and ``c ^ 1``, in the chains of either region.

    Attributes:
        first: First cell of each region's chain, -1 if empty.
        following: Next cell of the chain, -1 after the last.
        neighbour: The other region of the pair, -1 once the cell is void.
        score: Similarity; kept in the chain of the region with the smaller number.
    """

    first: NDArray[np.int32]
    following: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    score: NDArray[np.float64]


class _Best(NamedTuple):
    """The best pair of each region with a larger number, and the best of each block of regions."""

    score: NDArray[np.float64]  # -inf: none
    partner: NDArray[np.int32]
    block: NDArray[np.float64]


_BLOCK = 64  # regions


@njit(cache=True, nogil=True)
def _link(pairs: NDArray[np.int64], scores: NDArray[np.float64], num_nodes: int) -> _Graph:
    """Chain the neighbours of each region."""
    first = np.full(num_nodes, -1, dtype=np.int32)
    following = np.empty(2 * len(pairs), dtype=np.int32)
    neighbour = np.empty(2 * len(pairs), dtype=np.int32)
    score = np.empty(2 * len(pairs))
    for cell in range(2 * len(pairs)):
        region = pairs[cell // 2, cell % 2]
        neighbour[cell] = pairs[cell // 2, 1 - cell % 2]
        score[cell] = scores[cell // 2]
        following[cell] = first[region]
        first[region] = cell
    return _Graph(first, following, neighbour, score)


@njit(cache=True, nogil=True, inline="always")
def _set_best(best: _Best, region: int | np.int32, score: float, partner: int) -> None:
    """Note a region's best pair, and that of its block."""
    before = best.score[region]
    best.score[region] = score
    best.partner[region] = partner
    block = region // _BLOCK
    if score >= best.block[block]:
        best.block[block] = score
    elif before == best.block[block]:
        best.block[block] = best.score[block * _BLOCK : (block + 1) * _BLOCK].max()


@njit(cache=True, nogil=True, inline="always")
def _search_best(graph: _Graph, best: _Best, region: int) -> None:
    """Find a region's best pair among its neighbours, dropping void cells from its chain.

    Of equal pairs the one with the smallest number counts.
    """
    top, partner = -np.inf, -1
    previous, cell = -1, graph.first[region]
    while cell != -1:
        other = graph.neighbour[cell]
        if other == -1:
            if previous == -1:
                graph.first[region] = graph.following[cell]
            else:
                graph.following[previous] = graph.following[cell]
        else:
            previous = cell
            score = graph.score[cell]
            if other > region and (score > top or (score == top and other < partner)):
                top, partner = score, other
        cell = graph.following[cell]
    _set_best(best, region, top, partner)


@njit(cache=True, nogil=True)
def _search_all(graph: _Graph, count: int) -> _Best:
    """Find the best pair of each of the given regions; make room for those of unions."""
    blocks = (len(graph.first) + _BLOCK - 1) // _BLOCK
    best = _Best(
        np.full(blocks * _BLOCK, -np.inf),
        np.full(blocks * _BLOCK, -1, dtype=np.int32),
        np.full(blocks, -np.inf),
    )
    for region in range(count):
        _search_best(graph, best, region)
    return best


@njit(cache=True, nogil=True, inline="always")
def _argmax(best: _Best) -> np.int32:
    """Return the first region whose best pair is the best of all."""
    top = 0
    for block in range(1, best.block.size):
        if best.block[block] > best.block[top]:
            top = block
    region = top * _BLOCK
    while best.score[region] != best.block[top]:
        region += 1
    return np.int32(region)


@njit(cache=True, nogil=True, inline="always")
def _inherit(graph: _Graph, a: np.int32, b: np.int32, new: int, met: NDArray[np.int32]) -> None:
    """Give the neighbours of two joined regions to their union, each once."""
    last = -1
    part, cell = a, graph.first[a]
    while True:
        if cell == -1:
            if part == b:
                break
            part, cell = b, graph.first[b]
            continue
        following = graph.following[cell]
        other = graph.neighbour[cell]
        if other in (a, b) or (other != -1 and met[other] == new):
            graph.neighbour[cell] = -1
            graph.neighbour[cell ^ 1] = -1
        elif other != -1:
            met[other] = new
            graph.neighbour[cell ^ 1] = new
            if last == -1:
                graph.first[new] = cell
            else:
                graph.following[last] = cell
            last = cell
        cell = following
    if last != -1:
        graph.following[last] = -1


class _Histograms(NamedTuple):
    """One kind of histogram of all regions, in flat arrays, which are read without overhead."""

    counts: NDArray[np.int32]  # [(2 R - 1) * bins]
    shares: NDArray[np.uint16]  # [(2 R - 1) * bins]
    bins: np.uint64  # unsigned indices spare the test for negative ones


@njit(cache=True, nogil=True)
def _make_histograms(
    counts: NDArray[np.int32], shares: NDArray[np.uint16], used: bool
) -> _Histograms:
    """Copy the histograms of the given regions to longer arrays, if they are used at all."""
    regions, bins = counts.shape
    room = (2 * regions - 1) * bins if used else 0
    histograms = _Histograms(
        np.empty(room, dtype=np.int32), np.empty(room, dtype=np.uint16), np.uint64(bins)
    )
    if used:
        histograms.counts[: counts.size] = counts.ravel()
        histograms.shares[: shares.size] = shares.ravel()
    return histograms


@njit(cache=True, nogil=True, inline="always")
def _unite(histograms: _Histograms, a: np.int32, b: np.int32, new: int, size: int) -> None:
    """Add up the histograms of two regions."""
    counts, shares, bins = histograms
    start_a, start_b, start = np.uint64(a) * bins, np.uint64(b) * bins, np.uint64(new) * bins
    scale = np.float32(ONE / size)
    for i in range(bins):
        count = np.int32(counts[start_a + i] + counts[start_b + i])
        counts[start + i] = count
        shares[start + i] = np.uint16(np.float32(count) * scale)


@njit(cache=True, nogil=True, inline="always")
def _overlap(histograms: _Histograms, a: np.int32, b: int) -> int:
    """Return the intersection of the histograms of two regions, as ``intersect``."""
    shares, bins = histograms.shares, histograms.bins
    start_a, start_b = np.uint64(a) * bins, np.uint64(b) * bins
    total = np.uint32(0)
    for i in range(bins):
        total = np.uint32(total + min(shares[start_a + i], shares[start_b + i]))
    return int(total)


@njit(cache=True, nogil=True)
def group(regions: Regions, pairs: Pairs, weights: NDArray[np.float64]) -> Hierarchy:
    """Join regions greedily, the most similar neighbours first.

    Of equally similar pairs the one with the smallest numbers ``(i, j)``, ``i < j``, goes first;
    the ``m``-th merge makes region ``R + m``.

    Args:
        regions: The ``R`` regions of a segmentation.
        pairs: Those that touch.
        weights: Of colour, texture, size and fill similarity, ``[4]``.
    """
    count = len(regions.sizes)
    num_nodes = 2 * count - 1
    area = regions.sizes.sum()
    sizes = np.empty(num_nodes, dtype=np.int64)
    boxes = np.empty((num_nodes, 4), dtype=np.int32)
    sizes[:count] = regions.sizes
    boxes[:count] = regions.boxes
    parents = np.full(num_nodes, -1, dtype=np.int32)
    similarities = np.zeros(num_nodes)
    colour = _make_histograms(regions.colour, pairs.colours, weights[0] > 0)
    texture = _make_histograms(regions.texture, pairs.textures, weights[1] > 0)
    colour_unit = regions.colour.shape[1] // COLOUR_BINS * float(ONE)
    texture_unit = regions.texture.shape[1] // TEXTURE_BINS * float(ONE)

    scores = np.empty(len(pairs.regions))
    for e in range(len(scores)):
        i, j = pairs.regions[e]
        likeness = weights[0] * pairs.colour[e] + weights[1] * pairs.texture[e]
        scores[e] = likeness + shape_similarity(i, j, sizes, boxes, weights, area)
    graph = _link(pairs.regions, scores, num_nodes)
    best = _search_all(graph, count)

    met = np.zeros(num_nodes, dtype=np.int32)  # the last union that met this region
    for new in range(count, num_nodes):
        a = _argmax(best)
        b = best.partner[a]
        similarities[new] = best.score[a]
        parents[a] = parents[b] = new
        _set_best(best, a, -np.inf, -1)
        _set_best(best, b, -np.inf, -1)
        sizes[new] = sizes[a] + sizes[b]
        for side in range(2):
            boxes[new, side] = min(boxes[a, side], boxes[b, side])
            boxes[new, side + 2] = max(boxes[a, side + 2], boxes[b, side + 2])
        if weights[0] > 0:
            _unite(colour, a, b, new, sizes[new])
        if weights[1] > 0:
            _unite(texture, a, b, new, sizes[new])
        _inherit(graph, a, b, new, met)
        cell = graph.first[new]
        while cell != -1:
            other = graph.neighbour[cell]
            score = 0.0
            if weights[0] > 0:
                score += weights[0] * (_overlap(colour, other, new) / colour_unit)
            if weights[1] > 0:
                score += weights[1] * (_overlap(texture, other, new) / texture_unit)
            score += shape_similarity(other, new, sizes, boxes, weights, area)
            graph.score[cell ^ 1] = score
            partner = best.partner[other]
            if partner in (a, b):
                _search_best(graph, best, other)
            elif score > best.score[other]:
                _set_best(best, other, score, new)
            cell = graph.following[cell]
    return Hierarchy(boxes, sizes, parents, similarities)
