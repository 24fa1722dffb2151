from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from detect.region_sampling import POINTS, sample_and_pool, sample_regions


def random_boxes(n: int, width: int, height: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) * 1.2
    sides = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) + 0.1
    return torch.cat([corners, corners + sides], dim=1) - 0.1 * width


@pytest.mark.parametrize("n", [0, 1, 200])
def test_sampling_equals_roi_align_with_one_point_a_bin(n: int) -> None:
    maps = torch.randn(1, 6, 9, 13).to(memory_format=torch.channels_last)
    boxes = random_boxes(n, 13, 9)
    expected = roi_align(maps, [boxes], POINTS, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(sample_regions(maps, boxes), expected, atol=1e-5, rtol=1e-4)


def test_sampling_has_the_gradient_of_roi_align() -> None:
    boxes = random_boxes(20, 13, 9)
    gradients = []
    for sample in (
        sample_regions,
        lambda m, b: roi_align(m, [b], POINTS, sampling_ratio=1, aligned=True),
    ):
        maps = torch.randn(1, 6, 9, 13, generator=torch.Generator().manual_seed(3))
        maps.requires_grad_()
        sample(maps, boxes).square().sum().backward()
        gradients.append(maps.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("n", [0, 1, 60])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (9, 13)])
def test_sampling_and_pooling_at_once_equals_one_after_the_other(
    window: int, n: int, height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(7)
    maps = torch.randn(1, 6, height, width, generator=generator)
    maps = maps.to(memory_format=torch.channels_last)
    boxes = random_boxes(n, width, height)
    expected = F.max_pool2d(sample_regions(maps, boxes), window, 2, ceil_mode=True)
    found = sample_and_pool(maps, boxes, window)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("n", [0, 1, 60])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (9, 13)])
def test_sampling_and_pooling_at_once_has_the_gradient_of_one_after_the_other(
    window: int, n: int, height: int, width: int
) -> None:
    boxes = random_boxes(n, width, height)
    weights = torch.randn(n, 6, POINTS // 2, POINTS // 2)

    def gradient_of(sample: Callable[[Tensor], Tensor]) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        maps = torch.randn(1, 6, height, width, generator=generator).relu()  # has equal points
        maps.requires_grad_()
        (sample(maps) * weights).sum().backward()
        assert maps.grad is not None
        return maps.grad

    expected = gradient_of(
        lambda maps: F.max_pool2d(sample_regions(maps, boxes), window, 2, ceil_mode=True)
    )
    found = gradient_of(lambda maps: sample_and_pool(maps, boxes, window))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_gradient_of_many_regions_in_bfloat16_is_summed_in_float32() -> None:
    boxes = random_boxes(300, 8, 8)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        maps = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
        maps = maps.to(dtype).requires_grad_()
        sample_and_pool(maps, boxes, 3).sum().backward()
        assert maps.grad is not None
        gradients.append(maps.grad)
    assert torch.equal(gradients[0].bfloat16(), gradients[1])


def test_bfloat16_is_rounded_once_to_the_nearest() -> None:
    maps = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    boxes = random_boxes(40, 8, 8)
    exact = sample_and_pool(maps.float(), boxes, 3)
    assert torch.equal(sample_and_pool(maps, boxes, 3), exact.bfloat16())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("corner", [0, 1, 2, 3])
def test_boxes_that_are_not_finite_are_refused(corner: int, value: float) -> None:
    boxes = random_boxes(3, 8, 8)
    boxes[1, corner] = value
    with pytest.raises(ValueError, match=r"regions must be finite: got \[.*(nan|inf).*\]"):
        sample_and_pool(torch.rand(1, 4, 8, 8), boxes, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampling_on_a_gpu_equals_that_on_the_cpu() -> None:
    maps = torch.randn(1, 6, 9, 13).to(memory_format=torch.channels_last)
    boxes = random_boxes(50, 13, 9)
    on_gpu = sample_regions(maps.cuda(), boxes.cuda()).cpu()
    torch.testing.assert_close(on_gpu, sample_regions(maps, boxes), atol=1e-4, rtol=1e-4)
