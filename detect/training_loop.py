"""From the first step to the last, with a measurement now and then that tells when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from detect.distributed import Group
from detect.progress import Progress
from detect.training import Objective, Trainer, TrainingConfig
from detect.training_log import TrainingLog


class Judge:
    """Measures what is trained where that is due, keeps the best of it, and tells when to stop.

    Args:
        log: Takes note of measurements.
        group: The processes that train together; the first one measures.
        measure: Measures the weights as they are, by name; the first measure counts. None where
            there is nothing to measure on.
        keep: Writes the weights as they are; called after the last step if nothing is measured.
        every: Steps between two measurements; 0: only after the last.
        patience: Measurements without a better one after which training stops; 0: never.
        say: Tells the user a line.
    """

    def __init__(
        self,
        log: TrainingLog,
        group: Group,
        *,
        measure: Callable[[], Mapping[str, float | None]] | None,
        keep: Callable[[], None],
        every: int,
        patience: int,
        say: Callable[[str], object],
    ) -> None:
        self.log, self.group, self.say = log, group, say
        self.measure, self.keep = measure, keep
        self.every, self.patience = every, patience

    def settle(self, trainer: Trainer, *, resumed: bool = False) -> bool:
        """Measure after a step where it is due; tell whether training should stop."""
        step = trainer.next_step
        often = self.measure and self.every and step and step % self.every == 0
        due = often or step == trainer.config.steps
        if not (due or resumed):
            return False
        measured = {row["step"] for row in self.log.validations()}
        if due and step not in measured and self.group.rank == 0:
            with trainer.averaged():
                self._measure(step)
        name, history = self._history()
        stop = bool(history) and 0 < self.patience <= len(history) - 1 - _place_of_best(history)
        if stop := self.group.from_first(stop):
            self.say(f"stopped after {step} steps: {name} does not rise any more")
        return stop

    def _measure(self, step: int) -> None:
        if self.measure is None:
            self.keep()
            return
        measures = self.measure()
        name, value = next(iter(measures.items()))
        self.say(f"step {step}: {name} {value or 0.0:.3f}")
        if (value or 0.0) > max(self._history()[1], default=-1.0):
            self.keep()
        self.log.note_validation(step, measures)

    def _history(self) -> tuple[str, list[float]]:
        """Return the name of the measure that counts and its values, oldest first."""
        rows = self.log.validations()
        name = next((key for key in rows[0] if key not in ("kind", "step")), "") if rows else ""
        return name, [row[name] or 0.0 for row in rows]


class LoopSettings(Protocol):
    """What the settings of every tool that trains have in common."""

    out: str
    training: TrainingConfig
    seed: int
    threads: int
    save_minutes: float
    tensorboard: bool

    @property
    def validation(self) -> ValidationTimes:
        """When to measure."""
        ...


class ValidationTimes(Protocol):
    """When a training is measured: see ``Judge``."""

    every: int
    patience: int


def fit(
    settings: LoopSettings,
    objective: Objective,
    recipe: Mapping[str, Any],
    *,
    group: Group,
    measure: Callable[[], Mapping[str, float | None]] | None,
    keep: Callable[[], None],
    progress: Progress,
    say: Callable[[str], object],
    training: TrainingConfig | None = None,
) -> TrainingLog:
    """Train an objective to the end in the folder that the settings name, or go on with it.

    Args:
        settings: Of the tool.
        objective: What is trained.
        recipe: What the result depends on.
        group: The processes that train together.
        measure: See ``Judge``.
        keep: See ``Judge``.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.
        training: In place of the settings', where draws are not photos.

    Returns:
        What happened.

    Raises:
        ValueError: If the folder holds the state of a training with another recipe.
    """
    trainer = Trainer(
        objective,
        training or settings.training,
        seed=settings.seed,
        threads=settings.threads,
        group=group,
    )
    log = TrainingLog(
        Path(settings.out),
        recipe,
        save_minutes=settings.save_minutes,
        writes=group.rank == 0,
        tensorboard=settings.tensorboard,
    )
    judge = Judge(
        log,
        group,
        measure=measure,
        keep=keep,
        every=settings.validation.every,
        patience=settings.validation.patience,
        say=say,
    )
    train(trainer, log, judge, progress)
    return log


def train(trainer: Trainer, log: TrainingLog, judge: Judge, progress: Progress) -> None:
    """Train to the end, or until nothing gets better; go on with what the log's folder holds."""
    steps = trainer.config.steps
    with log.resume(trainer), progress(steps, "steps", initial=trainer.next_step) as bar:
        stop = judge.settle(trainer, resumed=True)  # perhaps it was killed before a measurement
        taken = log.steps()
        while not stop and (stats := next(taken, None)) is not None:
            bar.set_postfix(**{k: f"{v:.3f}" for k, v in stats.losses.items() if "loss" in k})
            bar.update()
            stop = judge.settle(trainer)


def _place_of_best(history: Sequence[float]) -> int:
    return max(range(len(history)), key=history.__getitem__)  # the first of equal ones
