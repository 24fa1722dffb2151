"""What tools/train.py does: data, proposals, training, the best checkpoint and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detect.checkpoint import BUNDLED, Checkpoint, Regions, load_checkpoint, save_checkpoint
from detect.data.labelled import LabelledPhotos
from detect.devices import choose_device
from detect.distributed import process_group
from detect.fine_tuning import fine_tune
from detect.googlenet import PREPROCESSING
from detect.heads import RegionHead
from detect.imagenet import load_imagenet
from detect.progress import Progress
from detect.results import write_skipped
from detect.svm import SVMConfig
from detect.svm_run import train_svms
from detect.train_data import TrainingRun, load_training_data
from detect.train_finish import finish, make_validator
from detect.train_settings import (
    KeptHead,
    SoftmaxConfig,
    TrainConfig,
    check_settings,
    recipe_of,
)
from proposals import Proposer


def run_training(
    settings: TrainConfig,
    plain: dict[str, Any],
    *,
    build_data: Callable[..., LabelledPhotos],
    proposer: Proposer,
    progress: Progress,
    say: Callable[[str], object] = print,
) -> int:
    """Train what the settings describe, or go on with it.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
        build_data: Reads the data set, with other settings than the chosen ones where given.
        proposer: Finds the candidate boxes.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.

    Returns:
        Exit status: 1 if photos had to be left out.

    Raises:
        ValueError: If a setting or a file cannot be used; nothing is trained then.
    """
    check_settings(settings)
    device = choose_device(settings.device)
    start = load_start(settings)
    with process_group(device) as group:
        tell = group.first_says(say)
        data = load_training_data(
            settings, build_data, proposer, group=group, progress=progress, say=tell
        )
        recipe = recipe_of(settings, plain) | {"num_photos": len(data.train)}
        run = TrainingRun(settings, recipe, data, group, progress, tell)
        if not isinstance(settings.head, KeptHead):
            start = fit_classes(start, data.class_names, settings.seed)
        elif start.class_names != data.class_names:
            raise ValueError(f"head=kept: the detector has other classes: {start.class_names}")
        start.network.to(device)
        start.head.to(device)
        if isinstance(settings.head, SVMConfig):
            train_svms(run, start)
        elif isinstance(settings.head, KeptHead):
            keep(run, start)
        else:
            fine_tune(run, start)
        if group.rank == 0:
            write_skipped(run.out / "skipped.csv", data.skipped)
            tell(f"checkpoint: {run.checkpoint_path}")
        group.wait()
    return 1 if data.skipped else 0


def keep(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Train nothing but what is learned at the end of every training."""
    if run.group.rank == 0:
        checkpoint.training = {**checkpoint.training, "rejection": run.recipe}
        save_checkpoint(run.checkpoint_path, checkpoint)
        finish(run, [], make_validator(run))


def load_start(settings: TrainConfig) -> Checkpoint:
    """Load the network to start from, with the settings that the result will have.

    Raises:
        ValueError: If the file cannot be used.
    """
    regions: Regions = "shared" if settings.regions == "shared" else "crops"
    auxiliary = isinstance(settings.head, SoftmaxConfig) and settings.head.auxiliary_weight > 0
    if settings.weights is None:
        if auxiliary:
            raise ValueError("head.auxiliary_weight needs weights=FILE: a checkpoint has none")
        start = load_checkpoint(settings.checkpoint or BUNDLED)
        start.rejection = None
        if not isinstance(settings.head, KeptHead):
            start.regions, start.shared = regions, settings.shared
            start.precision_check = None  # of weights that will be others
        start.network.to(memory_format=torch.channels_last)
        return start
    network = load_imagenet(settings.weights, auxiliary=auxiliary)
    network.fc = nn.Identity()
    network.to(memory_format=torch.channels_last)
    return Checkpoint(
        network,
        RegionHead(1),
        (),
        PREPROCESSING[network.layout],
        regions=regions,
        shared=settings.shared,
    )


def fit_classes(start: Checkpoint, class_names: tuple[str, ...], seed: int) -> Checkpoint:
    """Give a checkpoint a fresh head, unless its own is a softmax over the same classes."""
    if start.class_names != class_names or start.head.activation != "softmax":
        torch.manual_seed(seed)
        start.head, start.class_names = RegionHead(len(class_names)), class_names
        for name in ("aux1", "aux2"):
            if hasattr(start.network, name):
                classifier = getattr(start.network, name)
                outputs = len(class_names) + 1
                classifier.fc2 = nn.Linear(classifier.fc2.in_features, outputs)
    return start
