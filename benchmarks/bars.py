"""What a figure has to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A limit that a number is held against.

    Attributes:
        what: Of which the limit is one, such as ``x the anchor``.
        limit: The number itself.
        at_most: Whether it is an upper limit; a lower one otherwise.
        decimals: With which numbers are written.
    """

    what: str
    limit: float
    at_most: bool = False
    decimals: int = 1

    def verdict(self, value: float) -> str:
        """Say what was found, what was wanted, and whether that is met."""
        met = value <= self.limit if self.at_most else value >= self.limit
        sign = "<=" if self.at_most else ">="
        found, limit = (f"{number:,.{self.decimals}f}" for number in (value, self.limit))
        return f"{found} {self.what} (bar {sign} {limit}): {'met' if met else 'MISSED'}"


def format_figure(name: str, figure: str, verdicts: Sequence[str], remark: str) -> str:
    """Write a figure, what it is held against, and what else the machine did meanwhile.

    Args:
        name: What was measured.
        figure: The number and its unit, beside those of the anchor.
        verdicts: Of its bars, or numbers that have none.
        remark: On the load of others.
    """
    lines = [f"{name:34} {figure}", *(f"{'':6}{verdict}" for verdict in verdicts)]
    return "\n".join([*lines, f"{'':6}({remark})"])
