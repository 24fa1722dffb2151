"""Files that outlive the process: replaced as a whole, read line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proposals.files import replacing


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, so that a killed process leaves the old or the new one.

    Names of photos that are not UTF-8 on disk are written as the bytes they were.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number a file's non-empty lines from 1, without their ends; names may be any bytes."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line := line.removesuffix("\n"):
                yield number, line


def split_paths(text: str) -> list[str]:
    """Split paths with commas between them; the name of one file that holds commas is one."""
    return [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
