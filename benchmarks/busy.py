"""A process that keeps one core busy, to see what others lose by it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOOP = "while True: pass"
_STARTS = 0.2  # seconds until the loop surely runs


@contextmanager
def busy_core() -> Iterator[int]:
    """Keep the last core that this process may use busy meanwhile; yields its number.

    A child of this process, so that its time is not taken for that of others.
    """
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", _LOOP]) as process:
        try:
            os.sched_setaffinity(process.pid, {core})
            time.sleep(_STARTS)
            yield core
        finally:
            process.kill()
