"""What is used again and again and better kept: freed memory, kernels compiled for a size."""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the kernel at once.

    A network's activations are megabytes each; by default every one of them is mapped afresh, and
    the kernel clears its pages: a third of the time of detection on a CPU. To be called before
    threads start. Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)  # other arenas cannot hold blocks of this size


def keep_kernels(count: int = 20_000) -> None:
    """Let oneDNN keep more kernels than its 1024: it compiles them for every size of its input.

    Training on a shared trunk draws the sizes of maps at random, photos in detection have many;
    hundreds of kernels work on each, and were compiled again and again: a fifth of a training's
    time on a processor with AMX. To be called before the first convolution;
    ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` in the environment takes precedence.

    Args:
        count: Kernels; 20,000 came to take 2.8 GiB in a training on VOC2007, 8,000 took 1.9 GiB in
            detection, 4,000 0.6.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(count))
