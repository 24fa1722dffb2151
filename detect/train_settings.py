"""Settings of tools/train.py, and what of them the result of a training depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detect.checkpoint import BUNDLED, file_digest
from detect.config import MISSING, register
from detect.merging import MergeConfig
from detect.region_training import SamplingConfig
from detect.rejection_training import RejectionConfig
from detect.ridge import RidgeConfig
from detect.shared_geometry import SharedTrunkConfig
from detect.training import TrainingConfig
from detect.validation import ValidationConfig

REGIONS = ("shared", "crops")


@dataclass
class SoftmaxConfig:
    """Softmax and box regression, trained together with the network.

    Raises:
        ValueError: If the weight is negative.
    """

    auxiliary_weight: float = 0.0  # of the two auxiliary classifiers' losses, crops; paper: 0.3

    def __post_init__(self) -> None:
        if self.auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight must not be negative: got {self.auxiliary_weight}")


@dataclass
class KeptHead:
    """No training of network and head: those of ``checkpoint`` stay, early rejection is trained."""


@dataclass
class TrainConfig:
    """Settings of tools/train.py."""

    out: str = MISSING  # folder of the checkpoint, the logs, the report and the state to go on from
    weights: str | None = None  # ImageNet GoogLeNet: .caffemodel, .safetensors, .pth, torchvision
    checkpoint: str | None = None  # detector to start from; without weights, the bundled one
    data: Any = MISSING  # voc (the default), coco or ilsvrc, with data.root=FOLDER, data.split=...
    photos: int = 0  # training photos, at most, chosen at random; 0: all
    only_classes: list[str] = field(default_factory=list)  # learn these alone, from their photos
    proposer: Any = MISSING  # superpixels_x2 (the default), fast (R-CNN's), quality, multibox, ...
    cache: str = "cache"  # folder of proposals, kept between trainings
    regions: str = "shared"  # shared (trunk once a photo) or crops (each region by itself; R-CNN)
    shared: SharedTrunkConfig = field(default_factory=SharedTrunkConfig)
    head: Any = MISSING  # softmax (fine-tuning, the default), svm (R-CNN's, network kept) or kept
    ridge: RidgeConfig = field(default_factory=RidgeConfig)  # box regression of head=svm
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rejection: RejectionConfig = field(default_factory=RejectionConfig)  # early; none for head=svm
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)  # of validation
    seed: int = 0  # of splits, the head's start, the order of photos, sampling and dropout
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    threads: int = 0  # photos in work at the same time on a CPU; 0: one a core
    save_minutes: float = 3.0  # between two saved states
    tensorboard: bool = False  # write events for TensorBoard too; needs the extra [tensorboard]
    report: bool = True  # write report.html at the end


register("train", TrainConfig)

# Settings that the trained weights do not depend on.
_NOT_DECISIVE = {"out", "cache", "validation", "merge", "threads", "save_minutes", "tensorboard"}
_NOT_DECISIVE |= {"report", "device", "weights", "checkpoint"}


def check_settings(settings: TrainConfig) -> None:
    """Check what no single part of the settings can.

    Raises:
        ValueError: If settings contradict each other; says which to change.
    """
    if settings.weights is not None and settings.checkpoint is not None:
        raise ValueError("give either weights=FILE (ImageNet) or checkpoint=FILE, not both")
    if settings.regions not in REGIONS:
        raise ValueError(f"regions={settings.regions}: choose {' or '.join(REGIONS)}")
    if isinstance(settings.head, KeptHead):
        if settings.weights is not None:
            raise ValueError("head=kept needs a trained detector: checkpoint=FILE, not weights")
        if settings.regions != "shared" or not settings.rejection.photos:
            raise ValueError(
                "head=kept trains early rejection alone: it needs regions=shared and "
                "rejection.photos above 0"
            )
    auxiliary = isinstance(settings.head, SoftmaxConfig) and settings.head.auxiliary_weight > 0
    if auxiliary and settings.regions == "shared":
        raise ValueError("head.auxiliary_weight needs regions=crops: a map has no such heads")


def recipe_of(settings: TrainConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """Return what other weights would come from, if it were changed.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
    """
    recipe = {name: value for name, value in plain.items() if name not in _NOT_DECISIVE}
    # Where files lie is of no account, what is in them is.
    recipe["data"] = {k: v for k, v in plain["data"].items() if k != "root"}
    recipe["proposer"] = {k: v for k, v in plain["proposer"].items() if k != "threads"}
    recipe["start_sha256"] = _digest(settings)
    recipe["held_back"] = [settings.validation.split, settings.validation.fraction]
    return recipe


def _digest(settings: TrainConfig) -> str:
    start = settings.weights or settings.checkpoint or BUNDLED
    return str(start) if start == "torchvision" else file_digest(start)
