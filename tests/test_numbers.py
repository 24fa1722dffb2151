from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detect.data.numbers import NO_NUMBER, PARSED, UNDECIDED, parse_number


def parse(text: str) -> tuple[int, int, float]:
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    kind, end, number = parse_number(data, np.uint64(0), np.uint64(len(data)))
    return kind, int(end), number


def same(one: float, other: float) -> bool:
    return one == other and math.copysign(1, one) == math.copysign(1, other)


def check(text: str) -> int:
    kind, end, number = parse(text)
    if kind == PARSED:
        assert same(number, float(text)), text
        assert end == len(text)
    return kind


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.1)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
def test_the_shortest_text_of_a_float_gives_it_back(value: float) -> None:
    kind = check(repr(value))
    assert kind == PARSED or not 1e-20 < abs(value) < 1e20 or value == 0


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64), st.integers(-45, 45), st.sampled_from(["", "+", "-"]))
@example(2**53 + 1, 0, "")  # halfway between two float64
@example(9007199254740993, 0, "-")
@example((2**53 + 1) * 5, -1, "")
@example(2**64 - 1, 0, "")
def test_digits_with_an_exponent_equal_what_float_makes_of_them(
    digits: int, exponent: int, sign: str
) -> None:
    check(f"{sign}{digits}e{exponent}")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**53 - 1), st.integers(-38, 18))
def test_numbers_halfway_between_two_floats_go_to_the_even_one(mantissa: int, power: int) -> None:
    # (2 m + 1) / 2 lies halfway; written out, as far as 19 digits hold it.
    halfway = (2**53 + 2 * mantissa + 1) * 5**3 * 2**3
    check(f"{halfway}e{power}")
    check(f"{halfway + 1}e{power}")
    check(f"{halfway - 1}e{power}")


@settings(max_examples=200, deadline=None)
@given(st.decimals(-1000, 1000, places=6))
def test_what_results_files_hold_is_parsed(value: object) -> None:
    assert check(str(value)) == PARSED or "E" in str(value)


@pytest.mark.parametrize("text", ["1.", ".5", "+7", "-0", "1e5", "1E-5", "0e99", "007", "1.50e+3"])
def test_every_way_of_writing_is_parsed(text: str) -> None:
    assert check(text) in (PARSED, UNDECIDED)
    assert text == "0e99" or parse(text)[0] == PARSED


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-Infinity", "1e400", "x", "-", ".", "12" * 10, "e5"]
)
def test_what_is_undecided_is_left_to_float(text: str) -> None:
    assert parse(text)[0] == UNDECIDED


@pytest.mark.parametrize("text", ["1_0", "0x10", "1e", "1e+", "1..2", "1.2.3", "1,5", "3ü"])
def test_what_is_no_number_is_said(text: str) -> None:
    assert parse(text)[0] == NO_NUMBER


def test_a_number_ends_at_a_blank() -> None:
    assert parse("-1.25 7")[:2] == (PARSED, 5)
    assert parse("3\r\n")[:2] == (PARSED, 1)
