"""Fine-tuning of network and head together, with validation on the way."""

from __future__ import annotations

from detect.checkpoint import Checkpoint, save_checkpoint
from detect.crops import CropConfig
from detect.detections import Detections
from detect.objectives import CropObjective, SharedObjective
from detect.region_training import RegionSampler
from detect.shared_trunk import SharedTrunk
from detect.train_data import TrainingRun
from detect.train_finish import finish, make_validator
from detect.train_settings import SoftmaxConfig
from detect.training import Objective
from detect.training_loop import fit


def fine_tune(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Fine-tune network and head; keep the checkpoint with the best mAP on validation photos."""
    checkpoint.training = run.recipe
    measured = MeasuredNetwork(run, checkpoint)
    log = fit(
        run.settings,
        make_objective(run, checkpoint),
        run.recipe,
        group=run.group,
        measure=measured.measure if measured.validator else None,
        keep=measured.keep,
        progress=run.progress,
        say=run.say,
    )
    if run.group.rank == 0:
        finish(run, log.rows, measured.validator, measured.best_found)


class MeasuredNetwork:
    """A network in training and what it finds on the validation photos.

    Args:
        run: The training.
        checkpoint: Network and head.

    Attributes:
        validator: What measures; None where no photos are held back.
        best_found: Detections of the checkpoint kept last, where this process made them.
    """

    def __init__(self, run: TrainingRun, checkpoint: Checkpoint) -> None:
        self.run, self.checkpoint = run, checkpoint
        self.validator = make_validator(run)
        self.best_found: list[Detections] | None = None
        self._found: list[Detections] | None = None

    def measure(self) -> dict[str, float | None]:
        """Detect on the validation photos; return mAP and the AP of each class."""
        assert self.validator is not None
        with self.run.progress(len(self.validator.records), "validation photos") as bar:
            self._found = self.validator.detect(self.checkpoint, bar.update)
        scores = self.validator.score(self._found, self.checkpoint.class_names)
        return {"mAP": scores.mean_ap or 0.0} | {f"AP {c.name}": c.ap for c in scores.classes}

    def keep(self) -> None:
        """Write the checkpoint as it is."""
        save_checkpoint(self.run.checkpoint_path, self.checkpoint)
        self.best_found = self._found


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
