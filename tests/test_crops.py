from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from torch import Tensor

from detect import crops
from detect.crops import CropConfig, crop_boxes

PLAIN = CropConfig(size=32, context=0)
SMALL = CropConfig(size=64, context=4)


def photo(name: str) -> Tensor:
    return torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)


def noise(width: int, height: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def weights(low: float, high: float, length: int, config: CropConfig) -> np.ndarray:
    """Return how much each of ``length`` pixels counts in each crop pixel, ``[size, length]``.

    A crop pixel is the mean of points spread over what it covers, or its middle where it covers
    less than a pixel; a point lies between its two nearest pixels. Rows that look outside the
    image sum to less than one.
    """
    step = (high - low) / (config.size - 2 * config.context)
    points = 8 * math.ceil(step) if step > 1 else 1
    found = np.zeros((config.size, length))
    for i in range(config.size):
        for p in range(points):
            place = low + (i + (p + 0.5) / points - config.context) * step
            distance = np.abs(place - (np.arange(length) + 0.5))
            found[i] += np.maximum(0, 1 - distance) / points
    return found


def reference(image: Tensor, box: list[float], config: CropConfig) -> np.ndarray:
    fill = np.array(config.fill, float)[:, None, None]
    columns = weights(box[0], box[2], image.shape[2], config)
    rows = weights(box[1], box[3], image.shape[1], config)
    crop: np.ndarray = fill + rows @ (image.numpy() - fill) @ columns.T
    return crop


@pytest.mark.parametrize("n", [0, 1, 3])
def test_crops_are_float32_in_channels_last_order(n: int) -> None:
    boxes = torch.tensor([[10.0, 20, 110, 90]]).repeat(n, 1)
    for warp in (crop_boxes, crops._crop_with_torch):
        found = warp(photo("astronaut"), boxes, CropConfig())
        assert found.shape == (n, 3, 224, 224)
        assert found.dtype == torch.float32
        assert found.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize(
    "box",
    [
        [3.3, 4.7, 17.2, 15.1],  # enlarged
        [5.0, 6.0, 6.0, 7.0],  # one pixel
        [-6.4, -3.3, 12.9, 11.8],  # partly outside
        [0.0, 0.0, 21.0, 17.0],  # the whole image
        [-30.0, -30.0, -10.0, -10.0],  # all outside
    ],
)
@pytest.mark.parametrize("warp", [crops._crop_with_opencv, crops._crop_with_torch])
def test_crops_without_averaging_equal_the_slow_reference(warp: object, box: list[float]) -> None:
    image, config = noise(21, 17), CropConfig(size=28, context=3)
    assert callable(warp)
    found = warp(image, torch.tensor([box], dtype=torch.float64), config)[0].numpy()
    # OpenCV rounds to whole grey levels, and before version 5 places to 1/32 pixel.
    difference = np.abs(found - reference(image, box, config))
    assert difference.mean() < 1
    assert difference.max() < (0.01 if warp is crops._crop_with_torch else 9)


@pytest.mark.parametrize(
    "box",
    [
        [-20.5, 10.2, 371.3, 403.6],  # 12 pixels to one
        [30.4, 100.1, 60.9, 420.7],  # tall: averaged in one direction only
        [-40.0, -40.0, 600.0, 600.0],
    ],
)
def test_large_boxes_are_close_to_the_average_of_their_pixels(box: list[float]) -> None:
    image, config = photo("astronaut"), CropConfig(size=40, context=3)
    expected = reference(image, box, config)
    columns, rows = (
        np.clip(np.linspace(low, high, 34), 0, 511).astype(int)
        for low, high in ((box[0], box[2]), (box[1], box[3]))
    )
    skipping = image.numpy()[:, rows][:, :, columns] - expected[:, 3:-3, 3:-3]
    averaged = crop_boxes(image, torch.tensor([box]), config)[0].numpy() - expected
    assert np.sqrt((averaged**2).mean()) < 7.5  # grey levels
    assert (averaged**2).mean() < (skipping**2).mean() / 4


def test_a_box_of_crop_size_is_copied_exactly() -> None:
    image = noise(60, 50)
    found = crop_boxes(image, torch.tensor([[7.0, 9, 39, 41]]), PLAIN)
    assert torch.equal(found[0], image[:, 9:41, 7:39].float())


def test_pixels_are_averaged_over_whole_blocks() -> None:
    image = noise(64, 128)
    found = crop_boxes(image, torch.tensor([[0.0, 0, 64, 128]]), PLAIN)[0]
    average = image.float().reshape(3, 32, 4, 32, 2).mean(dim=(2, 4))
    # OpenCV rounds after each halving, here twice.
    torch.testing.assert_close(found, average, rtol=0, atol=1.01)
    assert abs((found - average).mean()) < 0.2
    exact = crops._crop_with_torch(image, torch.tensor([[0.0, 0, 64, 128]]), PLAIN)[0]
    torch.testing.assert_close(exact, average, rtol=0, atol=0.01)


def test_context_shows_the_surroundings_and_the_box_fills_the_middle() -> None:
    image = noise(100, 100)
    config = CropConfig(size=48, context=8)
    with_context = crop_boxes(image, torch.tensor([[20.0, 30, 52, 62]]), config)[0]
    assert torch.equal(with_context[:, 8:-8, 8:-8], image[:, 30:62, 20:52].float())
    assert torch.equal(with_context, image[:, 22:70, 12:60].float())


def test_outside_the_image_the_crop_has_the_fill_colour() -> None:
    config = CropConfig(size=64, context=16, fill=(1, 20, 200))
    found = crop_boxes(noise(32, 32), torch.tensor([[0.0, 0, 32, 32]]), config)[0]
    frame = torch.ones(64, 64, dtype=torch.bool)
    frame[15:-15, 15:-15] = False
    assert torch.equal(
        found[:, frame], torch.tensor([1.0, 20, 200])[:, None].expand(3, 64**2 - 34**2)
    )


def test_a_crop_moves_with_its_box_by_a_fraction_of_a_pixel() -> None:
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100)
    boxes = torch.tensor([[20.0, 20, 84, 84], [20.5, 20, 84.5, 84]])
    for found in (crop_boxes(ramp, boxes, SMALL), crops._crop_with_torch(ramp, boxes, SMALL)):
        assert (found[1] - found[0]).mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 9), (2, 1), (3, 5), (37, 41), (451, 300), (512, 512)]
)
def test_both_ways_of_cropping_agree_on_photos_of_any_size(width: int, height: int) -> None:
    for image in (photo("astronaut")[:, :height, :width], photo("chelsea")[:, :height, :width]):
        h, w = image.shape[1:]
        generator = torch.Generator().manual_seed(width)
        corner = (torch.rand(20, 2, generator=generator) * 1.4 - 0.4) * torch.tensor([w, h])
        size = torch.rand(20, 2, generator=generator) * torch.tensor([w, h]) + 0.3
        special = [[0.0, 0, w, h], [w / 2, h / 2, w / 2 + 1, h / 2 + 1], [-9.0 * w, 0, 9.0 * w, h]]
        boxes = torch.cat([torch.tensor(special), torch.cat([corner, corner + size], dim=1)])
        for config in (CropConfig(), SMALL):
            found = crop_boxes(image, boxes, config)
            other = crops._crop_with_torch(image, boxes.double(), config)
            assert (found - other).abs().mean(dim=(1, 2, 3)).max() < 1


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    left=st.floats(-50, 50),
    top=st.floats(-50, 50),
    w=st.floats(0.1, 300),
    h=st.floats(0.1, 300),
)
def test_both_ways_of_cropping_agree_on_noise(
    width: int, height: int, left: float, top: float, w: float, h: float
) -> None:
    image = noise(width, height)
    boxes = torch.tensor([[left, top, left + w, top + h]], dtype=torch.float64)
    config = CropConfig(size=20, context=2)
    found, other = crop_boxes(image, boxes, config), crops._crop_with_torch(image, boxes, config)
    assert found.min() >= 0
    assert found.max() <= 255
    # Noise has steps of 255 between neighbours, so that 1/32 pixel of OpenCV 4 counts most here.
    assert (found - other).abs().mean() < 2


def test_many_boxes_equal_one_by_one_in_any_order() -> None:
    image = photo("coffee")
    boxes = torch.tensor(
        [[5.0, 5, 500, 300], [40, 40, 60, 61], [0, 0, 600, 30], [-9, -9, 90, 90], [10, 0, 50, 400]]
    )
    for warp in (crop_boxes, crops._crop_with_torch):
        together = warp(image, boxes, SMALL)
        single = torch.cat([warp(image, box[None], SMALL) for box in boxes])
        assert torch.equal(together, single)
        assert torch.equal(warp(image, boxes.flip(0), SMALL), together.flip(0))


def test_a_mirrored_image_gives_mirrored_crops() -> None:
    image = photo("chelsea")[:, :, :448]
    found = crops._crop_with_torch(image, torch.tensor([[40.0, 30, 440, 240]]), SMALL)
    mirrored = crops._crop_with_torch(image.flip(2), torch.tensor([[8.0, 30, 408, 240]]), SMALL)
    torch.testing.assert_close(mirrored, found.flip(3), rtol=0, atol=0.01)


def test_the_layout_of_the_image_in_memory_does_not_matter() -> None:
    image, boxes = photo("chelsea"), torch.tensor([[40.0, 30, 440, 240], [1, 2, 30, 40]])
    assert torch.equal(
        crop_boxes(image, boxes, SMALL), crop_boxes(image.contiguous(), boxes, SMALL)
    )


def test_a_box_far_larger_than_the_image_does_not_exhaust_memory() -> None:
    boxes = torch.tensor([[-1e6, -1e6, 1e6, 1e6]])
    for found in (
        crop_boxes(noise(5, 4), boxes, SMALL),
        crops._crop_with_torch(noise(5, 4), boxes, SMALL),
    ):
        assert torch.equal(found[0, :, 0, 0], torch.tensor([123.0, 117, 104]))


@pytest.mark.parametrize(
    "box", [[5.0, 5, 5, 9], [9, 5, 5, 9], [0, 0, 9, float("nan")], [0, 0, float("inf"), 9]]
)
def test_boxes_without_area_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="1 boxes have no area"):
        crop_boxes(noise(20, 20), torch.tensor([[1.0, 1, 5, 5], box]), SMALL)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 9, 9),
        torch.zeros(9, 9, 3, dtype=torch.uint8),
        torch.zeros(9, 9, dtype=torch.uint8),
        torch.zeros(3, 0, 9, dtype=torch.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match="image must be uint8"):
        crop_boxes(image, torch.tensor([[1.0, 1, 5, 5]]), SMALL)


def test_a_context_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="context 16"):
        CropConfig(size=32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_on_the_gpu_equal_those_on_the_cpu() -> None:
    image = photo("astronaut")
    boxes = torch.tensor([[5.0, 5, 500, 300], [40, 40, 60, 61], [0, 0, 512, 30], [-9, -9, 90, 90]])
    found = crop_boxes(image.cuda(), boxes, CropConfig())
    assert found.is_cuda
    difference = (found.cpu() - crop_boxes(image, boxes, CropConfig())).abs()
    assert difference.mean(dim=(1, 2, 3)).max() < 1
