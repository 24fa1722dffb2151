"""What long work tells about itself; tools/progress.py shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Bar(Protocol):
    """What shows progress."""

    def update(self, n: int = 1) -> object:
        """Count what was done."""

    def set_postfix(self, **values: object) -> None:
        """Show values beside the count."""


# Makes a bar of a number of steps and what they are; initial= counts those that were done before.
Progress = Callable[..., AbstractContextManager[Bar]]
