"""Files of ``[name] number number ...`` lines -> one table, with every line checked."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.data.numbers import is_blank, parse_number
from detect.data.problems import Kind, Problems
from detect.data.sources import read_bytes

_GOOD, _BLANK, _UNDECIDED, _MALFORMED = range(4)  # what a line turned out to be
_AFTER = np.array([_GOOD, _UNDECIDED, _MALFORMED])  # what a number makes of its line
_LINE_FEED = 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARTS = 2 * (os.cpu_count() or 1)  # of a file, worked at side by side

NOT_FINITE = Kind(
    "not_finite",
    "holds a number that is not finite",
    "scores and boxes must be finite: correct the lines or leave them out, drop=[not_finite]",
)


@dataclass(frozen=True)
class NumberLines:
    """The good lines of a file.

    Attributes:
        values: Their numbers, float64 ``[N, columns]``.
        numbers: The number of each line in the file, from 1, int64 ``[N]``.
        names: What stands before the numbers, ``[N]``; empty where no name belongs there.
    """

    values: NDArray[np.float64]
    numbers: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.values)

    def place(self, row: int) -> str:
        """Return what a message calls a line."""
        return f"line {self.numbers[row]}"


def read_number_lines(
    path: Path, columns: int, form: str, problems: Problems, *, any_number: bool = False
) -> NumberLines:
    """Read a file, plain, .gz or .xz, of numbers between blanks.

    Args:
        path: The file.
        columns: Numbers a line.
        form: How a line should look, such as ``name score xmin ymin xmax ymax``. A name belongs
            there if the form begins with ``name``; it may hold blanks.
        problems: Takes lines that are not of that form or hold a number that is not finite; these
            are left out.
        any_number: Take numbers that are not finite, too.

    Raises:
        InputError: If the file cannot be read.
    """
    content = read_bytes(path)
    named = form.startswith("name ")
    values, spans, kinds = _parse(content, columns, named)
    if (kinds == _UNDECIDED).any():
        _decide(content, values, spans, kinds)

    def describe(row: int) -> tuple[str, str]:
        line = content.split(b"\n", row + 1)[row]
        return f"line {row + 1}", repr(line.decode("utf-8", "backslashreplace").strip())

    remedy = "write the line again, or leave it out with drop=[malformed]"
    malformed = Kind("malformed", f"is not '{form}'", remedy)
    problems.add_rows(malformed, kinds == _MALFORMED, describe)
    good = kinds == _GOOD
    if not any_number:
        finite = np.isfinite(values).all(axis=1)
        problems.add_rows(NOT_FINITE, good & ~finite, describe)
        good &= finite
    numbers = np.flatnonzero(good) + 1
    if len(numbers) < len(values):
        values, spans = values[good], spans[good] if named else spans
    names = [content[a:b].decode("utf-8", "surrogateescape") for a, b in spans.tolist()]
    return NumberLines(values, numbers, names)


def _parse(
    content: bytes, columns: int, named: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8]]:
    """Parse a file in several parts at the same time; see ``_parse_lines``."""
    data = np.frombuffer(content, dtype=np.uint8)
    start = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    ends = [start]
    for part in range(1, _PARTS):
        wanted = max(ends[-1], start + (len(content) - start) * part // _PARTS)
        ends.append(content.find(b"\n", wanted) + 1 or len(content))
    parts = list(zip(ends, [*ends[1:], len(content)], strict=True))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(lambda part: _count_lines(data, *part), parts))
        rows = np.cumsum([0, *counts])
        values = np.empty((rows[-1], columns))
        spans = np.empty((rows[-1] if named else 0, 2), dtype=np.int64)
        kinds = np.empty(rows[-1], dtype=np.uint8)

        def work(i: int) -> None:
            own = slice(rows[i], rows[i + 1])
            _parse_lines(data, *parts[i], values[own], spans[own], kinds[own])

        list(pool.map(work, range(len(parts))))
    return values, spans, kinds


@njit(cache=True, nogil=True)
def _count_lines(data: NDArray[np.uint8], start: int, end: int) -> int:
    """Count lines, the last of which need not end with a line feed."""
    count = 0
    for i in range(start, end):
        count += data[i] == _LINE_FEED
    return count + (end > start and data[end - 1] != _LINE_FEED)


@njit(cache=True, nogil=True)
def _parse_lines(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    values: NDArray[np.float64],
    spans: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> None:
    """Parse the lines between two positions.

    Args:
        data: Bytes of the file.
        start: Where the first line starts.
        end: One past the end of the last line.
        values: Takes the numbers, ``[L, columns]``.
        spans: Takes start and end of the name before the numbers, ``[L, 2]``; ``[0, 2]`` where no
            name belongs there.
        kinds: Takes what each line turned out to be, ``[L]``.
    """
    one, position, stop = np.uint64(1), np.uint64(start), np.uint64(end)
    for row in range(len(kinds)):
        if len(spans):
            position = _split_name(data, position, stop, values.shape[1], spans[row])
        kind, column = _GOOD, 0
        while True:
            while position < stop and is_blank(data[position]) and data[position] != _LINE_FEED:
                position += one
            if position == stop or data[position] == _LINE_FEED:
                break
            if column == values.shape[1]:
                kind = _MALFORMED
            else:
                parsed, position, number = parse_number(data, position, stop)
                values[row, column] = number
                kind = max(kind, _AFTER[parsed])
                column += 1
            if kind != _GOOD:
                while position < stop and data[position] != _LINE_FEED:
                    position += one
        if kind == _GOOD and column < values.shape[1]:
            kind = _BLANK if column == 0 else _MALFORMED
        if kind == _GOOD and len(spans) and spans[row, 0] == spans[row, 1]:
            kind = _MALFORMED
        kinds[row] = kind
        position += one


@njit(cache=True, nogil=True)
def _split_name(
    data: NDArray[np.uint8],
    start: np.uint64,
    end: np.uint64,
    columns: int,
    span: NDArray[np.int64],
) -> np.uint64:
    """Find the name before the last ``columns`` words of a line; return where these start."""
    one, last = np.uint64(1), start
    while last < end and data[last] != _LINE_FEED:
        last += one
    while start < last and is_blank(data[start]):
        start += one
    for _ in range(columns):
        while last > start and is_blank(data[last - one]):
            last -= one
        while last > start and not is_blank(data[last - one]):
            last -= one
    name_end = last
    while name_end > start and is_blank(data[name_end - one]):
        name_end -= one
    span[0], span[1] = start, name_end
    return last


def _decide(
    content: bytes,
    values: NDArray[np.float64],
    spans: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> None:
    """Let ``float()`` parse the lines that compiled code left undecided."""
    lines = content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    for row in np.flatnonzero(kinds == _UNDECIDED):
        words = lines[row].split()
        columns = values.shape[1]
        kinds[row] = _MALFORMED
        right = len(words) > columns if len(spans) else len(words) == columns
        if right and b"_" not in b"".join(words[-columns:]):
            with contextlib.suppress(ValueError):
                values[row] = [float(word) for word in words[-columns:]]
                kinds[row] = _GOOD
