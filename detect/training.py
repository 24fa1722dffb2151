"""The training loop: any network and loss, draw by draw, on one process or several.

The draws of a step, a photo each, are independent until their gradients are averaged, so each runs
in a thread of its own with one core: on a CPU that keeps all cores busy where one convolution
cannot, and the result does not depend on how many there are. Everything random in a draw follows
from its number, so that a training goes on after any interruption as if there had been none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detect.distributed import Group
from detect.files import write_atomically
from detect.schedules import PolyakAverage, learning_rate_factor
from detect.workers import available_cores, use_cores

OPTIMIZERS = ("adamw", "sgd")


@dataclass
class TrainingConfig:
    """How weights are trained.

    Raises:
        ValueError: If a number is out of range or a name is none of its choices.
    """

    steps: int = 12000  # updates of the weights
    photos_per_step: int = 4  # of each process; Fast R-CNN: 2
    optimizer: str = "adamw"  # adamw, or sgd with momentum (R-CNN: learning_rate=0.001)
    learning_rate: float = 1.5e-4  # of the trunk
    head_factor: float = 4.0  # the head starts from nothing: its learning rate is this much higher
    momentum: float = 0.9  # of sgd; R-CNN and the paper
    weight_decay: float = 0.01  # none on biases; R-CNN's with sgd is 0.0005
    schedule: str = "cosine"  # cosine, steps (R-CNN), exponential (the paper: -4 % in 8 epochs)
    warmup_steps: int = 100  # linear rise of the learning rate before the schedule
    average_decay: float = 0.999  # of the running (Polyak) average that is the final model

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={self.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
        if min(self.steps, self.photos_per_step) < 1:
            raise ValueError("training.steps and training.photos_per_step must be 1 or more")


@dataclass(frozen=True)
class Part:
    """Parameters that are trained alike.

    Attributes:
        module: What they belong to.
        fresh: Whether they start from nothing, and learn faster.
    """

    module: nn.Module
    fresh: bool = False


class Objective(Protocol):
    """What is trained, and the loss of one draw."""

    num_photos: int

    @property
    def parts(self) -> Sequence[Part]:
        """What is trained."""
        ...

    def prepare(self, draw: int, generator: torch.Generator) -> Any:
        """Do what a draw needs before the trained part; it may be done ahead of its step.

        Args:
            draw: Counts all draws of the training from 0; photo ``photo_of(draw)``.
            generator: Of the draw; nothing else may be random.
        """
        ...

    def loss(self, prepared: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a prepared draw and what to log of it."""
        ...


@dataclass(frozen=True)
class StepStats:
    """What one step did.

    Attributes:
        step: From 0.
        learning_rate: Of the trunk.
        losses: By name, means over the draws; NaN where no draw had any.
    """

    step: int
    learning_rate: float
    losses: Mapping[str, float] = field(default_factory=dict)


class Trainer:
    """Trains an objective, one :meth:`step` at a time.

    Args:
        objective: Its parameters, already asking for gradients, and its loss.
        config: The recipe.
        seed: Of everything random in the draws.
        threads: Draws computed at the same time on a CPU; 0: one a core.
        group: The processes that train together.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        *,
        seed: int = 0,
        threads: int = 0,
        group: Group | None = None,
    ) -> None:
        self.objective, self.config, self.seed = objective, config, seed
        self.group = group or Group()
        self.parameters = [p for part in objective.parts for p in part.module.parameters()]
        self.device = self.parameters[0].device
        self.optimizer = _optimizer(objective.parts, config)
        self.average = PolyakAverage(self.parameters, config.average_decay)
        self.next_step = 0
        self._ahead: list[Future[tuple[Any, torch.Generator]]] = []
        self.draws_per_step = config.photos_per_step * self.group.size
        at_once = 1 if self.device.type == "cuda" else threads or available_cores()
        self._pool = ThreadPoolExecutor(at_once, initializer=use_cores, initargs=(1,))

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every photo comes once."""
        return self.objective.num_photos / self.draws_per_step

    def step(self) -> StepStats:
        """Update the weights once."""
        config, step = self.config, self.next_step
        prepared = self._ahead or self._start_preparing(step)
        futures = [self._pool.submit(self._gradients, each) for each in prepared]
        # Threads that have no draw of this step left go on with the next, which needs no weights.
        self._ahead = self._start_preparing(step + 1) if step + 1 < config.steps else []
        results = [future.result() for future in futures]
        factor = learning_rate_factor(
            step,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
            steps_per_epoch=self.steps_per_epoch,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        of_draws = zip(*(gradients for gradients, _ in results), strict=True)
        gradients = self.group.mean([_mean(of_parameter) for of_parameter in of_draws])
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        self.optimizer.step()
        self.average.update(self.parameters, step)
        self.next_step += 1
        rows = torch.tensor(
            [list(losses.values()) for _, losses in results],
            dtype=torch.float64,
            device=self.device,  # where processes exchange tensors
        )
        means = self.group.gather(rows).nanmean(0).tolist()
        losses = dict(zip(results[0][1], means, strict=True))
        return StepStats(step, config.learning_rate * factor, losses)

    def _start_preparing(self, step: int) -> list[Future[tuple[Any, torch.Generator]]]:
        first = step * self.draws_per_step + self.group.rank * self.config.photos_per_step
        draws = range(first, first + self.config.photos_per_step)
        return [self._pool.submit(self._prepare, draw) for draw in draws]

    def _prepare(self, draw: int) -> tuple[Any, torch.Generator]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
        return self.objective.prepare(draw, generator), generator

    def _gradients(
        self, prepared: Future[tuple[Any, torch.Generator]]
    ) -> tuple[tuple[Tensor, ...], dict[str, float]]:
        loss, losses = self.objective.loss(*prepared.result())
        return torch.autograd.grad(loss, self.parameters, materialize_grads=True), losses

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be their running average, for a while."""
        values = [parameter.detach().clone() for parameter in self.parameters]
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, values, strict=True):
                    parameter.copy_(value)

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write everything that :meth:`restore` needs, atomically."""
        tensors = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"{i}.value"] = parameter.detach().contiguous()
            tensors[f"{i}.average"] = self.average.values[i].contiguous()
            for key, value in self.optimizer.state[parameter].items():
                if value is not None:
                    tensors[f"{i}.optimizer.{key}"] = value.contiguous()
        metadata = {"step": str(self.next_step), "settings": json.dumps(settings, sort_keys=True)}
        write_atomically(path, save(tensors, metadata))

    @torch.no_grad()
    def restore(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: If the state was saved by a training with other settings.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["settings"]) != json.loads(json.dumps(settings)):
                raise ValueError(f"{path}: saved with other settings; choose another out= folder")
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(file.get_tensor(f"{i}.value"))
                self.average.values[i].copy_(file.get_tensor(f"{i}.average"))
                prefix = f"{i}.optimizer."
                keys = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118
                self.optimizer.state[parameter] = {
                    key.removeprefix(prefix): _laid_out_as(parameter, file.get_tensor(key))
                    for key in keys
                }
        self.next_step = int(metadata["step"])
        self._ahead = []


def photo_of(draw: int, num_photos: int, seed: int) -> int:
    """Return the photo of a draw: every epoch is a new permutation."""
    epoch, place = divmod(draw, num_photos)
    return int(epoch_order(num_photos, seed, epoch)[place])


@lru_cache(maxsize=4)
def epoch_order(num_photos: int, seed: int, epoch: int) -> Tensor:
    """Return the photos in the order of an epoch, int64 ``[num_photos]``."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 7 * epoch + 1)
    return torch.randperm(num_photos, generator=generator)


def _optimizer(parts: Sequence[Part], config: TrainingConfig) -> torch.optim.Optimizer:
    groups = []
    for part in parts:
        rate = config.learning_rate * (config.head_factor if part.fresh else 1.0)
        for decays in (True, False):
            parameters = [p for p in part.module.parameters() if (p.ndim > 1) == decays]
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": parameters, "base_lr": rate, "weight_decay": decay})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """Bring values to the device and, where they have its shape, the strides of a parameter.

    The fused optimizer goes through memory without a look at strides: it would give the weights
    of a channels-last kernel the gradients of others.
    """
    if values.shape != parameter.shape:  # a count of steps
        return values.to(parameter.device)
    return torch.empty_like(parameter).copy_(values)


def _mean(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(gradients)).mean(0) if len(gradients) > 1 else gradients[0]
