"""Files that outlive the process: replaced as a whole, written by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]


class FileBusy(RuntimeError):
    """Another process works on the same file."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written anew, so that a killed process leaves the old or the new one.

    The temporary file has a fixed name: what a killed process left, its successor overwrites.

    Args:
        path: Replaced when the block ends without an error; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_locked(path: Path) -> FileIO | None:
    """Open for reading and appending, for this process alone; None where another has it.

    The lock belongs to the process (``lockf``, not ``flock``): worker processes that outlive a
    killed parent must not hold it.
    """
    while True:
        file = path.open("a+b", buffering=0)  # what was written is out of this process's hands
        if fcntl is None:
            return file
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        # The former owner may have removed the file between our open and our lock.
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()
