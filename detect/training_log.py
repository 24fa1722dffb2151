"""The folder of a training: its log, and the state from which it goes on."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from detect.files import write_atomically
from detect.training import RegionTrainer, StepStats


class TrainingLog:
    """Writes ``log.csv``, one row a step, and ``state.safetensors`` now and then.

    Args:
        folder: Of this training; made when absent.
        recipe: What the result depends on; a state with another recipe is refused.
        save_minutes: Between two saved states.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], *, save_minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "log.csv"
        self.state_path = folder / "state.safetensors"
        self.recipe = recipe
        self.save_seconds = 60 * save_minutes
        self._rows: list[tuple[Any, ...]] = []
        self._saved = time.monotonic()

    @contextmanager
    def resume(self, trainer: RegionTrainer) -> Iterator[None]:
        """Bring the trainer to where the last state was saved; save again on leaving.

        Raises:
            ValueError: If the state was saved by a training with another recipe.
        """
        self._trainer = trainer
        if self.state_path.exists():
            trainer.restore(self.state_path, self.recipe)
            # Rows behind the state belong to steps that will be taken again.
            with self.log_path.open(newline="") as file:
                self._rows = [tuple(row) for row in csv.reader(file)][1 : trainer.next_step + 1]
        try:
            yield
        finally:
            self._save()

    def steps(self) -> Iterator[StepStats]:
        """Train to the end; note every step and save the state when it is time."""
        while self._trainer.next_step < self._trainer.config.steps:
            stats = self._trainer.step()
            self._rows.append(astuple(stats))
            if time.monotonic() - self._saved > self.save_seconds:
                self._save()
            yield stats

    def _save(self) -> None:
        header = [field.name for field in fields(StepStats)]
        lines = [",".join(map(str, row)) for row in [tuple(header), *self._rows]]
        # The log first: it may hold more steps than the state, never fewer.
        write_atomically(self.log_path, "\n".join(lines) + "\n")
        self._trainer.save(self.state_path, self.recipe)
        self._saved = time.monotonic()
