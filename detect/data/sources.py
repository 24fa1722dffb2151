"""Files that people hand in: plain or compressed text, JSON.

Whatever is wrong with them ends as one ``InputError`` that names the file, the line or entry, the
value and the remedy, so that a tool can print it and stop.
"""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detect.data.problems import InputError

BROKEN_ARCHIVE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)


def read_bytes(path: Path) -> bytes:
    """Read a file, plain or compressed with gzip or xz, whatever its name.

    Raises:
        InputError: If the file is missing, a folder, unreadable or cut off.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz" or data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        elif path.suffix == ".xz" or data.startswith(b"\xfd7zXZ\0"):
            data = lzma.decompress(data)
    except BROKEN_ARCHIVE as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); pack or copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the path of a file") from error
    return data


def read_text(path: Path) -> str:
    """Read a text file, plain or compressed; what is not UTF-8 stays what it is.

    Raises:
        InputError: As ``read_bytes``.
    """
    return read_bytes(path).decode("utf-8-sig", "surrogateescape")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return a text file's non-blank lines with their numbers from 1.

    Only a line feed ends a line: names of images may hold every other sign.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Read a JSON file, plain or compressed.

    Raises:
        InputError: If the file is missing or no complete JSON.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply; give another file") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: no valid JSON ({error.msg}); "
            "the file may be cut off: write or copy it again"
        ) from error


def first_repeated(values: Iterable[Any]) -> Any:
    """Return the first value that occurs a second time, ``None`` where all differ."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
