"""Training of early rejection: a small network learns from what the whole one says of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detect.checkpoint import Checkpoint
from detect.engine import build_classifier
from detect.rejection import REJECTION_THRESHOLD, RejectionNetwork, summarise
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers


@dataclass
class RejectionConfig:
    """How early rejection is trained, at the end of a fine-tuning on a shared trunk.

    Raises:
        ValueError: If a number is out of range.
    """

    photos: int = 100  # training photos that it learns from, at most; 0: there is none
    regions_per_photo: int = 500  # proposals of each, at most, chosen at random
    hidden: int = 192  # units between its two layers
    epochs: int = 8  # times that it sees every region
    batch_size: int = 1024  # regions a step
    learning_rate: float = 0.001  # at its height, of AdamW with one cycle (Smith & Topin 2018)
    weight_decay: float = 0.01  # of AdamW
    dropout: float = 0.3  # share of its inputs and of its hidden units

    def __post_init__(self) -> None:
        if min(self.photos, self.weight_decay) < 0:
            raise ValueError("rejection.photos and weight_decay must not be negative")
        counts = (self.regions_per_photo, self.hidden, self.epochs, self.batch_size)
        if min(counts) < 1 or not self.learning_rate > 0:
            raise ValueError("rejection: counts must be 1 or more, and learning_rate above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"rejection.dropout must be from 0 to below 1: got {self.dropout}")


def train_rejection(
    checkpoint: Checkpoint,
    photos: Iterable[tuple[Tensor, Tensor]],
    config: RejectionConfig,
    *,
    seed: int,
    workers: CoreWorkers,
    on_photo: Callable[[], object] = lambda: None,
) -> tuple[RejectionNetwork, float]:
    """Teach a small network what a detector says of regions.

    Args:
        checkpoint: The detector, with a shared trunk; not changed.
        photos: RGB uint8 images ``[3, H, W]`` and proposals of each, ``[N, 4]``.
        config: What it learns from, and how.
        seed: Of the choice of regions, the start, the order and dropout.
        workers: Cores; the result is the same for any number of them.
        on_photo: Called after each photo.

    Returns:
        The network, and the share of the regions that would be scored by the default threshold.

    Raises:
        ValueError: If the detector has no shared trunk, or there is no region.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = _classifier_of(checkpoint, workers)
    summaries, targets = [], []
    for image, boxes in photos:
        order = torch.randperm(len(boxes), generator=generator)
        boxes = boxes[order[: config.regions_per_photo]]
        summaries.append(classifier.on_regions(image, boxes, summarise).half())
        targets.append(classifier.score_regions(image, boxes)[1])
        on_photo()
    if not sum(map(len, targets)):
        raise ValueError("early rejection cannot be trained: there is no proposal on any photo")
    summary, target = torch.cat(summaries), torch.cat(targets)
    # Independent classifiers' probabilities, those of SVMs, need not sum to 1.
    target /= target.sum(dim=1, keepdim=True)
    # One core: products are summed in another order by several.
    one = CoreWorkers(1)
    network = one.together(lambda _: _fit(summary, target, config, seed), None)
    with torch.no_grad():
        kept = network.foreground(summary.float()) >= REJECTION_THRESHOLD
    return network, kept.float().mean().item()


def _classifier_of(checkpoint: Checkpoint, workers: CoreWorkers) -> SharedTrunkClassifier:
    if checkpoint.regions != "shared":
        raise ValueError(f"early rejection needs regions=shared, not {checkpoint.regions}")
    device, threads = checkpoint.network.device, workers.threads
    classifier = build_classifier(checkpoint, device=device, regions="shared", threads=threads)
    assert isinstance(classifier, SharedTrunkClassifier)
    return classifier


def _fit(summary: Tensor, target: Tensor, config: RejectionConfig, seed: int) -> RejectionNetwork:
    """Train the network on summaries ``[N, D]`` and probabilities ``[N, C + 1]``."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False), torch.enable_grad():
        torch.manual_seed(seed)
        mean = summary.float().mean(dim=0)
        spread = summary.float().std(dim=0, correction=0) + 0.01  # channels may be silent
        network = RejectionNetwork(target.shape[1] - 1, config.hidden)
        dropout = nn.Dropout(config.dropout)
        steps = config.epochs * -(-len(target) // config.batch_size)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps)
        for _ in range(config.epochs):
            for chosen in torch.randperm(len(target)).split(config.batch_size):
                inputs = dropout((summary[chosen].float() - mean) / spread)
                logits = network.classifier(dropout(network.hidden(inputs).relu()))
                loss = nn.functional.cross_entropy(logits, target[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():  # it takes summaries as they are from now on
        network.hidden.weight.div_(spread)
        network.hidden.bias.sub_(network.hidden.weight @ mean)
    return network.eval()
