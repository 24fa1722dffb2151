from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit

from detect.bfloat16 import load, rows, store

PATTERNS = np.arange(2**16, dtype=np.uint16)


@njit
def load_all(array, out):
    for i in range(len(array)):
        out[i] = load(array[i])


@njit
def store_all(values, out):
    for i in range(len(values)):
        out[i] = store(values[i], out)


def stored_bits(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), np.int16)
    store_all(values, out)
    return out.view(np.uint16)


def expected_bits(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)


def floats_with_lower_half(lower: int) -> np.ndarray:
    """Return a float32 for every upper half of its bits, without those that are no number."""
    values = (PATTERNS.astype(np.uint32) << 16 | np.uint32(lower)).view(np.float32)
    return values[~np.isnan(values)]


def test_every_bfloat16_loads_as_torch_widens_it() -> None:
    out = np.empty(len(PATTERNS), np.float32)
    load_all(PATTERNS.view(np.int16), out)
    expected = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_every_bfloat16_is_stored_as_it_was_loaded_even_if_it_is_no_number() -> None:
    values = np.empty(len(PATTERNS), np.float32)
    load_all(PATTERNS.view(np.int16), values)
    assert np.array_equal(stored_bits(values), PATTERNS)


# Just above a bfloat16, below, at and above the middle between two, and just below the next: for
# every sign, exponent (denormal and the largest among them) and kind of last bit.
@pytest.mark.parametrize("lower", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_float32_is_rounded_to_even_as_torch_rounds_it(lower: int) -> None:
    values = floats_with_lower_half(lower)
    assert np.array_equal(stored_bits(values), expected_bits(values))


def test_random_float32_are_rounded_as_torch_rounds_them() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32)
    values = bits.view(np.float32)[~np.isnan(bits.view(np.float32))]
    assert np.array_equal(stored_bits(values), expected_bits(values))


def test_infinity_stays_and_what_rounds_beyond_the_largest_becomes_infinity() -> None:
    largest = np.finfo(np.float32).max
    values = np.array([np.inf, -np.inf, largest, -largest], np.float32)
    assert stored_bits(values).tolist() == [0x7F80, 0xFF80, 0x7F80, 0xFF80]


def test_what_processors_make_of_no_number_stays_no_number() -> None:
    # As x86 (negative) and ARM (positive) give 0 / 0. A NaN with other bits may become a number.
    values = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)
    assert stored_bits(values).tolist() == [0x7FC0, 0xFFC0]


def test_float32_passes_through_unchanged() -> None:
    values = np.random.default_rng(1).integers(0, 2**32, 10_000, dtype=np.uint32)
    for function in (load_all, store_all):
        out = np.empty(len(values), np.float32)
        function(values.view(np.float32), out)
        assert np.array_equal(out.view(np.uint32), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1)])
def test_rows_are_the_map_with_channels_last_whatever_its_order(dtype, shape) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    twice = torch.stack([maps, -maps], dim=-1)
    for given in (maps, maps.to(memory_format=torch.channels_last), twice[..., 0]):
        array = rows(given)
        assert array.dtype == (np.int16 if dtype == torch.bfloat16 else np.float32)
        assert array.flags.c_contiguous
        found = torch.from_numpy(array).view(dtype)
        assert torch.equal(found, maps.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1), (1, 1, 1, 1)])
def test_what_is_written_to_the_rows_of_a_channels_last_map_is_in_the_map(dtype, shape) -> None:
    maps = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    rows(maps)[:] = 0
    assert maps.eq(0).all()
    assert rows(maps).ctypes.data == maps.data_ptr()
