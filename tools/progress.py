"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS = 30.0  # between two plain lines


class PlainProgress:
    """Has what we use of tqdm, and prints a line every half minute."""

    def __init__(self, total: int | None, unit: str, initial: int = 0) -> None:
        self.total, self.unit, self.n = total, unit, initial
        self._start, self._initial, self._printed = time.monotonic(), initial, time.monotonic()
        self._note = ""

    def update(self, n: int = 1) -> None:
        """Count what was done."""
        self.n += n
        now = time.monotonic()
        if now - self._printed >= _SECONDS:
            self._printed = now
            rate = (self.n - self._initial) / (now - self._start)
            left = f", {(self.total - self.n) / rate / 60:.1f} min left" if self.total else ""
            total = f"/{self.total}" if self.total else ""
            print(f"{self.n}{total} {self.unit}, {rate:.2f} a second{left}{self._note}", flush=True)

    def set_postfix(self, **values: object) -> None:
        """Note what the next line shows behind the count."""
        self._note = "".join(f", {key}={value}" for key, value in values.items())

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def progress(total: int | None, unit: str, initial: int = 0) -> Any:
    """Return a context manager with ``update(n)`` and ``set_postfix(**values)``."""
    if sys.stderr.isatty():
        return tqdm(total=total, unit=f" {unit}", initial=initial, dynamic_ncols=True)
    return PlainProgress(total, unit, initial)
