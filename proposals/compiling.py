"""What happens once: compiled code is made on a machine's first search, and kept on disk."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import event

_logger = logging.getLogger(__name__)
_first = threading.Lock()
_LARGEST_KEPT = (32 << 20) - 8192  # bytes; the most that glibc adapts to, less its bookkeeping


class _Announcement(event.Listener):
    """Says once that code of this package is being compiled, which takes a while."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: event.Event) -> None:
        function: Any = getattr((event.data or {}).get("dispatcher"), "py_func", None)
        ours = getattr(function, "__module__", "").startswith("proposals.")
        if ours and not self._said:
            self._said = True
            folder = Path(__file__).parent / "__pycache__"
            _logger.warning(
                "compiling selective search for this machine, once, about half a minute; "
                "it is kept in %s or, where that is read-only, in numba's cache folder",
                folder,
            )

    def on_end(self, event: event.Event) -> None:
        pass


def prepare_process() -> None:
    """Get ready for searches; only the first call in a process does anything."""
    if not _first.acquire(blocking=False):  # never released: a flag that threads agree on
        return
    event.register("numba:compile", _Announcement())
    # glibc hands large freed blocks back to the kernel, which clears their pages when they are
    # asked for again: a sixth of the time of a search. It keeps blocks up to the size of the
    # largest one that it has seen freed.
    np.empty(_LARGEST_KEPT, dtype=np.uint8)
