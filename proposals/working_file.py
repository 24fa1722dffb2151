"""What a computation in progress has found: append-only, read again after any kind of end."""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proposals.files import FileBusy, open_locked
from proposals.store import BOX_TYPE, StoredPhoto, box_bytes

logger = logging.getLogger(__name__)

REMEDY = "choose another out=, or start afresh with overwrite=true"
_MAGIC = b"proposals in work, version 1: "
_PREFIX = struct.Struct("<II")  # bytes of the record's JSON, CRC-32 of JSON and boxes
_BOX_BYTES = 4 * BOX_TYPE.itemsize


class SettingsMismatch(ValueError):
    """Proposals on disk were made with other settings than those asked for."""


class WorkingFile:
    """One line with the settings, then one record a photo, each written by itself.

    A record carries a checksum. What a killed process or a power cut has left incomplete at the
    end is cut off, so nothing has to be forced to the disk photo by photo: the system writes it
    when it likes, and at worst some photos are computed again.

    Use ``WorkingFile.open`` in a ``with`` statement. Only one thread may use it.

    Attributes:
        path: Where it lies.
        photos: What it holds, by name; of a name that came twice the later one.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.photos: dict[str, StoredPhoto] = {}
        self._places: dict[str, int] = {}  # where a photo's boxes start
        self._file = file

    @classmethod
    def open(
        cls, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> WorkingFile:
        """Create the file, or go on with the one that is there.

        Args:
            path: The file; its folder is made.
            settings: Of the proposer, as JSON can hold them.
            overwrite: Throw away what was made with other settings.

        Raises:
            SettingsMismatch: If it was made with other settings.
            FileBusy: If another process has it open.
            ValueError: If it is no such file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        working = cls(path, _open_locked(path))
        try:
            working._resume(settings, overwrite)
        except BaseException:
            working.close()
            raise
        return working

    def append(self, photo: StoredPhoto, boxes: Tensor) -> None:
        """Add a photo, with its boxes ``[num_boxes, 4]``.

        Raises:
            OSError: If the disk is full; the file is then as it was before.
        """
        head = json.dumps([photo.name, photo.digest, *photo.size, photo.num_boxes]).encode()
        content = head + box_bytes(boxes)
        start = self._write(_PREFIX.pack(len(head), zlib.crc32(content)) + content)
        self._index(photo, start + _PREFIX.size + len(head))

    def boxes(self, name: str) -> Tensor:
        """Read a photo's boxes, float32 ``[N, 4]``."""
        self._file.seek(self._places[name])
        data = bytearray(self._file.read(self.photos[name].num_boxes * _BOX_BYTES))
        rows = np.frombuffer(data, dtype=BOX_TYPE).astype(np.float32, copy=False)
        return torch.from_numpy(rows.reshape(-1, 4))

    def remove(self) -> None:
        """Delete the file, when its content is elsewhere."""
        self.path.unlink(missing_ok=True)  # while the lock is still held

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> WorkingFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.photos:  # nothing worth to go on with
            self.remove()
        self.close()

    def _index(self, photo: StoredPhoto, place: int) -> None:
        self.photos[photo.name] = photo
        self._places[photo.name] = place

    def _write(self, data: bytes) -> int:
        """Append data as a whole or not at all; return where it starts."""
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except BaseException:
            os.ftruncate(self._file.fileno(), start)  # or a record would follow half a record
            raise
        return start

    def _resume(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Read what is there and cut off an incomplete end."""
        self._file.seek(0)
        line = self._file.readline()
        header = _MAGIC + json.dumps(settings, sort_keys=True).encode() + b"\n"
        has_records = self._file.seek(0, os.SEEK_END) > len(line)
        if line != header and not overwrite:
            theirs = _read_header(line, self.path)
            if has_records:
                check_settings(self.path, theirs, settings)
        if not has_records or (line != header and overwrite):
            os.ftruncate(self._file.fileno(), 0)
            self._write(header)
            return
        end = len(line)
        for photo, place in self._records(end):
            self._index(photo, place)
            end = place + photo.num_boxes * _BOX_BYTES
        if left := self._file.seek(0, os.SEEK_END) - end:
            logger.warning("%s: the last %d bytes are incomplete and left out", self.path, left)
            os.ftruncate(self._file.fileno(), end)

    def _records(self, start: int) -> Iterator[tuple[StoredPhoto, int]]:
        """Read the records up to the first incomplete one; give each with its boxes' place."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(start)
        while len(prefix := self._file.read(_PREFIX.size)) == _PREFIX.size:
            length, checksum = _PREFIX.unpack(prefix)
            start += _PREFIX.size + length
            if start > size:  # before reading: the length itself may be anything
                return
            head = self._file.read(length)
            try:
                name, digest, height, width, num_boxes = json.loads(head)
                data = self._file.read(min(num_boxes * _BOX_BYTES, size - start))
            except (ValueError, TypeError):
                return
            if zlib.crc32(data, zlib.crc32(head)) != checksum:
                return
            yield StoredPhoto(name, digest, (height, width), num_boxes), start
            start += len(data)


def check_settings(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compare the settings of a file with those asked for, key by key.

    Raises:
        SettingsMismatch: If they differ; says in which.
    """
    ours = json.loads(json.dumps(ours))  # tuples become lists, as they did in the file
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if keys:
        shown = [
            f"{key}: {json.dumps(theirs.get(key))} there, {json.dumps(ours.get(key))} here"
            for key in keys
        ]
        raise SettingsMismatch(
            f"{path} was made with other settings ({'; '.join(shown)}): {REMEDY}"
        )


def _read_header(line: bytes, path: Path) -> dict[str, Any]:
    """Return the settings in the first line; none where it is empty or torn.

    Raises:
        ValueError: If the file was made by something else.
    """
    if _MAGIC.startswith(line) or (line.startswith(_MAGIC) and not line.endswith(b"\n")):
        return {}
    try:
        if line.startswith(_MAGIC):
            return dict(json.loads(line.removeprefix(_MAGIC)))
    except ValueError:
        pass
    raise ValueError(
        f"{path} is in the way, and no proposals in work: move it, or choose another out="
    )


def _open_locked(path: Path) -> FileIO:
    """Open for reading and appending, for this process alone.

    Raises:
        FileBusy: If another process has it.
    """
    file = open_locked(path)
    if file is None:
        raise FileBusy(
            f"{path} is in use by another run: wait for it, stop it, or choose another out="
        )
    return file
