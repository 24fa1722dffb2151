"""The fast segmentation against the algorithm written down literally."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from proposals.segmentation import UNITS, segment

Image = NDArray[np.float32]


def slow_edges(image: Image) -> list[tuple[int, int, int]]:
    """Return edges ``(weight, pixel, pixel)`` in order; ties in raster order, right before down."""
    height, width = image.shape[:2]
    edges = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < height and x + dx < width:
                    a, b, c = image[y + dy, x + dx] - image[y, x]
                    length = np.sqrt(a * a + b * b + c * c)
                    weight = int(length * np.float32(UNITS) + np.float32(0.5))
                    edges.append((weight, y * width + x, (y + dy) * width + x + dx))
    return sorted(edges, key=lambda edge: edge[0])


def slow_segment(image: Image, k: int, min_size: int) -> NDArray[np.int32]:
    height, width = image.shape[:2]
    members = {p: {p} for p in range(height * width)}
    home = {p: p for p in members}
    inner = dict.fromkeys(members, 0)
    edges = slow_edges(image)

    def join(a: int, b: int) -> None:
        for p in members[b]:
            home[p] = a
        members[a] |= members.pop(b)

    for weight, u, v in edges:
        a, b = home[u], home[v]
        # w <= inner + k / size, without the division
        if a != b and all((weight - inner[c]) * len(members[c]) <= UNITS * k for c in (a, b)):
            join(a, b)
            inner[a] = weight
    for _, u, v in edges:
        a, b = home[u], home[v]
        if a != b and min(len(members[a]), len(members[b])) < min_size:
            join(a, b)
    numbers = {root: n for n, root in enumerate(dict.fromkeys(home[p] for p in range(len(home))))}
    labels = [numbers[home[p]] for p in range(len(home))]
    return np.array(labels, dtype=np.int32).reshape(height, width)


def check(image: Image, scales: Sequence[tuple[int, int]]) -> None:
    for labels, (k, min_size) in zip(segment(image, scales), scales, strict=True):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, slow_segment(image, k, min_size))


SCALES = [(20, 1), (20, 6), (100, 3), (400, 10)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (17, 23)])
@pytest.mark.parametrize("levels", [1, 2, 4, 256])
def test_segmentation_equals_the_literal_algorithm(shape: tuple[int, int], levels: int) -> None:
    rng = np.random.default_rng(levels)
    image = rng.integers(0, levels, (*shape, 3)).astype(np.float32) * (255 / levels)
    check(image, SCALES)


def test_segmentation_of_smooth_shapes_equals_the_literal_algorithm() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:40, :48]
    image = np.stack([x * 2.0, y * 1.5, 100.0 * (x + y > 40)], axis=2)
    check((image + rng.random(image.shape) * 6).astype(np.float32), SCALES)


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
    (labels,) = segment(np.full((30, 20, 3), 77, np.float32), [(1, 1)])
    assert not labels.any()


def test_two_flat_halves_are_two_regions_until_they_are_too_small() -> None:
    image = np.zeros((10, 10, 3), np.float32)
    image[:, 5:] = 255
    two, one = segment(image, [(50, 50), (50, 51)])
    assert two.max() == 1
    assert (two == (image[..., 0] > 0)).all()
    assert one.max() == 0


def test_the_largest_scale_joins_everything() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.float32)
    (labels,) = segment(image, [(10**8, 1)])
    assert not labels.any()


def test_the_largest_possible_weight_is_sorted_too() -> None:
    image = np.zeros((1, 3, 3), np.float32)
    image[0, 1] = 255
    (labels,) = segment(image, [(1, 1)])
    assert labels.tolist() == [[0, 1, 2]]
