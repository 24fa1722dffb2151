"""The run's ledger: what was found on each photo, on disk as soon as it is known."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from detect.detections import Detections
from detect.files import FileLock, write_atomically
from detect.results import ImageResult, check_finite, exact_texts

VERSION = 1
REMEDY = "choose another out=, or start afresh with overwrite=true"


class LedgerMismatch(ValueError):
    """A ledger was made with other settings than those of this run."""


class Ledger:
    """An append-only file of JSON lines: a header, then one line a photo.

    The header holds the version, the settings and the class names; a line holds name, fingerprint,
    size, boxes, scores and labels, the last line of a name counts. Each line is on the disk before
    ``append`` returns, so that a killed process loses at most the photo in work. Boxes and scores
    come back bit by bit. Nothing in the file depends on the time or on the machine.

    Use ``Ledger.open``; close it, or use it in a ``with`` statement. While one thread appends,
    others may ``get``.
    """

    def __init__(self, path: Path, header: bytes, class_names: tuple[str, ...], lock: FileLock):
        self.path = path
        self._header = header
        self._class_names = class_names
        self._lock = lock
        self._lines: dict[str, tuple[str, int, int]] = {}  # name -> fingerprint, offset, length
        self._file = -1
        self._turn = threading.Lock()  # reading and appending both move the file's position

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        class_names: Sequence[str],
        *,
        overwrite: bool = False,
    ) -> Ledger:
        """Create a ledger, or resume the one that is there.

        Args:
            path: The file, by custom ``detections.jsonl``; its folder is made.
            settings: Everything that changes the results, as JSON can hold it.
            class_names: Names of the classes that labels index, ``[C]``.
            overwrite: Start afresh even where a ledger is there.

        Raises:
            LedgerMismatch: If the ledger was made with other settings, classes or version.
            FileBusy: If another process has it open.
            ValueError: If a line other than a torn last one is damaged; names the line.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"version": VERSION, "settings": settings, "class_names": list(class_names)}
        line = _encode(header, sort_keys=True)
        ledger = cls(path, line, tuple(class_names), FileLock(path))
        try:
            if overwrite or not path.exists() or path.stat().st_size == 0:
                write_atomically(path, line)  # as a whole: a header is never torn
            ledger._resume()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def get(self, name: str, fingerprint: str) -> ImageResult | None:
        """Return a photo's result, or ``None`` if it is unknown or its content has changed."""
        known, offset, length = self._lines.get(name, ("", 0, 0))
        if length == 0 or known != fingerprint:
            return None
        return _decode(self._read(offset, length), self._class_names)[1]

    def append(self, result: ImageResult, fingerprint: str) -> None:
        """Add a photo's result and bring it to the disk.

        Args:
            result: What was found.
            fingerprint: Changes when the content of the photo's file changes.

        Raises:
            ValueError: If a box or score is not finite, or a label has no class.
            OSError: If the disk is full; the ledger is then as it was before.
        """
        line = _encode_result(result, fingerprint)
        _decode(line, self._class_names)  # what cannot be read back must not be written
        start = os.fstat(self._file).st_size
        try:
            written = 0
            with self._turn:
                while written < len(line):
                    written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, start)  # or the next line would follow half a line
            raise
        self._lines[result.name] = (fingerprint, start, len(line))

    def compact(self, names: Sequence[str]) -> None:
        """Rewrite the file atomically with one line for each name, in their order.

        What a run leaves is thereby the same, however often it was killed. Photos not named are
        forgotten.

        Raises:
            KeyError: If the ledger does not hold a name.
        """
        places = [self._lines[name] for name in names]
        lines = [self._read(offset, length) for _, offset, length in places]
        os.close(self._file)
        self._file = -1
        try:
            write_atomically(self.path, self._header + b"".join(lines))
        finally:
            self._resume()

    def close(self) -> None:
        """Release the file and its lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, offset: int, length: int) -> bytes:
        with self._turn:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, length)

    def _resume(self) -> None:
        """Read the file, cut off a torn last line, and keep it open for appending."""
        self._lines = {}
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    self._check_header(line)  # never torn: it was written as a whole
                elif not line.endswith(b"\n"):
                    break
                else:
                    self._index(line, number, end)
                end += len(line)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        os.ftruncate(self._file, end)

    def _index(self, line: bytes, number: int, offset: int) -> None:
        try:
            fingerprint, result = _decode(line, self._class_names)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.path}, line {number} is damaged ({error!r}): delete this line, {REMEDY}"
            ) from error
        self._lines[result.name] = (fingerprint, offset, len(line))

    def _check_header(self, line: bytes) -> None:
        """Compare the file's header with this run's, key by key.

        Raises:
            LedgerMismatch: If they differ.
            ValueError: If the line is no header.
        """
        if line == self._header:
            return
        ours = json.loads(self._header)
        try:
            header = json.loads(line)
            theirs = _flatten({key: header[key] for key in ours})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is no ledger of detections: {REMEDY}") from error
        ours = _flatten(ours)
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if not keys:
            raise ValueError(f"{self.path}, line 1 is damaged: {REMEDY}")
        shown = [
            f"{key.removeprefix('settings.')}: {theirs.get(key, 'not set')} there, "
            f"{ours.get(key, 'not set')} here"
            for key in keys[:5]
        ]
        more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise LedgerMismatch(
            f"{self.path} was made with other settings ({'; '.join(shown)}{more}): {REMEDY}"
        )


def _encode(value: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """Return one line of JSON; ASCII, so that names that are no valid text survive as well."""
    return json.dumps(value, sort_keys=sort_keys, allow_nan=False).encode("ascii") + b"\n"


def _encode_result(result: ImageResult, fingerprint: str) -> bytes:
    found = result.detections
    check_finite(found, result.name)
    numbers = [float(text) for text in exact_texts(found.boxes)]
    return _encode(
        {
            "name": result.name,
            "fingerprint": fingerprint,
            "width": result.width,
            "height": result.height,
            "boxes": [numbers[i : i + 4] for i in range(0, len(numbers), 4)],
            "scores": [float(text) for text in exact_texts(found.scores)],
            "labels": found.labels.tolist(),
        }
    )


def _decode(line: bytes, class_names: tuple[str, ...]) -> tuple[str, ImageResult]:
    """Return the fingerprint and the result that a line holds."""
    entry = json.loads(line)
    boxes = torch.tensor(entry["boxes"], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(entry["scores"], dtype=torch.float32)
    labels = torch.tensor(entry["labels"], dtype=torch.int64)
    detections = Detections(boxes, scores, labels, class_names)
    result = ImageResult(entry["name"], entry["width"], entry["height"], detections)
    return str(entry["fingerprint"]), result


def _flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return nested JSON as ``a.b.0`` -> JSON text of the leaf."""
    if not isinstance(value, dict | list) or not value:
        return {key: json.dumps(value, ensure_ascii=False)}
    flat = {}
    for part, item in value.items() if isinstance(value, dict) else enumerate(value):
        flat.update(_flatten(item, f"{key}.{part}" if key else str(part)))
    return flat
