"""Fine-tuning of network and head together, with validation on the way."""

from __future__ import annotations

from collections.abc import Sequence

from detect.checkpoint import Checkpoint, save_checkpoint
from detect.crops import CropConfig
from detect.detections import Detections
from detect.objectives import CropObjective, SharedObjective
from detect.region_training import RegionSampler
from detect.shared_trunk import SharedTrunk
from detect.train_data import TrainingRun
from detect.train_finish import finish, make_validator
from detect.train_settings import SoftmaxConfig
from detect.training import Objective, Trainer
from detect.training_log import TrainingLog


def fine_tune(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Fine-tune network and head; keep the checkpoint with the best mAP on validation photos."""
    settings = run.settings
    checkpoint.training = run.recipe
    trainer = Trainer(
        make_objective(run, checkpoint),
        settings.training,
        seed=settings.seed,
        threads=settings.threads,
        group=run.group,
    )
    log = TrainingLog(
        run.out,
        run.recipe,
        save_minutes=settings.save_minutes,
        writes=run.group.rank == 0,
        tensorboard=settings.tensorboard,
    )
    judge = Judge(run, checkpoint, log)
    steps = settings.training.steps
    with log.resume(trainer), run.progress(steps, "steps", initial=trainer.next_step) as bar:
        stop = judge.settle(trainer, resumed=True)  # perhaps it was killed before a validation
        taken = log.steps()
        while not stop and (stats := next(taken, None)) is not None:
            bar.set_postfix(**{k: f"{v:.3f}" for k, v in stats.losses.items() if "loss" in k})
            bar.update()
            stop = judge.settle(trainer)
    if run.group.rank == 0:
        finish(run, log.rows, judge.validator, judge.best_found)


class Judge:
    """Measures a network in training where that is due, and keeps the best checkpoint.

    Args:
        run: The training.
        checkpoint: Its network and head.
        log: Takes note of validations.

    Attributes:
        validator: What measures; None where no photos are held back.
        best_found: Detections of the best checkpoint, where this process made them.
    """

    def __init__(self, run: TrainingRun, checkpoint: Checkpoint, log: TrainingLog) -> None:
        self.run, self.checkpoint, self.log = run, checkpoint, log
        self.validator = make_validator(run)
        self.best_found: list[Detections] | None = None

    def settle(self, trainer: Trainer, *, resumed: bool = False) -> bool:
        """Measure after a step where it is due; tell whether training should stop."""
        step, config = trainer.next_step, self.run.settings.validation
        often = self.validator and config.every and step and step % config.every == 0
        due = often or step == trainer.config.steps
        if not (due or resumed):
            return False
        measured = {row["step"] for row in self.log.validations()}
        if due and step not in measured and self.run.group.rank == 0:
            with trainer.averaged():
                self._measure(step)
        history = [row["mAP"] for row in self.log.validations()]
        stop = bool(history) and 0 < config.patience <= len(history) - 1 - _place_of_best(history)
        if stop := self.run.group.from_first(stop):
            self.run.say(f"stopped after {step} steps: mAP does not rise any more")
        return stop

    def _measure(self, step: int) -> None:
        if self.validator is None:
            save_checkpoint(self.run.checkpoint_path, self.checkpoint)
            return
        records = self.validator.records
        with self.run.progress(len(records), "validation photos") as bar:
            found = self.validator.detect(self.checkpoint, bar.update)
        scores = self.validator.score(found, self.checkpoint.class_names)
        before = [row["mAP"] for row in self.log.validations()]
        mean_ap = scores.mean_ap or 0.0
        self.run.say(f"step {step}: mAP {mean_ap:.3f} on {len(records)} photos")
        if mean_ap > max(before, default=-1.0):
            save_checkpoint(self.run.checkpoint_path, self.checkpoint)
            self.best_found = found
        self.log.note_validation(step, mean_ap, {c.name: c.ap for c in scores.classes})


def _place_of_best(history: Sequence[float]) -> int:
    return max(range(len(history)), key=history.__getitem__)  # the first of equal ones


def make_objective(run: TrainingRun, checkpoint: Checkpoint) -> Objective:
    """Make what is trained: the checkpoint's network and head, on regions of the photos."""
    settings, head = run.settings, checkpoint.head
    assert isinstance(settings.head, SoftmaxConfig)
    shared = settings.regions == "shared"
    sampler = RegionSampler(
        run.data.train,
        run.data.proposals,
        head.num_classes,
        settings.sampling,
        seed=settings.seed,
        pyramid=settings.shared if shared else None,
    )
    if shared:
        trunk = SharedTrunk(checkpoint.network, checkpoint.preprocessing, settings.shared)
        return SharedObjective(trunk, head, sampler)
    return CropObjective(
        checkpoint.network,
        head,
        sampler,
        preprocessing=checkpoint.preprocessing,
        crop=CropConfig.with_mean(checkpoint.preprocessing.mean),
        auxiliary_weight=settings.head.auxiliary_weight,
    )
