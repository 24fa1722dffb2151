"""Decimal numbers in text -> float64, correctly rounded, inside compiled code.

What is written decides ties and thresholds, so a number must become the very float64 that
``float()`` makes of it. Short numbers need one division of two exact float64 (Clinger 1990), longer
ones a multiplication by 128 bits of a power of five (Lemire, "Number parsing at a gigabyte per
second", 2021). What neither can decide is left to ``float()``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

PARSED, UNDECIDED, NO_NUMBER = 0, 1, 2  # what became of a text

_LARGEST_POWER = 40  # of ten that compiled code scales by
_EXACT_POWERS = 10.0 ** np.arange(23)  # 10^22 is the last that a float64 holds exactly
_MAX_DIGITS = 19  # fit into 64 bits


def _power_of_five(q: int) -> int:
    """Return the first 128 bits of 5^q; of a negative power, rounded up."""
    power = int(5 ** abs(q))
    if q < 0:
        bits = (power - 1).bit_length() + 127 if q >= -27 else 2 * (power - 1).bit_length() + 128
        power = (1 << bits) // power + 1
    surplus = power.bit_length() - 128
    return power >> surplus if surplus > 0 else power << (-surplus if q >= 0 else 0)


_POWERS = [_power_of_five(q) for q in range(-_LARGEST_POWER, _LARGEST_POWER + 1)]
_HIGH = np.array([power >> 64 for power in _POWERS], dtype=np.uint64)
_LOW = np.array([power & (2**64 - 1) for power in _POWERS], dtype=np.uint64)

_U = np.uint64
_ALL_ONES = np.uint64(2**64 - 1)
_HALF = np.uint64(2**32 - 1)


@njit(cache=True, nogil=True, inline="always")
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the upper and lower 64 bits of a product."""
    shift = _U(32)
    a1, a0, b1, b0 = a >> shift, a & _HALF, b >> shift, b & _HALF
    low, cross, other = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> shift) + (cross & _HALF) + (other & _HALF)
    high = a1 * b1 + (cross >> shift) + (other >> shift) + (middle >> shift)
    return high, (middle << shift) | (low & _HALF)


@njit(cache=True, nogil=True)
def _scale(digits: np.uint64, power: np.int64) -> tuple[np.uint64, bool]:
    """Return the bits of the float64 nearest to ``digits * 10^power``, and whether that is sure.

    Args:
        digits: Not 0.
        power: -40..40.
    """
    zeros = 0
    while digits >> _U(63) == _U(0):
        digits <<= _U(1)
        zeros += 1
    high, low = _multiply(digits, _HIGH[power + _LARGEST_POWER])
    if high & _U(0x1FF) == _U(0x1FF):  # the rest of the power might carry
        more, _ = _multiply(digits, _LOW[power + _LARGEST_POWER])
        low += more
        if low < more:
            high += _U(1)
    if low == _ALL_ONES and not -27 <= power <= 55:
        return _U(0), False
    upper = high >> _U(63)
    shift = upper + _U(9)
    mantissa = high >> shift
    exponent = ((217706 * power) >> 16) + 63 + np.int64(upper) - zeros + 1023
    halfway = low <= _U(1) and -4 <= power <= 23 and mantissa & _U(3) == _U(1)
    if halfway and mantissa << shift == high:  # to the even neighbour
        mantissa &= ~_U(1)
    mantissa = (mantissa + (mantissa & _U(1))) >> _U(1)
    if mantissa >= _U(1) << _U(53):
        mantissa = _U(1) << _U(52)
        exponent += 1
    bits = (mantissa & ~(_U(1) << _U(52))) | (_U(exponent) << _U(52))
    return bits, True


@njit(cache=True, nogil=True, inline="always")
def is_blank(sign: int) -> bool:
    """Tell whether a byte parts words: a space, a tab, the end of a line."""
    return sign == 32 or 9 <= sign <= 13


@njit(cache=True, nogil=True)
def parse_number(
    data: NDArray[np.uint8], start: np.uint64, end: np.uint64
) -> tuple[int, np.uint64, float]:
    """Parse a word: sign, digits, point, exponent.

    Args:
        data: Bytes of a file.
        start: Where the word starts; unsigned, which spares a test for negative indices.
        end: Where the data end, behind ``start``.

    Returns:
        ``PARSED``; ``UNDECIDED`` if ``float()`` has to decide, as of ``nan``; or ``NO_NUMBER``.
        Then the end of the word, or some place inside it, and the number, both of no meaning unless
        it was parsed.
    """
    one = _U(1)
    negative = data[start] == 45
    position = start + one if negative or data[start] == 43 else start
    first, point, digits = position, end, _U(0)
    while position < end:
        digit = np.uint8(data[position] - np.uint8(48))
        if digit <= 9:
            digits = digits * _U(10) + _U(digit)
        elif data[position] == 46 and point == end:
            point = position
        else:
            break
        position += one
    count, power = np.int64(position - first), np.int64(0)
    if point < end:
        count -= 1
        power = np.int64(point) + 1 - np.int64(position)
    if count > _MAX_DIGITS:
        count -= _leading_zeros(data, first, position)
    if count == 0 or count > _MAX_DIGITS:  # nan, inf, nothing of the kind, or too long
        return UNDECIDED, start, 0.0
    if position < end and not is_blank(data[position]):
        exponent, position = _parse_exponent(data, position, end)
        if position == _U(0):
            return NO_NUMBER, start, 0.0
        power += exponent
    if digits <= _U(2**53) and -22 <= power <= 0:  # what most numbers are
        number = np.float64(digits) / _EXACT_POWERS[-power]
    else:
        number = _compose(digits, power)
    if number != number:
        return UNDECIDED, start, 0.0
    return PARSED, position, -number if negative else number


@njit(cache=True, nogil=True)
def _leading_zeros(data: NDArray[np.uint8], start: np.uint64, end: np.uint64) -> int:
    """Count the zeros before the first other digit."""
    count = 0
    for position in range(start, end):
        if data[position] == 48:
            count += 1
        elif data[position] != 46:
            break
    return count


@njit(cache=True, nogil=True)
def _parse_exponent(
    data: NDArray[np.uint8], start: np.uint64, end: np.uint64
) -> tuple[np.int64, np.uint64]:
    """Parse ``e-12`` up to the end of the word; return it and where that is, 0 if it is none."""
    one = _U(1)
    position = start + one
    negative = position < end and data[position] == 45
    if negative or (position < end and data[position] == 43):
        position += one
    first, exponent = position, np.int64(0)
    while position < end and 48 <= data[position] <= 57:
        exponent = min(np.int64(100000), exponent * 10 + np.int64(data[position]) - 48)
        position += one
    ended = position == end or is_blank(data[position])
    if data[start] not in (69, 101) or position == first or not ended:
        return np.int64(0), _U(0)
    return np.int64(-exponent if negative else exponent), position


@njit(cache=True, nogil=True)
def _compose(digits: np.uint64, power: np.int64) -> np.float64:
    """Return ``digits * 10^power``, NaN where ``float()`` has to decide."""
    if digits <= _U(2**53) and 0 < power <= 22:
        return np.float64(np.float64(digits) * _EXACT_POWERS[power])
    if digits == _U(0) or not -_LARGEST_POWER <= power <= _LARGEST_POWER:
        return np.float64(np.nan)
    bits, sure = _scale(digits, power)
    number = np.float64(np.array([bits], dtype=np.uint64).view(np.float64)[0])
    return number if sure else np.float64(np.nan)
