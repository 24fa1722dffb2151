"""Regions of an image in batches: on the cores of a CPU, or one after the other on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from detect.cuda_graphs import Compute, GraphedCompute
from detect.heads import decode_boxes
from detect.workers import CoreWorkers

logger = logging.getLogger(__name__)


class RegionBatches:
    """Scores the regions of an image, as many at a time as suits the device.

    Args:
        compute: Takes what ``cut`` makes of a batch, and returns logits ``[n, C + 1]`` and box
            offsets ``[n, C, 4]``; without waiting for a GPU inside.
        device: Where it computes.
        batch_size: Regions that are computed together. Halved for good where a GPU's memory does
            not suffice.
        workers: The cores that share the batches on a CPU. The batches are the same for any
            number of them, and so are the results.
        probabilities: Turns logits into probabilities, both ``[N, C + 1]``; by default softmax.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        device: torch.device,
        batch_size: int,
        workers: CoreWorkers,
        probabilities: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.probabilities = probabilities or partial(torch.softmax, dim=1)
        self._compute = compute
        self._graphed = GraphedCompute(compute)

    @torch.inference_mode()
    def score(
        self,
        boxes: Tensor,
        cut: Callable[[Tensor], Tensor],
        image_size: tuple[int, int],
        *,
        regions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score regions batch by batch.

        Args:
            boxes: Regions in pixels, on the CPU, ``[N, 4]``.
            cut: Makes the input ``[n, ...]``, where it is computed, of ``n`` of the regions.
            image_size: Height and width of the image, pixels.
            regions: What ``cut`` takes of every region, ``[N, ...]``; by default ``boxes``.

        Returns:
            A regressed box a class, ``[N, C, 4]``, and probabilities with background last,
            ``[N, C + 1]``, both float32 on the CPU.

        Raises:
            torch.OutOfMemoryError: If not even a single region fits into a GPU's memory.
        """
        regions = boxes if regions is None else regions
        if self.device.type == "cpu":
            parts = self.workers.map(
                lambda part: self._compute(cut(part)), regions.split(self.batch_size)
            )
        else:
            parts = self._score_on_gpu(regions, cut)
        logits, offsets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        scores = self.probabilities(logits)
        moved = decode_boxes(boxes.to(logits.device), offsets, image_size)
        moved, scores = fetch(moved, scores)
        return moved, scores

    def apply(self, function: Callable[[Tensor], Tensor], regions: Tensor) -> Tensor:
        """Apply a function to regions ``[N, ...]`` batch by batch; return its results on the CPU.

        Args:
            function: Returns a row for every region, ``[n, ...]``, and needs no more memory than
                scoring does.
            regions: What it takes.
        """
        parts = regions.split(self.batch_size)
        if self.device.type == "cpu":
            return torch.cat(self.workers.map(function, parts))
        return torch.cat([function(part) for part in parts]).cpu()

    def _score_on_gpu(
        self, regions: Tensor, cut: Callable[[Tensor], Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        compute = self._graphed if self.device.type == "cuda" else self._compute
        while True:
            try:
                return [compute(cut(part)) for part in regions.split(self.batch_size)]
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            # Outside of the handler, which keeps the failed call's tensors alive.
            self.batch_size = max(1, min(self.batch_size, len(regions)) // 2)
            self._graphed.release()
            torch.cuda.empty_cache()
            logger.warning("out of GPU memory: going on with batches of %d", self.batch_size)


def fetch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to the CPU; from a GPU through pinned memory, waiting once for all of them."""
    if tensors[0].device.type != "cuda":
        return tuple(tensor.cpu() for tensor in tensors)
    fetched = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors)
    for target, source in zip(fetched, tensors, strict=True):
        target.copy_(source, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return fetched


def upload(image: Tensor, device: torch.device) -> Tensor:
    """Bring an image to a device; to a GPU through pinned memory, without waiting for it."""
    if device.type != "cuda":
        return image.to(device)
    return image.contiguous().pin_memory().to(device, non_blocking=True)
