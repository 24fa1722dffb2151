"""Settings of tools/train_multibox.py, and what of them the result depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detect.checkpoint import BUNDLED, file_digest
from detect.config import MISSING, register
from detect.multibox_training import MultiBoxSamplingConfig
from detect.training import TrainingConfig
from proposals.multibox_loss import MultiBoxLossConfig

FORMS = ("grid", "whole")


@dataclass
class MultiBoxValidationConfig:
    """When and on what a MultiBox in training is measured.

    Raises:
        ValueError: If a number is out of range.
    """

    split: str | None = None  # list of the data set; null: a share of the training photos
    fraction: float = 0.0  # of the training photos that are held back, where there is no split
    photos: int = 300  # at most, chosen at random; 0: all
    every: int = 1000  # steps between two measurements, the last one at the end; 0: only then
    patience: int = 0  # measurements without better recall after which it stops; 0: never

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"validation.fraction must be from 0 to below 1: got {self.fraction}")
        if min(self.photos, self.every, self.patience) < 0:
            raise ValueError("validation.photos, every and patience must not be negative")


@dataclass
class MultiBoxHeadConfig:
    """What a MultiBox looks like.

    Raises:
        ValueError: If a number is out of range.
    """

    form: str = "grid"  # grid (maps of the detector's trunk) or whole (the photo's; 2014 paper)
    num_priors: int = 12  # at each point of a map; form=whole: about 200 (2014 paper), 800 (code)
    hidden: int = 128  # channels between features and prediction; 0: none, as in the 2014 paper
    kernel: int = 3  # points a side that a prediction sees; form=whole: 1
    levels: list[float] = field(default_factory=list)  # of the trunk's pyramid; []: all of them
    crop_scales: list[float] = field(default_factory=lambda: [1.0])  # of crops, form=whole

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"multibox.form={self.form}: choose {' or '.join(FORMS)}")
        if self.num_priors < 1 or self.hidden < 0:
            raise ValueError("multibox.num_priors must be 1 or more, multibox.hidden 0 or more")
        if self.form == "whole" and self.kernel != 1:
            self.kernel = 1  # there is one point alone
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise ValueError(f"multibox.crop_scales={self.crop_scales}: shares above 0, at most 1")


@dataclass
class MultiBoxTrainConfig:
    """Settings of tools/train_multibox.py."""

    out: str = MISSING  # folder of the MultiBox, the logs and the state to go on from
    checkpoint: str | None = None  # detector whose trunk it reads; by default the bundled one
    start: str | None = None  # MultiBox to start from, of a trunk like this one; null: from nothing
    data: Any = MISSING  # voc (the default), coco or ilsvrc, with data.root=FOLDER, data.split=...
    photos: int = 0  # training photos, at most, chosen at random; 0: all
    only_classes: list[str] = field(default_factory=list)  # learn from objects of these alone
    without_classes: list[str] = field(default_factory=list)  # leave out photos that show these
    multibox: MultiBoxHeadConfig = field(default_factory=MultiBoxHeadConfig)
    sampling: MultiBoxSamplingConfig = field(default_factory=MultiBoxSamplingConfig)
    loss: MultiBoxLossConfig = field(default_factory=MultiBoxLossConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=3000, photos_per_step=8, learning_rate=2.5e-4)
    )
    validation: MultiBoxValidationConfig = field(default_factory=MultiBoxValidationConfig)
    cache: str = "cache"  # folder of features, kept between trainings
    cache_gigabytes: float = 2.0  # of features on the disk, at most; the others are made again
    seed: int = 0  # of splits, priors, the head's start, the order and the variants of photos
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    threads: int = 0  # photos in work at the same time on a CPU; 0: one a core
    save_minutes: float = 3.0  # between two saved states
    tensorboard: bool = False  # write events for TensorBoard too; needs the extra [tensorboard]


register("train_multibox", MultiBoxTrainConfig)

# Settings that the trained weights do not depend on.
_NOT_DECISIVE = {"out", "cache", "cache_gigabytes", "validation", "threads", "save_minutes"}
_NOT_DECISIVE |= {"tensorboard", "device", "checkpoint", "start"}


def multibox_recipe(settings: MultiBoxTrainConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """Return what other weights would come from, if it were changed.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
    """
    recipe = {name: value for name, value in plain.items() if name not in _NOT_DECISIVE}
    recipe["data"] = {k: v for k, v in plain["data"].items() if k != "root"}
    recipe["trunk_sha256"] = file_digest(settings.checkpoint or BUNDLED)
    recipe["start_sha256"] = file_digest(settings.start) if settings.start else None
    recipe["held_back"] = [settings.validation.split, settings.validation.fraction]
    return recipe
