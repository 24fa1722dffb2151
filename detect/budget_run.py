"""What tools/budget.py does: count what a checkpoint costs, and measure what that takes here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detect.budget import Budget, count_budget
from detect.budget_measures import (
    AnyClassifier,
    PeakConvolution,
    StageTime,
    StageTimer,
    measure_stages,
)
from detect.budget_settings import MODES, BudgetConfig, check_settings, proposal_count
from detect.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from detect.classifier import RegionClassifier
from detect.detector import Detector
from detect.engine import BATCH_SIZES, GPU_BATCH_SIZE
from detect.googlenet import GoogLeNet
from detect.images import read_image
from detect.rejection import Rejection
from detect.shared_geometry import region_levels
from detect.shared_trunk import SharedTrunkClassifier

PEAK_SECONDS = 0.3  # of every measurement of the peak


@dataclass(frozen=True)
class Measured:
    """What one image took in one mode, medians.

    Attributes:
        peak: Multiply-adds a second of all workers, next to the same measurements.
        threads: How many workers that was.
        stages: By name, in their order.
    """

    peak: float
    threads: int
    stages: dict[str, StageTime]

    @property
    def seconds(self) -> float:
        """Elapsed, of all stages."""
        return sum(stage.seconds for stage in self.stages.values())

    def share_of_peak(self, multiply_adds: Mapping[str, int]) -> float:
        """Return which share of their workers' peak stages reached, given what each computes."""
        busy = sum(self.stages[name].worker_seconds for name in multiply_adds)
        return sum(multiply_adds.values()) / (busy * self.peak / self.threads)


@dataclass(frozen=True)
class BudgetRun:
    """The counts of a checkpoint and an image, and what was measured.

    Attributes:
        checkpoint: Name of its file.
        layout: Of its network.
        classes: Without background.
        image_size: Height and width, pixels.
        precision: In which the network really computes.
        device: Where.
        threads: Workers, on a CPU.
        rejected: Proposals of the photo that are not scored: see ``detect.rejection``.
        budget: What was counted, of those that are.
        measured: By mode; empty where nothing was asked for.
    """

    checkpoint: str
    layout: str
    classes: int
    image_size: tuple[int, int]
    precision: str
    device: str
    threads: int
    rejected: int
    budget: Budget
    measured: dict[str, Measured]


def run_budget(settings: BudgetConfig) -> BudgetRun:
    """Count, and measure what the settings ask for.

    Raises:
        ValueError: If a setting is none of its choices or a file cannot be read.
    """
    check_settings(settings)
    path = Path(settings.checkpoint or BUNDLED)
    checkpoint = load_checkpoint(path)
    chosen = settings.regions or checkpoint.regions
    modes = MODES if chosen == "both" else (chosen,)
    detectors = {mode: _load(checkpoint, mode, settings) for mode in modes}
    detector = detectors[modes[0]]
    classifier = _narrow(detector)
    network = _network_of(classifier)
    count = proposal_count(settings)
    photo = Path(settings.proposals) if count is None else None
    image = read_image(photo) if photo else _make_image(settings.height, settings.width)
    size = (image.shape[-2], image.shape[-1])
    proposals = detector.proposer(image) if count is None else make_boxes(count, size)
    boxes = detector.rejection(image, proposals) if count is None else proposals
    levels = region_levels(proposals, size, checkpoint.shared).unique().tolist() or [0]
    return BudgetRun(
        checkpoint=path.name,
        layout=network.layout,
        classes=len(checkpoint.class_names),
        image_size=size,
        precision=str(network.dtype).removeprefix("torch."),
        device=str(detector.device),
        threads=classifier.batches.workers.threads,
        rejected=len(proposals) - len(boxes),
        budget=count_budget(
            checkpoint,
            image_size=size,
            proposals=len(boxes),
            dtype=network.dtype,
            batch_sizes=_batch_sizes(detector.device),
            levels=levels,
        ),
        measured={
            mode: _measure(detectors[mode], image, boxes, photo, levels, settings.repeats)
            for mode in (modes if settings.measure else ())
        },
    )


def _batch_sizes(device: torch.device) -> dict[str, int]:
    return BATCH_SIZES if device.type == "cpu" else dict.fromkeys(BATCH_SIZES, GPU_BATCH_SIZE)


def _load(checkpoint: Checkpoint, mode: str, settings: BudgetConfig) -> Detector:
    return Detector.load(
        checkpoint,
        regions=mode,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )


def _narrow(detector: Detector) -> AnyClassifier:
    assert isinstance(detector.classifier, RegionClassifier | SharedTrunkClassifier)
    return detector.classifier


def _network_of(classifier: AnyClassifier) -> GoogLeNet:
    if isinstance(classifier, RegionClassifier):
        return classifier.network
    return classifier.trunk.network


def _make_image(height: int, width: int) -> Tensor:
    """Make an image of random pixels, RGB uint8 ``[3, H, W]`` in the order of a photo's memory."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return pixels.permute(2, 0, 1)


def make_boxes(count: int, image_size: tuple[int, int]) -> Tensor:
    """Make boxes of all sizes inside an image, ``[N, 4]``.

    Args:
        count: How many.
        image_size: Height and width of the image, pixels.
    """
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor(image_size[::-1]).float()
    # The square of a random number: small boxes are more common, as among proposals.
    sides = extent * (0.02 + 0.98 * torch.rand(count, 2, generator=generator) ** 2)
    corners = (extent - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def _measure(
    detector: Detector,
    image: Tensor,
    boxes: Tensor,
    photo: Path | None,
    levels: Sequence[int],
    repeats: int,
) -> Measured:
    classifier, device = _narrow(detector), detector.device
    workers = classifier.batches.workers
    peak = PeakConvolution(_network_of(classifier).dtype, device, workers)
    warm = boxes[: 2 * workers.threads * classifier.batches.batch_size]
    measure_stages(classifier, image, warm, merge=detector.merge, timer=StageTimer(device))
    peaks, timers = [], []
    for _ in range(repeats):
        timer = StageTimer(device)
        peaks.append(peak.rate(PEAK_SECONDS))
        if photo:
            with timer("read"):
                image = read_image(photo)
            if isinstance(classifier, SharedTrunkClassifier):  # a MultiBox may read its maps
                with timer("trunk", workers=workers.threads if device.type == "cpu" else 1):
                    classifier.image_maps(image, levels)
            with timer("propose"):
                boxes = detector.proposer(image)
            if isinstance(detector.rejection, Rejection):
                with timer("reject"):
                    boxes = detector.rejection(image, boxes)
        measure_stages(classifier, image, boxes, merge=detector.merge, timer=timer)
        timers.append(timer)
    threads = workers.threads if device.type == "cpu" else 1
    names = timers[0].stages
    stages = {name: _median([timer.stages[name] for timer in timers]) for name in names}
    return Measured(statistics.median(peaks), threads, stages)


def _median(times: Sequence[StageTime]) -> StageTime:
    return StageTime(
        statistics.median(time.worker_seconds for time in times),
        statistics.median(time.core_seconds for time in times),
        times[0].workers,
    )
