"""Memory that is used again and again, for tools that allocate the same large tensors forever."""

from __future__ import annotations

import ctypes
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
