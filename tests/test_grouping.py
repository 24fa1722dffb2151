"""Region features and hierarchical grouping against plain dictionaries and sums."""

import numpy as np
import pytest
from numpy.typing import NDArray

from proposals.grouping import find_neighbours, group
from proposals.similarity import (
    ONE,
    ORIENTATIONS,
    TEXTURE_BINS,
    Regions,
    measure,
    texture_codes,
)

WEIGHTS = [(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
Labels = NDArray[np.int32]


def random_regions(height: int, width: int, count: int, seed: int) -> Labels:
    """Grow regions from random pixels until they fill the image."""
    rng = np.random.default_rng(seed)
    labels = np.full((height, width), -1, dtype=np.int32)
    seeds = rng.permutation(height * width)[:count]
    labels.ravel()[seeds] = np.arange(len(seeds))
    while (labels < 0).any():
        y, x = rng.integers(height), rng.integers(width)
        dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][rng.integers(4)]
        inside = 0 <= y + dy < height and 0 <= x + dx < width
        if inside and labels[y, x] < 0:
            labels[y, x] = labels[y + dy, x + dx]
    return labels


def random_image(height: int, width: int, levels: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, levels, (height, width, 3)) * (255 // levels)).astype(np.uint8)


def slow_neighbours(labels: Labels) -> set[tuple[int, int]]:
    touching = [*zip(labels[:, 1:].flat, labels[:, :-1].flat, strict=True)]
    touching += [*zip(labels[1:].flat, labels[:-1].flat, strict=True)]
    return {(int(min(pair)), int(max(pair))) for pair in touching if pair[0] != pair[1]}


def slow_shares(counts: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    return (counts.astype(np.float32) * np.float32(ONE / size)).astype(np.int64)


def slow_similarity(a: dict, b: dict, weights: tuple[int, ...], area: int) -> float:
    def overlap(name: str) -> int:
        shares = [slow_shares(region[name], region["size"]) for region in (a, b)]
        return int(np.minimum(*shares).sum())

    together = a["size"] + b["size"]
    x1, y1 = np.minimum(a["box"][:2], b["box"][:2]).tolist()
    x2, y2 = np.maximum(a["box"][2:], b["box"][2:]).tolist()
    terms = (
        overlap("colour") / (3.0 * ONE),
        overlap("texture") / (3.0 * ORIENTATIONS * ONE),
        1.0 - together / area,
        1.0 - ((x2 - x1) * (y2 - y1) - together) / area,
    )
    return float(sum(w * term for w, term in zip(weights, terms, strict=True)))


def slow_group(
    regions: Regions, pairs: set[tuple[int, int]], weights: tuple[int, ...]
) -> NDArray[np.int32]:
    area = int(regions.sizes.sum())
    nodes = {
        i: {"size": int(size), "box": box, "colour": colour, "texture": texture}
        for i, (size, box, colour, texture) in enumerate(zip(*regions, strict=True))
    }
    boxes = [node["box"] for node in nodes.values()]
    scores = {(i, j): slow_similarity(nodes[i], nodes[j], weights, area) for i, j in pairs}
    while scores:
        i, j = min(scores, key=lambda pair: (-scores[pair], pair))
        a, b = nodes.pop(i), nodes.pop(j)
        new = len(boxes)
        nodes[new] = {
            "size": a["size"] + b["size"],
            "box": np.concatenate(
                [np.minimum(a["box"][:2], b["box"][:2]), np.maximum(a["box"][2:], b["box"][2:])]
            ),
            "colour": a["colour"] + b["colour"],
            "texture": a["texture"] + b["texture"],
        }
        boxes.append(nodes[new]["box"])
        touched = {x for pair in scores for x in pair if {i, j} & set(pair)} - {i, j}
        scores = {pair: s for pair, s in scores.items() if not {i, j} & set(pair)}
        for x in touched:
            scores[x, new] = slow_similarity(nodes[x], nodes[new], weights, area)
    return np.array(boxes, dtype=np.int32)


CASES = [(1, 1, 1), (1, 12, 5), (12, 1, 12), (9, 11, 1), (9, 11, 2), (15, 20, 30), (12, 12, 144)]


@pytest.mark.parametrize(("height", "width", "count"), CASES)
def test_neighbours_are_found_once_each(height: int, width: int, count: int) -> None:
    labels = random_regions(height, width, count, seed=1)
    pairs = find_neighbours(labels, count)
    assert {(int(a), int(b)) for a, b in pairs} == slow_neighbours(labels)
    assert len(pairs) == len(slow_neighbours(labels))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("levels", [1, 2, 255])
@pytest.mark.parametrize(("height", "width", "count"), CASES)
def test_grouping_equals_a_plain_search_for_the_best_pair(
    height: int, width: int, count: int, levels: int, weights: tuple[int, ...]
) -> None:
    labels = random_regions(height, width, count, seed=2)
    image = random_image(height, width, levels, seed=3)
    regions = measure(labels, count, image, texture_codes(image))
    pairs = find_neighbours(labels, count)
    boxes = group(regions, pairs, np.array(weights, dtype=np.float64))
    np.testing.assert_array_equal(boxes, slow_group(regions, slow_neighbours(labels), weights))


def test_grouping_does_not_depend_on_the_order_of_the_pairs() -> None:
    labels = random_regions(15, 20, 40, seed=4)
    image = random_image(15, 20, 2, seed=4)
    regions = measure(labels, 40, image, texture_codes(image))
    pairs = find_neighbours(labels, 40)
    weights = np.ones(4)
    shuffled = np.random.default_rng(0).permutation(pairs)
    np.testing.assert_array_equal(group(regions, pairs, weights), group(regions, shuffled, weights))


def test_grouping_leaves_its_input_alone() -> None:
    labels = random_regions(15, 20, 40, seed=5)
    image = random_image(15, 20, 255, seed=5)
    regions = measure(labels, 40, image, texture_codes(image))
    before = [array.copy() for array in regions]
    group(regions, find_neighbours(labels, 40), np.ones(4))
    for array, copy in zip(regions, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_equally_similar_pairs_go_in_the_order_of_their_numbers() -> None:
    # Four equal columns: all neighbours are equally similar, so 0 and 1 are joined to 4 first;
    # then 2 and 3 are the most similar in size.
    labels = np.repeat(np.arange(4, dtype=np.int32), 2)[None].repeat(3, axis=0)
    image = np.full((3, 8, 3), 90, np.uint8)
    regions = measure(labels, 4, image, texture_codes(image))
    boxes = group(regions, find_neighbours(labels, 4), np.ones(4))
    assert boxes[4:].tolist() == [[0, 0, 4, 3], [4, 0, 8, 3], [0, 0, 8, 3]]


def test_features_equal_plain_counts() -> None:
    labels = random_regions(14, 17, 9, seed=6)
    image = random_image(14, 17, 255, seed=6)
    codes = texture_codes(image)
    regions = measure(labels, 9, image, codes)
    for region in range(9):
        inside = labels == region
        rows, columns = np.nonzero(inside)
        assert regions.sizes[region] == inside.sum()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert regions.boxes[region].tolist() == box
        for channel in range(3):
            shades = image[inside, channel].astype(int) * 25 // 256
            counts = regions.colour[region, channel * 25 : (channel + 1) * 25]
            np.testing.assert_array_equal(counts, np.bincount(shades, minlength=25))
        texture = regions.texture[region].reshape(12, 2, TEXTURE_BINS)
        for pair in range(12):
            code = codes[inside, pair].astype(int)
            first = np.where(code < TEXTURE_BINS, code, 0)
            second = np.where(code < TEXTURE_BINS, 0, code - TEXTURE_BINS)
            for side, bins in enumerate((first, second)):
                expected = np.bincount(bins, minlength=TEXTURE_BINS)
                np.testing.assert_array_equal(texture[pair, side], expected)


@pytest.mark.parametrize("turn", [0, 1])
def test_texture_tells_the_direction_of_an_edge(turn: int) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    codes = texture_codes(np.ascontiguousarray(np.rot90(image, turn)))
    middle = codes[10, 10, :4]
    # To the right, down-right, down, down-left: dark to bright is positive.
    if turn == 0:
        assert 0 < middle[0] < TEXTURE_BINS
        assert middle[2] == 0
        assert middle[3] > TEXTURE_BINS
    else:  # the bright half is above
        assert middle[0] == 0
        assert middle[2] > TEXTURE_BINS
        assert middle[3] > TEXTURE_BINS
    assert codes[2, 2, :4].tolist() == [0, 0, 0, 0]  # flat on either side
