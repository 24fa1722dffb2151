"""Files that outlive the process: replaced as a whole, locked, read line by line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from proposals.files import FileBusy, open_locked, replacing


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, so that a killed process leaves the old or the new one.

    Names of photos that are not UTF-8 on disk are written as the bytes they were.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


class FileLock:
    """Keeps other processes from a file: a hidden file beside it, gone when the lock is closed.

    Args:
        path: What is written by the owner of the lock alone; it need not exist.

    Raises:
        FileBusy: If another process has the lock; names the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        self._file = open_locked(self._path)
        if self._file is None:
            owner = "unknown"
            with suppress(OSError):  # it may have ended meanwhile
                owner = self._path.read_text(encoding="ascii").strip()
            raise FileBusy(
                f"{path} is in use by another run (process {owner}): wait for it or stop it"
            )
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let others have it; a second call does nothing."""
        if self._file is not None:
            with suppress(OSError):  # Windows removes no open file
                self._path.unlink()  # while it is still held
            self._file.close()
            self._file = None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number a file's non-empty lines from 1, without their ends; names may be any bytes."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line := line.removesuffix("\n"):
                yield number, line


def split_paths(text: str) -> list[str]:
    """Split paths with commas between them; the name of one file that holds commas is one."""
    return [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
