"""Features of photos on the disk, so that a network that stays need not make them again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detect.files import write_atomically
from proposals.multibox import FeatureMap


@dataclass(frozen=True)
class PreparedPhoto:
    """Features of a photo and its objects.

    Attributes:
        features: Of the photo, or of a part of it.
        objects: Half-open ``xyxy`` boxes in pixels of the photo, ``[G, 4]``.
        claims: Which of them each claim a prior of this map, bool ``[G]``.
    """

    features: FeatureMap
    objects: Tensor
    claims: Tensor


class FeatureStore:
    """Keeps prepared photos in a folder, a file each, until it is full.

    Args:
        folder: Of the files; made when absent. Those already there are used.
        max_bytes: Of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        self._lock = threading.Lock()

    def get(self, key: str) -> PreparedPhoto | None:
        """Return what is kept under a name; None where there is nothing of use."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                place = file.get_tensor("place").tolist()
                features = FeatureMap(
                    file.get_tensor("values"), (place[0], place[1]), (place[2], place[3])
                )
                return PreparedPhoto(
                    features, file.get_tensor("objects"), file.get_tensor("claims")
                )
        except (SafetensorError, OSError):  # not there, or cut off by whatever
            return None

    def put(self, key: str, photo: PreparedPhoto) -> None:
        """Keep a prepared photo, if there is room."""
        place = torch.tensor([*photo.features.origin, *photo.features.stride], dtype=torch.float64)
        data = save(
            {
                "values": photo.features.values.cpu().contiguous(),
                "objects": photo.objects.cpu().contiguous(),
                "claims": photo.claims.cpu().contiguous(),
                "place": place,
            }
        )
        with self._lock:
            if self._bytes + len(data) > self.max_bytes:
                return
            self._bytes += len(data)
        write_atomically(self._path(key), data)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
