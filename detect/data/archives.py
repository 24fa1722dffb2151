"""Many small files of a folder or a tar archive, read at once."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.data.problems import InputError
from detect.data.sources import BROKEN_ARCHIVE, read_bytes

_BLOCK = 512  # bytes of a tar archive's header
_PIECE = 1 << 16  # bytes; memory for more would be asked of the kernel each time


def read_files(source: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read the files of these names.

    Args:
        source: A folder, or a tar archive (.tar, .tar.gz, .tar.xz ...) that has them in whatever
            folder.
        names: Paths inside the folder.

    Returns:
        What each file holds; those that are not there are left out.

    Raises:
        InputError: If the archive is missing or broken, or holds a file twice.
    """
    return _read_folder(source, names) if source.is_dir() else _read_archive(source, set(names))


def _read_folder(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for name in names:
        try:
            file = os.open(f"{folder}/{name}", os.O_RDONLY)  # a fifth of the time of open()
        except OSError:
            continue
        try:
            found[name] = b"".join(_pieces(file))
        except OSError:  # a folder
            continue
        finally:
            os.close(file)
    return found


def _pieces(file: int) -> Iterator[bytes]:
    """Read an open file; most are over with the first piece."""
    while True:
        piece = os.read(file, _PIECE)
        yield piece
        if len(piece) < _PIECE:
            return


def _read_archive(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read the wanted files in one pass: archives do not offer access by name."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:  # refuses what is no archive
            for path, content in _plain_members(archive) or _members(tar):
                key = _wanted_tail(path, wanted)
                if key is None:
                    continue
                if key in found:
                    raise InputError(f"{archive}: holds {key} twice; keep one of them")
                found[key] = content()
    except BROKEN_ARCHIVE as error:
        raise InputError(
            f"{archive}: no complete tar archive ({error}); copy it again, or give a folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive}: {error.strerror or error}; give the folder or tar archive of the XML files"
        ) from error
    return found


_Member = tuple[str, Callable[[], bytes]]  # path in the archive, and what reads it


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for member in tar:
        content = tar.extractfile(member) if member.isfile() else None
        if content is not None:
            yield member.name, content.read


def _plain_members(archive: Path) -> list[_Member] | None:
    """List the members of a complete archive without extensions; ``None`` if it is another.

    A small part of the time of tarfile, which for thousands of small files is most of reading them.
    """
    if archive.suffix not in (".tar", ".gz", ".xz"):
        return None
    data = read_bytes(archive)
    places = _scan_headers(np.frombuffer(data, dtype=np.uint8))
    if not len(places):
        return None
    view = memoryview(data)
    return [
        (
            data[header : header + 100].partition(b"\0")[0].decode("utf-8", "surrogateescape"),
            partial(bytes, view[begin:end]),
        )
        for header, begin, end in places.tolist()
    ]


@njit(cache=True, nogil=True)
def _scan_headers(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find the files of a tar archive: header, start and end of each, ``[N, 3]``.

    There are none if the archive is cut off, or holds links, long names or other extensions.
    """
    places = np.empty((len(data) // _BLOCK, 3), dtype=np.int64)
    count, start = 0, np.int64(0)
    while start + _BLOCK <= len(data):
        header = data[start : start + _BLOCK]
        if header[0] == 0:
            return places[:count]
        size, digits = np.int64(0), 0
        for i in range(124, 136):
            if 48 <= header[i] <= 55:
                size = 8 * size + np.int64(header[i]) - 48
                digits += 1
            elif header[i] not in (0, 32) or digits == 0:
                return places[:0]
            else:
                break
        if header[156] not in (0, 48, 53) or header[345] != 0:
            return places[:0]
        if header[156] != 53:  # no folder
            places[count] = start, start + _BLOCK, start + _BLOCK + size
            count += 1
        start += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return places[:0]


def _wanted_tail(path: str, wanted: set[str]) -> str | None:
    """Return the tail of an archive path that is a wanted name, with or without folders."""
    while path not in wanted:
        _, slash, path = path.partition("/")
        if not slash:
            return None
    return path
