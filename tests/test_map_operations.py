from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from detect.map_operations import CompiledMaxPool, CompiledResponseNorm

DTYPES = [torch.float32, torch.bfloat16]
HALF_STEP = 2**-8  # half the distance between two bfloat16, at most, as a share of them
# Ties, zeros of both signs, the smallest and the largest numbers.
SPECIAL = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 1.0, 1.0078125, 3.3e38, float("inf")])


def maps_behind_a_relu(shape: tuple[int, ...], dtype: torch.dtype, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(shape, generator=generator).relu()
    special = SPECIAL[torch.randint(len(SPECIAL), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.3, special, maps).to(dtype)


def in_order(maps: Tensor, order: str) -> Tensor:
    """Return equal maps that lie differently in memory."""
    if order == "channels last":
        return maps.contiguous(memory_format=torch.channels_last)
    if order == "every second":
        wide = torch.full((*maps.shape[:3], 2 * maps.shape[3]), 7.0, dtype=maps.dtype)
        wide[..., ::2] = maps
        return wide[..., ::2]
    if order == "some channels":
        more = torch.full((len(maps), maps.shape[1] + 5, *maps.shape[2:]), 7.0, dtype=maps.dtype)
        more = more.contiguous(memory_format=torch.channels_last)
        more[:, 2 : 2 + maps.shape[1]] = maps
        return more[:, 2 : 2 + maps.shape[1]]
    return maps


def assert_pools_as_torch(maps: Tensor, kernel_size: int, stride: int, padding: int) -> None:
    expected = F.max_pool2d(maps, kernel_size, stride, padding, ceil_mode=True)
    before = maps.clone()
    found = CompiledMaxPool(kernel_size, stride, padding)(maps)
    assert found.dtype == maps.dtype
    assert torch.equal(found, expected)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    assert torch.equal(maps, before)


def assert_gradients_as_torch(maps: Tensor, kernel_size: int, stride: int, padding: int) -> None:
    maps, same = (m.requires_grad_() for m in (maps.clone(), maps.clone().float()))
    expected = F.max_pool2d(same, kernel_size, stride, padding, ceil_mode=True)
    found = CompiledMaxPool(kernel_size, stride, padding)(maps)
    # Small whole numbers: their sums are exact in bfloat16 too.
    generator = torch.Generator().manual_seed(1)
    weights = torch.randint(-3, 4, expected.shape, generator=generator).float()
    (found * weights.to(found.dtype)).sum().backward()
    (expected * weights).sum().backward()
    assert maps.grad is not None and same.grad is not None
    assert torch.equal(maps.grad.float(), same.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (2, 2, 0)])
def test_gradients_of_pooling_equal_torchs(kernel_size, stride, padding, dtype) -> None:
    for height in range(3, 9):
        for width in range(3, 9):
            # A zero's sign decides between equals in bfloat16; a ReLU passes neither's gradient on.
            maps = maps_behind_a_relu((2, 5, height, width), dtype, seed=height).abs()
            assert_gradients_as_torch(maps, kernel_size, stride, padding)
            # Of equal values the first takes all.
            assert_gradients_as_torch(maps.clamp(max=0.5), kernel_size, stride, padding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_pooling_of_every_size_of_map_equals_torchs(kernel_size, stride, padding, dtype) -> None:
    smallest = max(kernel_size - 2 * padding - (stride - 1), 1)
    for height in range(smallest, smallest + 6):
        for width in range(smallest, smallest + 6):
            maps = maps_behind_a_relu((1, 3, height, width), dtype, seed=height)
            assert_pools_as_torch(maps, kernel_size, stride, padding)


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(3, 15), st.integers(3, 15)),
    kernel_size=st.integers(2, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["channels first", "channels last", "every second", "some channels"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_pooling_equals_torchs(shape, kernel_size, stride, padding, dtype, order, seed) -> None:
    maps = in_order(maps_behind_a_relu(shape, dtype, seed=seed), order)
    assert_pools_as_torch(maps, kernel_size, stride, padding)


def test_pooling_of_float32_takes_negative_values_too() -> None:
    maps = torch.randn(2, 5, 7, 8, generator=torch.Generator().manual_seed(0)) - 3
    assert_pools_as_torch(maps, 3, 2, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_of_either_sign_are_pooled_to_zero(dtype: torch.dtype) -> None:
    found = CompiledMaxPool(3, 2)(torch.full((1, 4, 5, 5), -0.0, dtype=dtype))
    assert torch.equal(found, torch.zeros(1, 4, 2, 2, dtype=dtype))


def exact_response_norm(maps: Tensor) -> Tensor:
    """The formula of section 3.3 of Krizhevsky et al. (2012), channel by channel, in float64."""
    maps = maps.double()
    out = torch.empty_like(maps)
    for k in range(maps.shape[1]):
        near = maps[:, max(k - 2, 0) : k + 3].square().sum(dim=1)
        out[:, k] = maps[:, k] / (1 + 1e-4 / 5 * near) ** 0.75
    return out


def maps_of_size(channels: int, magnitude: float) -> Tensor:
    return torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(2)) * magnitude


@pytest.mark.parametrize("magnitude", [0.0, 1e-20, 1.0, 30.0, 1e3, 1e4, 1e8])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 64])
def test_response_norm_equals_its_formula(channels: int, magnitude: float) -> None:
    maps = maps_of_size(channels, magnitude).clamp(-1e8, 1e8)
    expected = exact_response_norm(maps)
    found = CompiledResponseNorm()(maps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=4e-7)


@pytest.mark.parametrize("magnitude", [0.0, 1e-20, 1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("channels", [1, 2, 5, 64])
def test_response_norm_of_bfloat16_is_rounded_to_the_nearest_of_about_the_right_value(
    channels: int, magnitude: float
) -> None:
    maps = maps_of_size(channels, magnitude).clamp(-1e8, 1e8).bfloat16()
    found = CompiledResponseNorm()(maps)
    assert found.dtype == torch.bfloat16
    rtol = HALF_STEP + 2e-5
    torch.testing.assert_close(found.double(), exact_response_norm(maps), atol=0, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_giant_beside_a_dwarf_leaves_both_right(dtype: torch.dtype) -> None:
    maps = torch.tensor([1e-20, 1e8, 1e-20, 1.0, -1e8, 0.0, 1e4, 1.0])
    maps = maps.view(1, 8, 1, 1).to(dtype)
    found = CompiledResponseNorm()(maps)
    rtol = 4e-7 if dtype == torch.float32 else HALF_STEP
    torch.testing.assert_close(found.double(), exact_response_norm(maps), atol=0, rtol=rtol)


@pytest.mark.parametrize("order", ["channels first", "channels last", "every second"])
@pytest.mark.parametrize("shape", [(0, 6, 4, 5), (3, 6, 4, 5), (2, 6, 1, 1), (1, 1, 4, 5)])
def test_response_norm_takes_maps_in_any_order_and_leaves_them(shape, order: str) -> None:
    maps = in_order(torch.randn(shape, generator=torch.Generator().manual_seed(4)) * 50, order)
    before = maps.clone()
    found = CompiledResponseNorm()(maps)
    torch.testing.assert_close(found.double(), exact_response_norm(maps), atol=0, rtol=4e-7)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    assert torch.equal(maps, before)
