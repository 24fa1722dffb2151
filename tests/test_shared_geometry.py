from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detect.shared_geometry import (
    FIRST_CENTRE,
    STRIDE,
    SharedTrunkConfig,
    map_boxes,
    resize_image,
    resized_size,
)


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
