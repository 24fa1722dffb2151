"""Region features and hierarchical grouping against plain dictionaries and sums."""

import re
from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from proposals.grouping import Hierarchy, group
from proposals.neighbours import Neighbours, find_neighbours
from proposals.regions import COLOUR_BINS, Regions, measure
from proposals.segmentation import edge_weights
from proposals.similarity import ONE, compare, parse_similarity
from proposals.texture import TEXTURE_BINS, texture_codes

WEIGHTS = [(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0.5, 2, 0, 1)]
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


def random_image(
    height: int, width: int, levels: int, seed: int, channels: int = 3
) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    shades = rng.integers(0, levels, (height, width, channels))
    return (shades * (255 // levels)).astype(np.uint8)


def touch(labels: Labels, image: NDArray[np.uint8], connectivity: int = 4) -> Neighbours:
    weights = edge_weights(image.astype(np.float32), connectivity)
    return find_neighbours(labels, int(labels.max()) + 1, weights)


def slow_neighbours(
    labels: Labels, image: NDArray[np.uint8], connectivity: int = 4
) -> dict[tuple[int, int], list[int]]:
    """Return the weights of the pixel edges between each two regions."""
    weights = edge_weights(image.astype(np.float32), connectivity)
    height, width = labels.shape
    found: dict[tuple[int, int], list[int]] = {}
    for y in range(height):
        for x in range(width):
            for d, (dy, dx) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))[: connectivity // 2]):
                if y + dy < height and 0 <= x + dx < width:
                    a, b = sorted((int(labels[y, x]), int(labels[y + dy, x + dx])))
                    if a != b:
                        found.setdefault((a, b), []).append(int(weights[y, x, d]))
    return found


def slow_shares(counts: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    return (counts.astype(np.float32) * np.float32(ONE / size)).astype(np.int64)


def slow_similarity(a: dict, b: dict, weights: tuple[float, ...], area: int) -> float:
    def overlap(name: str, bins: int) -> float:
        shares = [slow_shares(region[name], region["size"]) for region in (a, b)]
        return int(np.minimum(*shares).sum()) / (len(shares[0]) / bins * ONE)

    together = a["size"] + b["size"]
    x1, y1 = np.minimum(a["box"][:2], b["box"][:2]).tolist()
    x2, y2 = np.maximum(a["box"][2:], b["box"][2:]).tolist()
    terms = (
        overlap("colour", COLOUR_BINS),
        overlap("texture", TEXTURE_BINS),
        1.0 - together / area,
        1.0 - ((x2 - x1) * (y2 - y1) - together) / area,
    )
    colour, texture, size, fill = (w * term for w, term in zip(weights, terms, strict=True))
    return float(colour + texture + (size + fill))  # in this order, for the last bit


def slow_group(
    regions: Regions, pairs: Iterable[tuple[int, int]], weights: tuple[float, ...]
) -> Hierarchy:
    area = int(regions.sizes.sum())
    nodes = {
        i: {"size": int(size), "box": box, "colour": colour, "texture": texture}
        for i, (size, box, colour, texture) in enumerate(zip(*regions, strict=True))
    }
    everything = dict(nodes)
    parents, similarities = dict.fromkeys(nodes, -1), dict.fromkeys(nodes, 0.0)
    scores = {(i, j): slow_similarity(nodes[i], nodes[j], weights, area) for i, j in pairs}
    while scores:
        i, j = min(scores, key=lambda pair: (-scores[pair], pair))
        a, b = nodes.pop(i), nodes.pop(j)
        new = len(everything)
        parents[i] = parents[j] = new
        parents[new], similarities[new] = -1, scores[i, j]
        nodes[new] = {
            "size": a["size"] + b["size"],
            "box": np.concatenate(
                [np.minimum(a["box"][:2], b["box"][:2]), np.maximum(a["box"][2:], b["box"][2:])]
            ),
            "colour": a["colour"] + b["colour"],
            "texture": a["texture"] + b["texture"],
        }
        everything[new] = nodes[new]
        touched = {x for pair in scores for x in pair if {i, j} & set(pair)} - {i, j}
        scores = {pair: s for pair, s in scores.items() if not {i, j} & set(pair)}
        for x in touched:
            scores[x, new] = slow_similarity(nodes[x], nodes[new], weights, area)
    return Hierarchy(
        np.array([node["box"] for node in everything.values()], dtype=np.int32),
        np.array([node["size"] for node in everything.values()]),
        np.array(list(parents.values()), dtype=np.int32),
        np.array(list(similarities.values())),
    )


def check_equal(one: Hierarchy, two: Hierarchy) -> None:
    for ours, theirs in zip(one, two, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


CASES = [(1, 1, 1), (1, 12, 5), (12, 1, 12), (9, 11, 1), (9, 11, 2), (15, 20, 30), (12, 12, 144)]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(("height", "width", "count"), CASES)
def test_neighbours_are_found_once_each(
    height: int, width: int, count: int, connectivity: int
) -> None:
    labels = random_regions(height, width, count, seed=1)
    image = random_image(height, width, 255, seed=1)
    found = touch(labels, image, connectivity)
    expected = slow_neighbours(labels, image, connectivity)
    assert {(int(a), int(b)) for a, b in found.pairs} == expected.keys()
    assert len(found.pairs) == len(expected)
    for (a, b), length, contrast in zip(*found, strict=True):
        assert length == len(expected[a, b])
        assert contrast == sum(expected[a, b])


def test_regions_with_very_many_neighbours_fit_the_table() -> None:
    # Diagonal stripes of single pixels: with 8 neighbours all cross each other.
    labels = np.arange(400, dtype=np.int32).reshape(20, 20)
    image = random_image(20, 20, 255, seed=1)
    assert len(touch(labels, image, 8).pairs) == 2 * 20 * 19 + 2 * 19 * 19
    half = labels // 2
    assert len(touch(half, image, 8).pairs) == len(slow_neighbours(half, image, 8))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("levels", [1, 2, 255])
@pytest.mark.parametrize(("height", "width", "count"), CASES)
def test_grouping_equals_a_plain_search_for_the_best_pair(
    height: int, width: int, count: int, levels: int, weights: tuple[float, ...]
) -> None:
    labels = random_regions(height, width, count, seed=2)
    image = random_image(height, width, levels, seed=3)
    regions = measure(labels, count, image, texture_codes(image))
    pairs = touch(labels, image).pairs
    hierarchy = group(regions, compare(regions, pairs), np.array(weights, dtype=np.float64))
    check_equal(hierarchy, slow_group(regions, slow_neighbours(labels, image), weights))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    count=st.integers(1, 30),
    levels=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    connectivity=st.sampled_from([4, 8]),
    weights=st.sampled_from(WEIGHTS),
    seed=st.integers(0, 10**6),
)
def test_grouping_of_anything_equals_a_plain_search(
    size: tuple[int, int],
    count: int,
    levels: int,
    channels: int,
    connectivity: int,
    weights: tuple[float, ...],
    seed: int,
) -> None:
    height, width = size
    count = min(count, height * width)
    labels = random_regions(height, width, count, seed)
    image = random_image(height, width, levels, seed, channels)
    regions = measure(labels, count, image, texture_codes(image))
    pairs = touch(labels, image, connectivity).pairs
    hierarchy = group(regions, compare(regions, pairs), np.array(weights, dtype=np.float64))
    expected = slow_neighbours(labels, image, connectivity)
    check_equal(hierarchy, slow_group(regions, expected, weights))


def test_one_channel_groups_as_three_equal_ones() -> None:
    labels = random_regions(15, 20, 40, seed=7)
    trees = []
    for channels in (1, 3):
        image = np.repeat(random_image(15, 20, 255, seed=7, channels=1), channels, axis=2)
        regions = measure(labels, 40, image, texture_codes(image))
        trees.append(group(regions, compare(regions, touch(labels, image).pairs), np.ones(4)))
    check_equal(*trees)


def test_grouping_does_not_depend_on_the_order_of_the_pairs() -> None:
    labels = random_regions(15, 20, 40, seed=4)
    image = random_image(15, 20, 2, seed=4)
    regions = measure(labels, 40, image, texture_codes(image))
    pairs = touch(labels, image).pairs
    shuffled = np.random.default_rng(0).permutation(pairs)
    check_equal(*(group(regions, compare(regions, p), np.ones(4)) for p in (pairs, shuffled)))


def test_grouping_leaves_its_input_alone() -> None:
    labels = random_regions(15, 20, 40, seed=5)
    image = random_image(15, 20, 255, seed=5)
    regions = measure(labels, 40, image, texture_codes(image))
    pairs = compare(regions, touch(labels, image).pairs)
    before = [array.copy() for array in (*regions, *pairs)]
    group(regions, pairs, np.ones(4))
    for array, copy in zip((*regions, *pairs), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_equally_similar_pairs_go_in_the_order_of_their_numbers() -> None:
    # Four equal columns: all neighbours are equally similar, so 0 and 1 are joined to 4 first;
    # then 2 and 3 are the most similar in size.
    labels = np.repeat(np.arange(4, dtype=np.int32), 2)[None].repeat(3, axis=0)
    image = np.full((3, 8, 3), 90, np.uint8)
    regions = measure(labels, 4, image, texture_codes(image))
    hierarchy = group(regions, compare(regions, touch(labels, image).pairs), np.ones(4))
    assert hierarchy.parents.tolist() == [4, 4, 5, 5, 6, 6, -1]
    assert hierarchy.boxes[4:].tolist() == [[0, 0, 4, 3], [4, 0, 8, 3], [0, 0, 8, 3]]


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


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 2, 3), (3, 1, 1), (2, 2, 3), (13, 17, 1), (9, 8, 3)]
)
def test_texture_codes_equal_those_of_plain_filters(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    codes = texture_codes(image).reshape(*shape, 4)
    for channel in range(shape[2]):
        plane = image[..., channel]
        dx, dy = (cv2.Sobel(plane, cv2.CV_64F, *order, ksize=5) for order in ((1, 0), (0, 1)))
        slopes = (dx, (dx + dy) * np.sqrt(0.5), dy, (dy - dx) * np.sqrt(0.5))
        for pair, slope in enumerate(slopes):
            bins = np.minimum(np.abs(slope) // 400, TEXTURE_BINS - 1)
            expected = np.where((slope < 0) & (bins > 0), bins + TEXTURE_BINS, bins)
            np.testing.assert_array_equal(codes[..., channel, pair], expected)


def test_similarities_are_read_with_their_factors() -> None:
    assert parse_similarity("colour+texture+size+fill").tolist() == [1, 1, 1, 1]
    assert parse_similarity("0.5*fill + 2 * colour").tolist() == [2, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no similarity ''"),
        ("colour+shape", "'shape'"),
        ("x*colour", "positive numbers"),
        ("0*colour", "positive numbers"),
        ("-1*colour", "positive numbers"),
        ("nan*colour", "positive numbers"),
        ("inf*colour", "positive numbers"),
        ("colour+2*colour", "colour twice"),
    ],
)
def test_similarities_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_similarity(text)
