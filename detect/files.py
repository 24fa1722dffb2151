"""Files that outlive the process: replaced as a whole, read line by line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, so that a killed process leaves the old or the new one.

    The temporary file has a fixed name: what a killed process left, its successor overwrites. Names
    of photos that are not UTF-8 on disk are written as the bytes they were.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number a file's non-empty lines from 1, without their ends; names may be any bytes."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line := line.removesuffix("\n"):
                yield number, line
