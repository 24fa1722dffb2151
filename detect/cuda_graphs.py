"""A network as a CUDA graph: one launch instead of hundreds, for inputs of a few fixed sizes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Compute = Callable[[Tensor], tuple[Tensor, Tensor]]
_SMALLEST = 32  # rows of a graph; fewer leave a GPU idle anyway
_WARM_UPS = 3  # calls before the capture, in which cuDNN chooses its kernels


class GraphedCompute:
    """Replays a function of a batch as a CUDA graph, captured once for each size of batch.

    Sizes are powers of two times the smallest; a batch in between is padded to the next. Several
    threads may call it, on one stream.

    Args:
        compute: Takes ``[N, ...]`` on a CUDA device and returns two tensors of N rows, each row
            from its own input row alone; without synchronisation inside.
    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self._graphs: dict[tuple[int, ...], _Graph | None] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``compute`` returns, as tensors of their own.

        Raises:
            torch.OutOfMemoryError: If the GPU's memory does not suffice.
        """
        with self._lock:
            shape = padded_size(len(inputs)), *inputs.shape[1:]
            if shape not in self._graphs:
                self._graphs[shape] = self._capture(shape, inputs.dtype, inputs.device)
            graph = self._graphs[shape]
            return self.compute(inputs) if graph is None else graph(inputs)

    def release(self) -> None:
        """Forget all graphs, and with them the memory that they hold."""
        with self._lock:
            self._graphs.clear()

    def _capture(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> _Graph | None:
        try:
            return _Graph(self.compute, shape, dtype, device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            logger.warning("no CUDA graph for batches of %d: %s", shape[0], reason)
            return None


class _Graph:
    """One captured graph with the memory that its input and outputs stay in."""

    def __init__(
        self, compute: Compute, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        order = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        self.inputs = torch.zeros(shape, dtype=dtype, device=device).to(memory_format=order)
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                compute(self.inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        # Where capturing fails, the inner context stays on its stream; the outer one returns.
        here = torch.cuda.stream(torch.cuda.current_stream(device))
        # Other threads may allocate meanwhile.
        with here, torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = compute(self.inputs)

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        count = len(inputs)
        self.inputs[:count].copy_(inputs, non_blocking=True)
        self.graph.replay()
        first, second = self.outputs
        return first[:count].clone(), second[:count].clone()


def padded_size(count: int) -> int:
    """Return the size of the graph for this many rows: the next power of two, 32 at least."""
    return max(_SMALLEST, 1 << max(count - 1, 0).bit_length())
