"""Fine-tuning of network and head together, with validation on the way."""

from __future__ import annotations

from detect.checkpoint import Checkpoint, save_checkpoint
from detect.crops import CropConfig
from detect.objectives import CropObjective, SharedObjective
from detect.region_training import RegionSampler
from detect.shared_trunk import SharedTrunk
from detect.train_data import TrainingRun
from detect.train_finish import finish, make_validator
from detect.train_settings import SoftmaxConfig
from detect.training import Objective, Trainer
from detect.training_log import TrainingLog
from detect.validation import Validator


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
    validator = make_validator(run)
    steps = settings.training.steps
    with log.resume(trainer), run.progress(steps, "steps", initial=trainer.next_step) as bar:
        for stats in log.steps():
            bar.set_postfix(**{k: f"{v:.3f}" for k, v in stats.losses.items() if "loss" in k})
            bar.update()
            done = stats.step + 1
            every = settings.validation.every
            if done == steps or (validator and every and done % every == 0):
                with trainer.averaged():
                    stop = run.group.rank == 0 and _validate(run, checkpoint, validator, log, done)
                if run.group.from_first(stop):
                    run.say(f"stopped after {done} steps: mAP does not rise any more")
                    break
    if run.group.rank == 0:
        finish(run, log.rows, validator)


def _validate(
    run: TrainingRun,
    checkpoint: Checkpoint,
    validator: Validator | None,
    log: TrainingLog,
    step: int,
) -> bool:
    """Measure and, where it is the best so far, save a checkpoint; tell whether to stop."""
    if validator is None:
        save_checkpoint(run.checkpoint_path, checkpoint)
        return False
    with run.progress(len(validator.records), "validation photos") as bar:
        found = validator.detect(checkpoint, bar.update)
    scores = validator.score(found, checkpoint.class_names)
    before = [row["mAP"] or 0.0 for row in log.validations()]
    mean_ap = scores.mean_ap or 0.0
    run.say(f"step {step}: mAP {mean_ap:.3f} on {len(validator.records)} photos")
    if mean_ap >= max(before, default=0.0):
        save_checkpoint(run.checkpoint_path, checkpoint)
    log.note_validation(step, mean_ap, {c.name: c.ap for c in scores.classes})
    history = [*before, mean_ap]
    patience = run.settings.validation.patience
    return bool(patience) and len(history) - 1 - history.index(max(history)) >= patience


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
