"""Settings of tools/train_classifier.py, and what of them the result depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from detect.checkpoint import file_digest
from detect.classifier_training import ClassifierSamplingConfig
from detect.config import MISSING, register
from detect.training import TrainingConfig


@dataclass
class ClassifierValidationConfig:
    """When and on what a classifier in training is measured.

    Raises:
        ValueError: If a number is out of range, or photos come from two sources.
    """

    root: str | None = None  # folder of other photos of the same classes, as data.root
    fraction: float = 0.0  # of the training photos that are held back, where there is no root
    photos: int = 2000  # at most, chosen at random; 0: all
    every: int = 5000  # steps between two measurements, the last one at the end; 0: only then
    patience: int = 0  # measurements without a better one after which it stops; 0: never

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1 or (self.root and self.fraction):
            raise ValueError(
                f"validation.fraction={self.fraction}: from 0 to below 1, and 0 beside "
                "validation.root"
            )
        if min(self.photos, self.every, self.patience) < 0:
            raise ValueError("validation.photos, every and patience must not be negative")


def _training() -> TrainingConfig:
    return TrainingConfig(
        steps=200_000,
        photos_per_step=64,
        optimizer="sgd",
        learning_rate=0.01,
        head_factor=1.0,
        weight_decay=2e-4,
        schedule="exponential",
        average_decay=0.9999,
    )


@dataclass
class ClassifierTrainConfig:
    """Settings of tools/train_classifier.py.

    Raises:
        ValueError: If a step's photos cannot be divided among draws.
    """

    out: str = MISSING  # folder of the weights, the logs and the state to go on from
    data: Any = MISSING  # imagefolder (the default): data.root=FOLDER with a folder for each class
    weights: str | None = None  # GoogLeNet to start from, of the paper's layout; null: from nothing
    sampling: ClassifierSamplingConfig = field(default_factory=ClassifierSamplingConfig)
    training: TrainingConfig = field(default_factory=_training)
    validation: ClassifierValidationConfig = field(default_factory=ClassifierValidationConfig)
    seed: int = 0  # of splits, the network's start, the order and the parts of photos, dropout
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    threads: int = 0  # draws in work at the same time on a CPU; 0: one a core
    save_minutes: float = 5.0  # between two saved states
    tensorboard: bool = False  # write events for TensorBoard too; needs the extra [tensorboard]
    cache: str = "cache"  # folder in which --multirun keeps what was asked for

    def __post_init__(self) -> None:
        step, draw = self.training.photos_per_step, self.sampling.photos_per_draw
        if step % draw:
            raise ValueError(
                f"training.photos_per_step={step} must be a multiple of "
                f"sampling.photos_per_draw={draw}"
            )

    @property
    def training_in_draws(self) -> TrainingConfig:
        """The same for a trainer whose draws are of several photos each."""
        draws = self.training.photos_per_step // self.sampling.photos_per_draw
        return replace(self.training, photos_per_step=draws)


register("train_classifier", ClassifierTrainConfig)

# Settings that the trained weights do not depend on.
_NOT_DECISIVE = {"out", "validation", "threads", "save_minutes", "tensorboard", "device", "cache"}
_NOT_DECISIVE |= {"weights"}


def classifier_recipe(settings: ClassifierTrainConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """Return what other weights would come from, if it were changed.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
    """
    recipe = {name: value for name, value in plain.items() if name not in _NOT_DECISIVE}
    recipe["data"] = {k: v for k, v in plain["data"].items() if k != "root"}
    recipe["start_sha256"] = settings.weights and file_digest(settings.weights)
    recipe["held_back"] = settings.validation.fraction
    return recipe
