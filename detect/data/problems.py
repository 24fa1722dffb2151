"""What is wrong with a file that someone handed in, found before anything is computed from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SHOWN = 5  # places of a kind that a message names


class InputError(ValueError):
    """A file or setting that someone handed in is wrong; the message is for that person."""


def check_choices(setting: str, chosen: Collection[str], choices: Sequence[str]) -> None:
    """Check what ``drop`` or ``repair`` names.

    Raises:
        InputError: If something is no choice; lists the choices.
    """
    for name in chosen:
        if name not in choices:
            raise InputError(f"{setting}: no choice {name!r}; there are {', '.join(choices)}")


@dataclass(frozen=True)
class Kind:
    """One way in which an entry can be wrong.

    Attributes:
        name: What ``drop=[...]`` or ``repair=[...]`` calls it, such as ``unknown_image``.
        what: Says of a value what is wrong with it, such as ``is not a finite number``.
        remedy: What to do about it.
    """

    name: str
    what: str
    remedy: str


@dataclass
class Problems:
    """The problems of one file, by kind.

    Kinds that the user chose to drop or repair are counted, and told in ``notes``; the others are
    raised together, the first five of each kind with place and value.

    Attributes:
        source: What messages call the file.
        accepted: Names of the kinds that are dropped or repaired.
        verb: What happens to these, for the notes.
    """

    source: str
    accepted: Collection[str] = ()
    verb: str = "left out"
    _shown: dict[Kind, list[tuple[str, str]]] = field(default_factory=dict)
    _counts: dict[Kind, int] = field(default_factory=dict)

    def add(self, kind: Kind, place: str, value: object) -> None:
        """Note a problem.

        Args:
            kind: What is wrong.
            place: Where, such as ``line 17``.
            value: The value that is wrong, as it stands there.
        """
        shown = self._shown.setdefault(kind, [])
        if len(shown) < SHOWN:
            text = value if isinstance(value, str) else repr(value)
            shown.append((place, text if len(text) <= 120 else f"{text[:117]}..."))
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def add_rows(
        self, kind: Kind, wrong: NDArray[np.bool_], describe: Callable[[int], tuple[str, object]]
    ) -> None:
        """Note all rows of a table that are wrong in one way.

        Args:
            kind: What is wrong.
            wrong: The rows, bool ``[N]``.
            describe: Gives place and value of a row; called for the first five.
        """
        rows = np.flatnonzero(wrong)
        for row in rows[:SHOWN]:
            self.add(kind, *describe(int(row)))
        if len(rows) > SHOWN:
            self._counts[kind] += len(rows) - SHOWN

    def accepts(self, kind: Kind) -> bool:
        """Tell whether entries that are wrong in this way are dropped or repaired."""
        return kind.name in self.accepted

    def notes(self) -> list[str]:
        """Tell how many entries were dropped or repaired, a sentence for each kind."""
        return [
            f"{self.source}: {count} {self.verb} ({kind.name}), the first at "
            f"{self._shown[kind][0][0]}: {self._shown[kind][0][1]} {kind.what}"
            for kind, count in self._counts.items()
            if self.accepts(kind)
        ]

    def raise_if_any(self) -> None:
        """Raise what was found and not accepted.

        Raises:
            InputError: One line for a single problem; else, for every kind, a line with the count
                and the remedy, and the first five places below it.
        """
        messages = [
            self._message(kind, count)
            for kind, count in self._counts.items()
            if not self.accepts(kind)
        ]
        if messages:
            raise InputError("\n".join(messages))

    def _message(self, kind: Kind, count: int) -> str:
        shown = self._shown[kind]
        if count == 1:
            place, value = shown[0]
            return f"{self.source}, {place}: {value} {kind.what}; {kind.remedy}"
        head = f"{self.source}: {count} entries wrong in the same way; {kind.remedy}"
        more = "; the first:" if count > len(shown) else ":"
        return "\n".join([head + more, *(f"  {place}: {v} {kind.what}" for place, v in shown)])
