from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from detect.shared_geometry import (
    FIRST_CENTRE,
    STRIDE,
    SharedTrunkConfig,
    map_boxes,
    place_regions,
    region_levels,
    resize_image,
    resized_size,
    split_levels,
)

PYRAMID = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=[0.5, 1.0, 2.0], region_side=40)


def random_boxes(n: int, width: int = 80, height: int = 60) -> torch.Tensor:
    """Boxes of sides of 1 to 3,000 pixels, inside of an image and outside."""
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([corners, corners + 3000 ** torch.rand(n, 2, generator=generator)], dim=1)


def level_of(box: list[float], image_size: tuple[int, int], config: SharedTrunkConfig) -> int:
    """Try every level."""
    height, width = resized_size(image_size, config)
    area = (box[2] - box[0]) * width / image_size[1] * (box[3] - box[1]) * height / image_size[0]
    ratios = [math.sqrt(area) * factor / config.region_side for factor in config.pyramid]
    distances = [max(ratio, 1 / ratio) for ratio in ratios]
    return distances.index(min(distances))


def test_map_boxes_put_the_samples_over_the_box_and_its_context() -> None:
    config = SharedTrunkConfig(shorter_side=96, max_side=160, context=0.0)
    # At this size nothing is resized: 96 high, 128 wide.
    box = torch.tensor([[FIRST_CENTRE, FIRST_CENTRE, FIRST_CENTRE + 32, FIRST_CENTRE + 48]])
    mapped = map_boxes(box, (96, 128), config)
    torch.testing.assert_close(mapped, torch.tensor([[0.5, 0.5, 2.5, 3.5]]))
    with_context = map_boxes(box, (96, 128), replace(config, context=0.125))
    torch.testing.assert_close(
        with_context[:, 2:] - with_context[:, :2], torch.tensor([[2.0, 3.0]]) / 0.75
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 400), (600, 800)), ((100, 1000), (100, 1000)), ((1, 1), (600, 600))],
)
def test_images_are_resized_by_the_shorter_side_up_to_a_limit(size, expected) -> None:
    assert resized_size(size, SharedTrunkConfig()) == expected


def test_very_long_images_keep_room_for_a_few_points() -> None:
    height, width = resized_size((1, 5000), SharedTrunkConfig())
    assert (height, width) == (3 * STRIDE, 1000)


def test_resizing_keeps_the_range_of_the_image_and_takes_one_pixel() -> None:
    for image in (torch.full((3, 1, 1), 255, dtype=torch.uint8), torch.zeros(3, 2, 90).byte()):
        config = SharedTrunkConfig(shorter_side=96, max_side=160)
        resized = resize_image(image, config)
        assert resized.shape[-2:] == resized_size(tuple(image.shape[1:]), config)
        assert torch.equal(resized, torch.full_like(resized, float(image[0, 0, 0])))


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (5, 400), (1, 1)])
@pytest.mark.parametrize(
    "pyramid", [[1.0], [0.5, 1.0, 2.0], [1.4142, 0.3536, 1.0, 0.7071], [1.0, 1.0]]
)
def test_every_region_has_the_level_at_which_its_side_is_nearest(size, pyramid) -> None:
    config = replace(PYRAMID, pyramid=pyramid)
    boxes = random_boxes(200, width=size[1], height=size[0])
    levels = region_levels(boxes, size, config)
    assert levels.tolist() == [level_of(box, size, config) for box in boxes.tolist()]
    several = len(set(pyramid)) > 1 and size != (1, 1)  # where all boxes are too large
    assert set(levels.tolist()) == (set(range(len(pyramid))) if several else {levels[0].item()})


@pytest.mark.parametrize("pyramid", [[0.5, 2.0], [2.0, 0.5], [0.25, 0.5, 2.0]])
def test_of_two_levels_that_are_as_near_the_first_is_chosen(pyramid: list[float]) -> None:
    config = replace(PYRAMID, pyramid=pyramid, region_side=64)
    # At this size nothing is resized by a factor of 1.
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [3.0, 1.0, 35.0, 129.0]])
    first = min(pyramid.index(0.5), pyramid.index(2.0))
    assert region_levels(boxes, (96, 128), config).tolist() == [first, first]


def test_boxes_of_any_size_have_a_level() -> None:
    pixel, point, line = [4.0, 5.0, 5.0, 6.0], [4.0, 5.0, 4.0, 5.0], [0.0, 5.0, 80.0, 5.0]
    vast, inverted = [-1e9, -1e9, 1e9, 1e9], [5.0, 0.0, 0.0, 9.0]
    boxes = torch.tensor([pixel, vast, point, line, inverted])
    levels = region_levels(boxes, (60, 80), PYRAMID)
    assert levels[:2].tolist() == [2, 0]  # seen largest and smallest
    assert levels[2:].tolist() == [0, 0, 0]  # without an area no level is nearer than another
    none = region_levels(torch.zeros(0, 4), (60, 80), PYRAMID)
    assert (none.shape, none.dtype) == ((0,), torch.int64)


@pytest.mark.parametrize("n", [0, 1, 50])
def test_placed_regions_are_those_mapped_one_by_one_to_their_level(n: int) -> None:
    boxes, size = random_boxes(n), (60, 80)
    regions, places = place_regions(boxes, size, PYRAMID)
    assert regions.shape == (n, 5)
    assert sorted(places.tolist()) == list(range(n))
    levels = region_levels(boxes, size, PYRAMID)
    assert places.tolist() == sorted(range(n), key=lambda i: (levels[i], i))
    for region, place in zip(regions, places, strict=True):
        level = int(levels[place])
        expected = map_boxes(boxes[place][None], size, PYRAMID, PYRAMID.pyramid[level])
        assert region[0] == level
        assert torch.equal(region[None, 1:], expected)


def test_a_level_has_the_map_of_an_image_of_its_size() -> None:
    twice = replace(PYRAMID, shorter_side=192, max_side=320, pyramid=[1.0])
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    assert torch.equal(resize_image(image, PYRAMID, 2.0), resize_image(image, twice))
    boxes = random_boxes(9)
    assert torch.equal(map_boxes(boxes, (60, 80), PYRAMID, 2.0), map_boxes(boxes, (60, 80), twice))


@pytest.mark.parametrize("levels", [[], [0], [2, 2], [0, 0, 1, 2, 2, 2], [1, 3]])
def test_regions_are_split_where_the_level_changes(levels: list[int]) -> None:
    boxes = torch.arange(4.0 * len(levels)).view(-1, 4)
    regions = torch.cat([torch.tensor(levels, dtype=torch.float32)[:, None], boxes], dim=1)
    parts = split_levels(regions)
    assert [level for level, _ in parts] == (sorted(set(levels)) or [0])
    assert [level for level, part in parts for _ in part] == levels
    assert torch.equal(torch.cat([part for _, part in parts]), boxes)


@pytest.mark.parametrize("pyramid", [[], [0.0], [1.0, -0.5], [math.inf], [1.0, math.nan]])
def test_levels_without_a_size_are_refused(pyramid: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pyramid must hold factors above 0: got \["):
        SharedTrunkConfig(pyramid=pyramid)


@pytest.mark.parametrize("side", [0.0, -3.0, math.inf, math.nan])
def test_regions_without_a_size_are_refused(side: float) -> None:
    with pytest.raises(ValueError, match=f"region_side must be above 0 pixels: got {side}"):
        SharedTrunkConfig(region_side=side)


@dataclass
class LaterConfig(SharedTrunkConfig):
    """As if the defaults had become another pyramid."""

    pyramid: list[float] = field(default_factory=lambda: [0.5, 1.0])


def test_a_file_from_before_the_pyramid_means_one_level_whatever_the_defaults() -> None:
    assert LaterConfig().pyramid == [0.5, 1.0]
    old = LaterConfig.from_file({"shorter_side": 96, "max_side": 160, "context": 0.125})
    assert (old.shorter_side, old.context, old.pyramid) == (96, 0.125, [1.0])
    assert LaterConfig.from_file({"pyramid": [2.0]}).pyramid == [2.0]
