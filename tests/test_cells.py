"""What is summed up from cells against what is taken from the pixels of each segmentation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from proposals.cells import overlay
from proposals.neighbours import Neighbours, find_neighbours, merge_neighbours
from proposals.regions import measure, merge_regions
from proposals.segmentation import edge_weights, segment
from proposals.texture import texture_codes

Numbers = NDArray[np.int32]


def number(values: Numbers) -> Numbers:
    """Number values from 0, the smallest first."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def check_overlay(numbers: Numbers) -> None:
    cells, regions = overlay(numbers)
    assert cells.dtype == regions.dtype == np.int32
    np.testing.assert_array_equal(regions[:, cells], numbers)  # each cell lies in one region
    assert regions.shape == (len(numbers), len(np.unique(cells)))
    assert len(np.unique(regions, axis=1).T) == regions.shape[1]  # no two cells lie in the same


@pytest.mark.parametrize("count", [1, 2, 40, 3000])
@pytest.mark.parametrize("segmentations", [1, 2, 4])
def test_cells_are_what_all_segmentations_keep_together(segmentations: int, count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, max(1, count // 3), (segmentations, count))
    check_overlay(np.stack([number(row) for row in values]))


def test_more_cells_than_regions_fit_the_table() -> None:
    rows, columns = np.divmod(np.arange(200 * 200), 200)
    check_overlay(np.stack([rows, columns]).astype(np.int32))


@settings(max_examples=50, deadline=None)
@given(values=arrays(np.int32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements={
    "min_value": 0, "max_value": 5}))  # fmt: skip
def test_any_segmentations_can_be_laid_over_each_other(values: Numbers) -> None:
    check_overlay(np.stack([number(row) for row in values]))


def by_pair(neighbours: Neighbours) -> dict[tuple[int, int], tuple[int, int]]:
    rows = zip(*(array.tolist() for array in neighbours), strict=True)
    found = {(a, b): (length, contrast) for (a, b), length, contrast in rows}
    assert len(found) == len(neighbours.pairs)
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (40, 50)])
def test_sums_of_cells_equal_those_of_pixels(
    shape: tuple[int, int], connectivity: int, channels: int
) -> None:
    image = np.random.default_rng(0).integers(90, 140, (*shape, channels)).astype(np.uint8)
    image[10:30, 5:25] += 60
    codes = texture_codes(image)
    weights = edge_weights(image.astype(np.float32), connectivity)
    cells = segment(weights, [(30, 4), (90, 9), (300, 9)])
    count = cells.regions.shape[1]
    regions = measure(cells.labels, count, image, codes)
    neighbours = find_neighbours(cells.labels, count, weights)
    for labels, into in zip(cells.maps(), cells.regions, strict=True):
        expected = measure(labels, int(labels.max()) + 1, image, codes)
        for ours, theirs in zip(merge_regions(regions, into), expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        touching = find_neighbours(labels, int(labels.max()) + 1, weights)
        merged = merge_neighbours(neighbours, into)
        assert by_pair(merged) == by_pair(touching)
        assert [a.dtype for a in merged] == [a.dtype for a in touching]
