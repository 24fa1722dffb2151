"""What happens once: compiled code is made on first use, and kept on disk."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import event

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_announced: set[str] = set()
_LARGEST_KEPT = (32 << 20) - 8192  # bytes; the most that glibc adapts to, less its bookkeeping


class _Announcement(event.Listener):
    """Says once that code of a package is being compiled, which takes a while."""

    def __init__(self, package: str, what: str, folder: Path) -> None:
        self._package, self._what, self._folder = package, what, folder
        self._said = False

    def on_start(self, event: event.Event) -> None:
        function: Any = getattr((event.data or {}).get("dispatcher"), "py_func", None)
        ours = getattr(function, "__module__", "").startswith(f"{self._package}.")
        if ours and not self._said:
            self._said = True
            _logger.warning(
                "compiling %s for this machine, once, up to half a minute; it is kept in %s or, "
                "where that is read-only, in numba's cache folder",
                self._what,
                self._folder,
            )

    def on_end(self, event: event.Event) -> None:
        pass


def announce_compiling(package: str, what: str, folder: Path) -> bool:
    """Let the first compilation of a package's code be told.

    Args:
        package: Name of the package.
        what: What the message calls its code.
        folder: Where compiled code is kept.

    Returns:
        Whether this is the first call for the package in this process.
    """
    with _lock:
        first = package not in _announced
        _announced.add(package)
    if first:
        event.register("numba:compile", _Announcement(package, what, folder))
    return first


def prepare_process() -> None:
    """Get ready for searches; only the first call in a process does anything."""
    if announce_compiling("proposals", "selective search", Path(__file__).parent / "__pycache__"):
        # glibc hands large freed blocks back to the kernel, which clears their pages when they are
        # asked for again: a sixth of the time of a search. It keeps blocks up to the size of the
        # largest one that it has seen freed.
        np.empty(_LARGEST_KEPT, dtype=np.uint8)
