"""Proposals of a whole data set in one file, read without loading it.

The file is an uncompressed npz without objects, so ``numpy.load`` opens it anywhere. Its boxes are
one array ``[sum of N, 4]``, the last member, of which photos are slices: it is written piece by
piece and read through a memory map, and may be larger than the memory.

====================  =============================================================
``version``           of this layout
``settings``          of the proposer, JSON
``names``             of the photos, ``[P]``
``digests``           SHA-256 of the photos' files, ``[P, 32]`` bytes
``sizes``             height and width of the photos in pixels, ``[P, 2]``
``offsets``           where each photo's boxes start, and their end, ``[P + 1]``
``boxes``             half-open ``xyxy`` pixels, best first in each photo, float32
====================  =============================================================
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proposals.files import replacing

VERSION = 1
BOX_TYPE = np.dtype("<f4")  # the same bytes on every machine
_MEMBERS = ("version", "settings", "names", "digests", "sizes", "offsets", "boxes")
_LOCAL_HEADER = 30  # bytes of a zip member's head before its name


@dataclass(frozen=True)
class StoredPhoto:
    """What is kept of a photo beside its boxes.

    Attributes:
        name: Different from that of every other photo of the file.
        digest: SHA-256 of the photo's file, hexadecimal.
        size: Height and width, pixels.
        num_boxes: How many proposals it has.
    """

    name: str
    digest: str
    size: tuple[int, int]
    num_boxes: int


class ProposalFile(Mapping[str, Tensor]):
    """A finished file: photo name -> boxes, best first, float32 ``[N, 4]``.

    Use ``ProposalFile.open``. Boxes are read when they are asked for.

    Attributes:
        path: Where it lies.
        settings: Of the proposer that made it.
        names: Of the photos, in the order in which they were given.
        sizes: Their heights and widths in pixels, int64 ``[P, 2]``.
    """

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Check that the arrays belong together.

        Raises:
            ValueError: If they do not.
        """
        self.path = path
        self.settings: dict[str, Any] = json.loads(str(arrays["settings"]))
        self.names: tuple[str, ...] = tuple(arrays["names"].tolist())
        self.sizes = torch.from_numpy(arrays["sizes"].astype(np.int64))
        self._digests = arrays["digests"]
        self._offsets = arrays["offsets"]
        self._boxes = arrays["boxes"]
        self._places = {name: place for place, name in enumerate(self.names)}
        count = len(self.names)
        shapes = [tuple(a.shape) for a in (self._digests, self.sizes, self._offsets)]
        if shapes != [(count, 32), (count, 2), (count + 1,)] or len(self._places) != count:
            raise ValueError("its arrays do not belong together")
        ends = self._offsets[0], self._offsets[-1]
        if (np.diff(self._offsets) < 0).any() or ends != (0, len(self._boxes)):
            raise ValueError("its offsets do not fit its boxes")
        if self._boxes.dtype != BOX_TYPE or self._boxes.shape[1:] != (4,):
            raise ValueError("its boxes are not float32 [N, 4]")

    @classmethod
    def open(cls, path: str | Path) -> ProposalFile:
        """Open a file.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it is no file of proposals, is cut off, or of another version.
        """
        path = Path(path)
        try:
            return cls(path, _read_arrays(path))
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"{path} is no file of proposals, or damaged: {text}") from error

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        rows = self._boxes[self._offsets[place] : self._offsets[place + 1]]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def photos(self) -> list[StoredPhoto]:
        """Describe every photo, in the order of ``names``."""
        rows = zip(
            self.names,
            self._digests,
            self.sizes.tolist(),
            np.diff(self._offsets).tolist(),
            strict=True,
        )
        return [
            StoredPhoto(name, digest.tobytes().hex(), (height, width), num_boxes)
            for name, digest, (height, width), num_boxes in rows
        ]


def write_proposal_file(
    path: Path,
    settings: Mapping[str, Any],
    photos: Sequence[StoredPhoto],
    boxes: Iterable[Tensor],
) -> None:
    """Write a file as a whole: a killed process leaves the old one or the new one.

    Equal content makes equal bytes; nothing depends on the time or on the machine.

    Args:
        path: The file; its folder is made.
        settings: Of the proposer, as JSON can hold them.
        photos: Each name once.
        boxes: Of each photo in turn, float32 ``[num_boxes, 4]``; only one is in memory at a time.
    """
    counts = [photo.num_boxes for photo in photos]
    digests = b"".join(bytes.fromhex(photo.digest) for photo in photos)
    small = {
        "version": np.array(VERSION, dtype="<i8"),
        "settings": np.array(json.dumps(settings, sort_keys=True), dtype=np.str_),
        "names": np.array([photo.name for photo in photos], dtype=np.str_),
        "digests": np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
        "sizes": np.array([photo.size for photo in photos], dtype="<i8").reshape(-1, 2),
        "offsets": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype("<i8"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in small.items():
            with archive.open(_member(name), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open(_member("boxes"), "w", force_zip64=True) as member:
            _write_boxes(member, sum(counts), boxes)


def box_bytes(boxes: Tensor) -> bytes:
    """Return boxes ``[N, 4]`` as the bytes that files hold."""
    return boxes.detach().cpu().numpy().astype(BOX_TYPE, copy=False).tobytes()


def _member(name: str) -> zipfile.ZipInfo:
    """Describe a member of the archive, with the date and system that every file has."""
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, also where it is not
    info.external_attr = 0o644 << 16
    return info


def _write_boxes(member: Any, total: int, boxes: Iterable[Tensor]) -> None:
    header = {"descr": BOX_TYPE.str, "fortran_order": False, "shape": (total, 4)}
    np.lib.format.write_array_header_1_0(member, header)
    written = 0
    for of_photo in boxes:
        member.write(box_bytes(of_photo))
        written += len(of_photo)
    if written != total:
        raise ValueError(f"{total} boxes were announced, {written} given")


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the small members, and map the boxes."""
    arrays: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for name in _MEMBERS[:-1]:
            data = io.BytesIO(archive.read(f"{name}.npy"))
            arrays[name] = np.lib.format.read_array(data, allow_pickle=False)
            if name == "version" and arrays[name] != VERSION:
                raise ValueError(f"version {arrays[name]}, this program reads version {VERSION}")
        info = archive.getinfo("boxes.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its boxes are compressed; numpy.load and numpy.savez undo that")
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER)
        extra = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        file.seek(info.header_offset + _LOCAL_HEADER + extra)
        arrays["boxes"] = _map_array(file, path)
    return arrays


def _map_array(file: Any, path: Path) -> NDArray[Any]:
    """Map the array whose npy header starts here."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if 0 in shape:  # nothing to map
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape)
