"""What training reads again and again: proposals and maps of the frozen stem, kept on disk.

A folder with one safetensors file a photo, each written atomically, so that an interrupted
preparation goes on where it stopped. The folder's name holds a digest of everything the content
depends on: other settings get another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detect.data.records import Record
from detect.files import write_atomically
from detect.images import ImageError, read_image
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.shared_geometry import STRIDE, resized_size
from detect.shared_trunk import SharedTrunk
from proposals import Proposer
from proposals.proposer import check_threads

STEM_CHANNELS = 480


@dataclass(frozen=True)
class CachedPhoto:
    """One photo as training sees it.

    Attributes:
        proposals: Candidate boxes of the photo as it lies on disk, ``[N, 4]``.
        stem_map: Output of the stem for the photo, or for its mirror image, ``[1, 480, h, w]``.
        image_size: Height and width of the photo, pixels.
    """

    proposals: Tensor
    stem_map: Tensor
    image_size: tuple[int, int]


class TrainingCache:
    """Proposals and stem maps of a data set on disk.

    Args:
        folder: Parent of the cache; made when absent.
        trunk: Computes the maps; a copy of it, in the precision in which it will detect.
        proposer: Finds the candidate boxes.
        key: Names the stem's weights and the proposer's settings; part of the folder's name.
    """

    def __init__(
        self, folder: Path, trunk: SharedTrunk, proposer: Proposer, key: dict[str, Any]
    ) -> None:
        device = trunk.network.device
        dtype = best_precision(device)
        content = json.dumps({**key, "dtype": str(dtype), **vars(trunk.config)}, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(content.encode()).hexdigest()[:12]
        network = prepare_network(trunk.network, dtype=dtype, device=device)
        self.trunk = SharedTrunk(network, trunk.preprocessing, trunk.config)
        self.proposer = proposer
        write_atomically(self.folder / "settings.json", content)

    def expected_bytes(self, records: list[Record]) -> int:
        """Estimate the size of the whole cache from the photos' sizes, in bytes."""
        total, element = 0, self.trunk.network.dtype.itemsize
        for record in records:
            size = (record.height or 375, record.width or 500)
            height, width = resized_size(size, self.trunk.config)
            total += 2 * (height // STRIDE) * (width // STRIDE) * STEM_CHANNELS * element
        return total

    def missing(self, records: list[Record]) -> list[Record]:
        """Return the records that :meth:`prepare` has not been through."""
        return [record for record in records if not self._path(record).exists()]

    @torch.inference_mode()
    def prepare(self, record: Record) -> None:
        """Compute and store one photo.

        Raises:
            ImageError: If the photo cannot be read.
        """
        assert record.path is not None
        image = read_image(record.path)
        content = {
            "proposals": self.proposer(image),
            "plain": self._rows(self.trunk.stem_map(image)),
            "mirrored": self._rows(self.trunk.stem_map(image, mirror=True)),
            "size": torch.tensor(image.shape[-2:]),
        }
        write_atomically(self._path(record), save(content))

    def prepare_all(
        self, records: list[Record], threads: int, on_done: Callable[[], object]
    ) -> list[ImageError]:
        """Compute and store photos, several at a time.

        Args:
            records: Those to prepare.
            threads: Photos in work at the same time, one core each.
            on_done: Called after each.

        Returns:
            Why photos could not be read; all others are stored.
        """
        check_threads(threads, self.proposer)
        failed = []
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for future in [pool.submit(self.prepare, record) for record in records]:
                try:
                    future.result()
                except ImageError as error:
                    failed.append(error)
                on_done()
        finally:
            pool.shutdown(cancel_futures=True)
        return failed

    def load(self, record: Record, *, mirror: bool) -> CachedPhoto:
        """Read one photo's proposals and one of its two maps.

        Raises:
            ValueError: If the file is damaged, naming it and the remedy.
        """
        path = self._path(record)
        try:
            with safe_open(path, framework="pt") as file:
                rows = file.get_tensor("mirrored" if mirror else "plain")
                proposals = file.get_tensor("proposals")
                height, width = file.get_tensor("size").tolist()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it and start again") from error
        return CachedPhoto(proposals, rows.permute(2, 0, 1)[None], (height, width))

    def regions_of(self, records: list[Record], count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield image and first ``count`` proposals of records, ``[3, H, W]`` and ``[n, 4]``."""
        for record in records:
            assert record.path is not None
            proposals = self.load(record, mirror=False).proposals
            yield read_image(record.path), proposals[:count]

    def _path(self, record: Record) -> Path:
        return self.folder / f"{record.name}.safetensors"

    @staticmethod
    def _rows(maps: Tensor) -> Tensor:
        """Store a map as rows ``[h, w, C]``, in which it comes back channels last."""
        return maps[0].permute(1, 2, 0).contiguous().cpu()
