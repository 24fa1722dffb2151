"""Training of a shared-trunk region classifier on cached stem maps.

The loss is Fast R-CNN's (Girshick 2015): cross entropy over classes and background, and smooth L1
on the box offsets of foreground regions. The photos of a step are independent until their
gradients are averaged, so each runs in a thread of its own with one core: on a CPU that keeps all
cores busy where one convolution cannot, and the result does not depend on how many there are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from detect.data.records import Record
from detect.data.regions import label_regions, sample_regions
from detect.files import write_atomically
from detect.heads import RegionHead, encode_boxes
from detect.precision import best_precision
from detect.shared_trunk import SharedTrunk
from detect.training_cache import TrainingCache


@dataclass
class TrainingConfig:
    """How a region classifier is trained."""

    steps: int = 6000  # updates of the weights
    photos_per_step: int = 2  # as in Fast R-CNN
    regions_per_photo: int = 64  # as in Fast R-CNN
    foreground_fraction: float = 0.25  # share of a photo's regions that show an object; R-CNN
    foreground_iou: float = 0.5  # overlap from which a region shows an object; R-CNN
    learning_rate: float = 1.5e-4  # of AdamW, for the trunk
    head_factor: float = 4.0  # the head starts from nothing: its learning rate is this much higher
    weight_decay: float = 0.01  # of AdamW, none on biases
    warmup_steps: int = 100  # linear rise of the learning rate, which then falls as a cosine
    dropout: float = 0.4  # share of the features dropped; the paper's
    box_weight: float = 1.0  # weight of the box loss; Fast R-CNN
    average_decay: float = 0.998  # of the running (Polyak) average that is the final model
    train_from: str = "4a"  # first block that is trained: 4a or 5a
    seed: int = 0  # of the head's start, the order of photos, sampling and dropout


@dataclass(frozen=True)
class StepStats:
    """What one step did: losses are means over its regions."""

    step: int
    learning_rate: float
    class_loss: float
    box_loss: float
    foreground_accuracy: float


class PolyakAverage:
    """A running average of parameters; it forgets faster at the start, to lose the first values."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[Tensor]) -> None:
        """Replace parameters by their average."""
        for parameter, value in zip(parameters, self.values, strict=True):
            parameter.copy_(value)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the factor on the learning rate at a step: linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class RegionTrainer:
    """Trains a trunk's upper blocks and a head; one :meth:`step` at a time.

    Args:
        trunk: float32, channels last; what lies below ``config.train_from`` stays as it is.
        head: Starts as given.
        cache: Proposals and stem maps of every record.
        records: The training set.
        config: The recipe.
        threads: Photos computed at the same time.
    """

    def __init__(
        self,
        trunk: SharedTrunk,
        head: RegionHead,
        *,
        cache: TrainingCache,
        records: Sequence[Record],
        config: TrainingConfig,
        threads: int = 0,
    ) -> None:
        if not records:
            raise ValueError("no photos to train on")
        self.trunk, self.head, self.cache, self.config = trunk, head, cache, config
        self.records = list(records)
        self.device = trunk.network.device
        blocks = trained_blocks(trunk, config.train_from)
        trunk.requires_grad_(False)
        blocks.requires_grad_(True)
        self.parameters = [*blocks.parameters(), *head.parameters()]
        self.optimizer = _optimizer(blocks, head, config)
        self.average = PolyakAverage(self.parameters, config.average_decay)
        self.next_step = 0
        workers = 1 if self.device.type == "cuda" else min(config.photos_per_step, threads or 99)
        self._pool = ThreadPoolExecutor(
            min(workers, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
        )

    def step(self) -> StepStats:
        """Update the weights once from ``photos_per_step`` photos."""
        config, step = self.config, self.next_step
        first = step * config.photos_per_step
        draws = range(first, first + config.photos_per_step)
        results = list(self._pool.map(self._gradients, draws))
        factor = learning_rate_at(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        for parameter, *gradients in zip(self.parameters, *(g for g, _ in results), strict=True):
            parameter.grad = torch.stack(gradients).mean(0) if len(gradients) > 1 else gradients[0]
        self.optimizer.step()
        self.average.update(self.parameters, step)
        self.next_step += 1
        class_loss, box_loss, accuracy = torch.tensor([s for _, s in results]).nanmean(0).tolist()
        return StepStats(step, config.learning_rate * factor, class_loss, box_loss, accuracy)

    def _gradients(self, draw: int) -> tuple[tuple[Tensor, ...], tuple[float, float, float]]:
        """Return one photo's gradients and losses; everything random follows from the draw."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + draw)
        record = self.records[self._photo_of(draw)]
        mirror = bool(torch.rand((), generator=generator) < 0.5)
        photo = self.cache.load(record, mirror=mirror)
        num_classes = self.head.num_classes
        regions = label_regions(photo.proposals, record, num_classes, config.foreground_iou)
        regions = sample_regions(
            regions,
            config.regions_per_photo,
            num_classes=num_classes,
            foreground_fraction=config.foreground_fraction,
            generator=generator,
        )
        regions = regions.mirrored(photo.image_size[1]) if mirror else regions
        with _autocast(self.device):
            maps = self.trunk.network.inception4(photo.stem_map.to(self.device))
            boxes = regions.boxes.to(self.device)
            pooled = self.trunk.pooled_regions(maps, boxes, photo.image_size)
            features = self.trunk.network.inception5(pooled)
        kept = torch.rand(features.shape, generator=generator) >= config.dropout
        features = features.float() * kept.to(self.device) / (1 - config.dropout)
        logits, offsets = self.head(features)
        labels = regions.labels.to(self.device)
        targets = regions.targets.to(self.device)
        class_loss = F.cross_entropy(logits, labels)
        box_loss = box_regression_loss(offsets, boxes, labels, targets)
        loss = class_loss + config.box_weight * box_loss
        gradients = torch.autograd.grad(loss, self.parameters)
        correct = (logits.argmax(1) == labels)[labels < num_classes].float().mean()
        return gradients, (class_loss.item(), box_loss.item(), correct.item())

    def _photo_of(self, draw: int) -> int:
        """Return the photo of a draw: every epoch is a new permutation."""
        epoch, place = divmod(draw, len(self.records))
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + 7 * epoch + 1)
        return int(torch.randperm(len(self.records), generator=generator)[place])

    def save(self, path: Path, settings: dict[str, object]) -> None:
        """Write everything that :meth:`restore` needs, atomically."""
        tensors = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"{i}.value"] = parameter.detach().contiguous()
            tensors[f"{i}.average"] = self.average.values[i].contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{i}.optimizer.{key}"] = value.contiguous()
        metadata = {"step": str(self.next_step), "settings": json.dumps(settings, sort_keys=True)}
        write_atomically(path, save(tensors, metadata))

    @torch.no_grad()
    def restore(self, path: Path, settings: dict[str, object]) -> None:
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
                    key.removeprefix(prefix): file.get_tensor(key).to(parameter.device)
                    for key in keys
                }
        self.next_step = int(metadata["step"])

    def finish(self) -> None:
        """Replace the weights by their average, and let no gradient be asked of them any more."""
        self.average.copy_to(self.parameters)
        self.trunk.requires_grad_(False)
        self.head.requires_grad_(False)


def trained_blocks(trunk: SharedTrunk, train_from: str) -> nn.ModuleList:
    """Return the trunk's blocks from one on.

    Raises:
        ValueError: If the block is none that can be trained on cached stem maps.
    """
    names = ["4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    if train_from not in names:
        raise ValueError(f"train_from={train_from!r}: must be one of {', '.join(names)}")
    chosen = names[names.index(train_from) :]
    return nn.ModuleList(getattr(trunk.network, f"inception{name}") for name in chosen)


def box_regression_loss(offsets: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return smooth L1 of the offsets of foreground regions, summed, over the number of regions.

    Args:
        offsets: Predicted for every class, ``[N, C, 4]``.
        boxes: Regions, ``[N, 4]``.
        labels: Their classes; C is background, ``[N]``.
        targets: Where foreground regions should move, ``[N, 4]``.
    """
    foreground = (labels < offsets.shape[1]).nonzero().flatten()
    wanted = encode_boxes(boxes[foreground], targets[foreground])
    predicted = offsets[foreground, labels[foreground]]
    return F.smooth_l1_loss(predicted, wanted, reduction="sum") / max(1, len(labels))


def _optimizer(
    blocks: nn.ModuleList, head: RegionHead, config: TrainingConfig
) -> torch.optim.Optimizer:
    groups = []
    for module, factor in ((blocks, 1.0), (head, config.head_factor)):
        for decays in (True, False):
            parameters = [p for p in module.parameters() if (p.ndim > 1) == decays]
            rate = config.learning_rate * factor
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": parameters, "base_lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _autocast(device: torch.device) -> torch.autocast:
    enabled = best_precision(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
