"""The folder of a training: its logs, and the state from which it goes on.

``log.csv`` has a row a step and ``validation.csv`` a row a validation; ``log.jsonl`` has both, line
by line. Rows behind the last saved state belong to steps that will be taken again.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from detect.files import FileLock, numbered_lines, write_atomically
from detect.training import StepStats, Trainer

_STEP, _VALIDATION = "step", "validation"


class TrainingLog:
    """Takes note of steps and validations, and saves the state now and then.

    Args:
        folder: Of this training; made when absent.
        recipe: What the result depends on; a state with another recipe is refused.
        save_minutes: Between two saved states.
        writes: Whether this process writes the files; of several, one does.
        tensorboard: Whether to write events for TensorBoard too.

    Raises:
        ValueError: If TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        *,
        save_minutes: float,
        writes: bool = True,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.recipe = folder, dict(recipe)
        self.state_path = folder / "state.safetensors"
        self.save_seconds = 60 * save_minutes
        self.writes = writes
        self.rows: list[dict[str, Any]] = []
        self._saved = time.monotonic()
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
        self._board = _event_writer(folder / "tensorboard") if tensorboard and writes else None

    @contextmanager
    def resume(self, trainer: Trainer) -> Iterator[None]:
        """Bring the trainer to where the last state was saved; save again on leaving.

        Raises:
            FileBusy: If another process trains in this folder.
            ValueError: If the state was saved by a training with another recipe.
        """
        self._trainer = trainer
        with closing(FileLock(self.state_path)) if self.writes else nullcontext():
            if self.state_path.exists():
                trainer.restore(self.state_path, self.recipe)
                lines = [json.loads(line) for _, line in numbered_lines(self.folder / "log.jsonl")]
                self.rows = [row for row in lines if row["step"] <= trainer.next_step]
            try:
                yield
            finally:
                self.save()

    def steps(self) -> Iterator[StepStats]:
        """Train to the end; note every step and save the state when it is time."""
        while self._trainer.next_step < self._trainer.config.steps:
            began = time.perf_counter()
            stats = self._trainer.step()
            self._note(
                _STEP,
                step=stats.step + 1,
                learning_rate=stats.learning_rate,
                **stats.losses,
                seconds=round(time.perf_counter() - began, 4),
            )
            if time.monotonic() - self._saved > self.save_seconds:
                self.save()
            yield stats

    def note_validation(self, step: int, measures: Mapping[str, float | None]) -> None:
        """Note what was measured after so many steps, and save the state with it."""
        self._note(_VALIDATION, step=step, **measures)
        self.save()

    def validations(self) -> list[dict[str, Any]]:
        """Return the rows of all validations, oldest first."""
        return [row for row in self.rows if row["kind"] == _VALIDATION]

    def _note(self, kind: str, **values: Any) -> None:
        values = {k: None if v != v else v for k, v in values.items()}  # JSON has no NaN
        self.rows.append({"kind": kind, **values})
        if self._board is not None:
            for name, value in values.items():
                if value is None:
                    continue
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])

    def save(self) -> None:
        """Write the logs and the state."""
        self._saved = time.monotonic()
        if not self.writes:
            return
        # The logs first: they may hold more steps than the state, never fewer.
        lines = [json.dumps(row) for row in self.rows]
        write_atomically(self.folder / "log.jsonl", "".join(f"{line}\n" for line in lines))
        for kind, name in ((_STEP, "log.csv"), (_VALIDATION, "validation.csv")):
            rows = [row for row in self.rows if row["kind"] == kind]
            if rows:
                write_atomically(self.folder / name, _table(rows))
        self._trainer.save(self.state_path, self.recipe)
        if self._board is not None:
            self._board.flush()


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    names = [name for name in rows[0] if name != "kind"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"tensorboard=true needs TensorBoard ({error}): pip install "
            "'going-deeper-detection[tensorboard]', or in the repository pip install -e "
            "'.[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))
