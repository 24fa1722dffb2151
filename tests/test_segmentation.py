"""The fast segmentation against the algorithm written down literally."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from proposals.exact_segmentation import segment_exactly
from proposals.segmentation import UNITS, edge_weights, segment

Image = NDArray[np.float32]


Edge = tuple[Fraction, int, int]


def slow_edges(image: Image, connectivity: int, exact: bool) -> list[Edge]:
    """Return edges ``(weight, pixel, pixel)`` in order; ties in raster order, right before down.

    Weights are grey levels, rounded to units unless exact.
    """
    height, width = image.shape[:2]
    edges = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))[: connectivity // 2]:
                if y + dy < height and 0 <= x + dx < width:
                    there = (y + dy) * width + x + dx
                    if exact:
                        step = image[y + dy, x + dx].astype(np.float64) - image[y, x]
                        weight = Fraction(float(np.sqrt((step**2).sum())))
                    else:
                        a, b, c = image[y + dy, x + dx] - image[y, x]
                        length = np.sqrt(a * a + b * b + c * c)
                        units = int(length * np.float32(UNITS) + np.float32(0.5))
                        weight = Fraction(units, UNITS)
                    edges.append((weight, y * width + x, there))
    if exact:
        return sorted(edges)  # of equal edges the one between the smaller pixels
    return sorted(edges, key=lambda edge: edge[0])


def slow_segment(
    image: Image, k: int, min_size: int, connectivity: int = 4, exact: bool = False
) -> NDArray[np.int32]:
    height, width = image.shape[:2]
    members = {p: {p} for p in range(height * width)}
    home = {p: p for p in members}
    inner = dict.fromkeys(members, Fraction(0))
    edges = slow_edges(image, connectivity, exact)

    def join(a: int, b: int) -> None:
        for p in members[b]:
            home[p] = a
        members[a] |= members.pop(b)

    for weight, u, v in edges:
        a, b = home[u], home[v]
        # w <= inner + k / size, without the division
        if a != b and all((weight - inner[c]) * len(members[c]) <= k for c in (a, b)):
            join(a, b)
            inner[a] = weight
    for _, u, v in edges:
        a, b = home[u], home[v]
        if a != b and min(len(members[a]), len(members[b])) < min_size:
            join(a, b)
    numbers = {root: n for n, root in enumerate(dict.fromkeys(home[p] for p in range(len(home))))}
    labels = [numbers[home[p]] for p in range(len(home))]
    return np.array(labels, dtype=np.int32).reshape(height, width)


def check(image: Image, scales: Sequence[tuple[int, int]], connectivity: int = 4) -> None:
    maps = segment(edge_weights(image, connectivity), scales).maps()
    for labels, (k, min_size) in zip(maps, scales, strict=True):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, slow_segment(image, k, min_size, connectivity))


def check_exactly(image: Image, scales: Sequence[tuple[int, int]], connectivity: int = 4) -> None:
    for k, min_size in scales:
        labels = segment_exactly(image, k, min_size, connectivity=connectivity)
        assert labels.dtype == np.int32
        expected = slow_segment(image, k, min_size, connectivity, exact=True)
        np.testing.assert_array_equal(labels, expected)


SCALES = [(20, 1), (20, 6), (100, 3), (400, 10)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (17, 23)])
@pytest.mark.parametrize("levels", [1, 2, 4, 256])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_segmentation_equals_the_literal_algorithm(
    shape: tuple[int, int], levels: int, connectivity: int
) -> None:
    rng = np.random.default_rng(levels)
    image = rng.integers(0, levels, (*shape, 3)).astype(np.float32) * np.float32(255 / levels)
    check(image, SCALES, connectivity)
    check_exactly(image, SCALES, connectivity)


def test_segmentation_of_smooth_shapes_equals_the_literal_algorithm() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:40, :48]
    image = np.stack([x * 2.0, y * 1.5, 100.0 * (x + y > 40)], axis=2)
    noisy = (image + rng.random(image.shape) * 6).astype(np.float32)
    check(noisy, SCALES)
    check_exactly(noisy, SCALES)


@pytest.mark.parametrize("min_size", [1, 20])
@pytest.mark.parametrize("scale", [30, 200])
def test_exact_segmentation_agrees_with_scikit_image(scale: int, min_size: int) -> None:
    # It has 8 neighbours, scales by 255, and no ties in this image, whose order it leaves open.
    image = np.random.default_rng(scale).random((40, 50, 3))
    image[10:30, 15:40] += 1.5
    theirs = felzenszwalb(image, scale=scale, sigma=0, min_size=min_size, channel_axis=2)
    colours = (image * 255).astype(np.float32)
    ours = segment_exactly(colours, scale, min_size, connectivity=8)
    together = {(int(a), int(b)) for a, b in zip(ours.flat, theirs.flat, strict=True)}
    assert len(together) == len(np.unique(ours)) == len(np.unique(theirs)) > 1


@pytest.mark.parametrize("connectivity", [4, 8])
def test_one_channel_weighs_as_much_as_three_equal_ones(connectivity: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 11, 1)).astype(np.float32)
    one, three = (edge_weights(np.repeat(image, n, 2), connectivity) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


images = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: arrays(np.float32, (*shape, 3), elements=st.sampled_from([0, 1, 2, 30, 255]))
)
scales = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 12)), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(image=images, scales=scales)
def test_several_scales_at_once_equal_one_after_the_other(
    image: Image, scales: list[tuple[int, int]]
) -> None:
    check(image, scales)


def test_a_constant_image_is_one_region() -> None:
    (labels,) = segment(edge_weights(np.full((30, 20, 3), 77, np.float32)), [(1, 1)]).maps()
    assert not labels.any()


def test_two_flat_halves_are_two_regions_until_they_are_too_small() -> None:
    image = np.zeros((10, 10, 3), np.float32)
    image[:, 5:] = 255
    two, one = segment(edge_weights(image), [(50, 50), (50, 51)]).maps()
    assert two.max() == 1
    assert (two == (image[..., 0] > 0)).all()
    assert one.max() == 0


def test_the_largest_scale_joins_everything() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.float32)
    (labels,) = segment(edge_weights(image), [(10**8, 1)]).maps()
    assert not labels.any()


def test_the_largest_possible_weight_is_sorted_too() -> None:
    image = np.zeros((1, 3, 3), np.float32)
    image[0, 1] = 255
    (labels,) = segment(edge_weights(image), [(1, 1)]).maps()
    assert labels.tolist() == [[0, 1, 2]]
