"""``head=svm`` of tools/train.py: SVMs and ridge regression on a network that stays as it is."""

from __future__ import annotations

from dataclasses import replace

from detect.checkpoint import Checkpoint, save_checkpoint
from detect.region_features import RegionFeatures
from detect.svm import SVMConfig
from detect.svm_training import train_svm_head
from detect.train_data import TrainingRun
from detect.train_finish import finish, make_validator
from detect.workers import CoreWorkers

_PHOTOS_BETWEEN_STATES = 200


def train_svms(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Train the heads in one process, save the checkpoint and write the report."""
    settings = run.settings
    assert isinstance(settings.head, SVMConfig)
    if run.group.rank:
        return
    workers = CoreWorkers(settings.threads)
    features = RegionFeatures(
        checkpoint.network,
        checkpoint.preprocessing,
        regions=checkpoint.regions,
        shared=checkpoint.shared,
        workers=workers,
    )
    done = 0
    with run.progress(2 * len(run.data.train), "photos, each twice") as bar:

        def show(now: int, _: int) -> None:
            nonlocal done
            bar.update(now - done)
            done = now

        checkpoint.head = train_svm_head(
            features,
            run.data.train,
            proposals=run.data.proposals,
            num_classes=len(run.data.class_names),
            svm=replace(settings.head, seed=settings.seed),
            ridge=settings.ridge,
            workers=workers,
            state_path=run.out / "state.safetensors",
            save_every=_PHOTOS_BETWEEN_STATES,
            recipe=run.recipe,
            on_progress=show,
        )
    checkpoint.training = run.recipe
    save_checkpoint(run.checkpoint_path, checkpoint)
    finish(run, [], make_validator(run))
