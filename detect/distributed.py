"""Processes that train together, as torchrun starts them; one process alone needs nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Group:
    """The processes of one training.

    Attributes:
        rank: Of this process, from 0; rank 0 writes the files.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Average tensors over the processes, all of them in one message."""
        if self.size == 1:
            return list(tensors)
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(joined)
        joined /= self.size
        parts = joined.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows of all processes, as many of each, in the order of their ranks."""
        if self.size == 1:
            return rows
        gathered = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(gathered, rows)
        return torch.cat(gathered)

    def from_first(self, item: _Item) -> _Item:
        """Give all processes the first one's value."""
        if self.size == 1:
            return item
        items = [item]
        distributed.broadcast_object_list(items)
        return items[0]

    def first_says(self, say: Callable[[str], object]) -> Callable[[str], object]:
        """Return what tells the user a line in the first process, and in others nothing."""
        return say if self.rank == 0 else lambda _: None

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun has started; without torchrun, one process alone."""
    if "WORLD_SIZE" not in os.environ:
        yield Group()
        return
    # Others wait while the first one computes proposals, for as long as that takes.
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=2)
    )
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
