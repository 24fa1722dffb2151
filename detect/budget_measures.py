"""What a machine can multiply and add at most, and what the stages of detection take of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from detect.classifier import RegionClassifier
from detect.heads import decode_boxes
from detect.merging import MergeConfig, merge_detections
from detect.prepare import FusedConvReLU, PackedConv
from detect.shared_geometry import place_regions, split_levels
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers

_Result = TypeVar("_Result")
AnyClassifier = RegionClassifier | SharedTrunkClassifier
_CHANNELS, _SIDE = 1024, 28  # of the convolution that shows the peak; wider ones are no faster
_PEAK_BATCH = {"cpu": 4, "cuda": 128}  # fits into a core's caches; fills a GPU


@dataclass
class StageTime:
    """What a stage took.

    Attributes:
        worker_seconds: Elapsed, added up over the workers that shared the stage.
        core_seconds: In which a processor computed it.
        workers: How many shared it.
    """

    worker_seconds: float = 0.0
    core_seconds: float = 0.0
    workers: int = 1

    @property
    def seconds(self) -> float:
        """Elapsed, of the average worker."""
        return self.worker_seconds / self.workers


@dataclass
class StageTimer:
    """Adds up what each stage takes, over all threads; waits for a GPU at either end of a stage.

    Attributes:
        device: Where stages compute.
        stages: By name, in the order of their first end.
    """

    device: torch.device
    stages: dict[str, StageTime] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def __call__(self, stage: str, *, workers: int = 1, part: bool = False) -> Iterator[None]:
        """Count the time inside the ``with`` block to a stage.

        Args:
            stage: Its name.
            workers: Threads that share it.
            part: Whether the block is one thread's part of it; otherwise all that the process
                computes meanwhile belongs to the stage.
        """
        processor = time.thread_time if part else time.process_time
        synchronize(self.device)
        start, core_start = time.perf_counter(), processor()
        yield
        synchronize(self.device)
        elapsed, computed = time.perf_counter() - start, processor() - core_start
        with self._lock:
            total = self.stages.setdefault(stage, StageTime(workers=workers))
            total.worker_seconds += elapsed if part else elapsed * workers
            total.core_seconds += computed


class PeakConvolution:
    """A convolution on which a machine does hardly anything but multiply and add.

    1x1, 1024 -> 1024 channels, 28 x 28 points, packed by oneDNN as the prepared network's are, or
    run by cuDNN. A matrix product is not the peak everywhere: MKL's in float32 reaches 41 % of it
    on an AMD EPYC.

    Args:
        dtype: In which it computes.
        device: Where it computes.
        workers: Cores that each run it by themselves, on a CPU.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, workers: CoreWorkers) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(_CHANNELS, _CHANNELS, 1, 1, generator=generator) / _CHANNELS
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        weight, bias = weight.to(**place), torch.zeros(_CHANNELS, **place)
        self._layer = (
            PackedConv(weight, bias, stride=1, padding=0, side=_SIDE)
            if device.type == "cpu"
            else FusedConvReLU(weight, bias, stride=1, padding=0)
        )
        batch = _PEAK_BATCH.get(device.type, _PEAK_BATCH["cuda"])
        example = torch.rand(batch, _CHANNELS, _SIDE, _SIDE, generator=generator).to(**place)
        self._inputs = example.contiguous(memory_format=torch.channels_last)
        self._workers = workers
        self._device = device
        self._copies = workers.threads if device.type == "cpu" else 1
        self.multiply_adds = batch * _CHANNELS**2 * _SIDE**2  # of one pass by one worker

    def rate(self, seconds: float = 0.3) -> float:
        """Measure multiply-adds a second of all workers, for about this many seconds."""
        inputs = [self._inputs] * self._copies
        taken = time_passes(
            lambda: run_on(self._device, self._workers, self._layer, inputs),
            seconds=seconds,
            device=self._device,
        )
        return self._copies * self.multiply_adds / taken


def run_on(
    device: torch.device,
    workers: CoreWorkers,
    function: Callable[[Tensor], _Result],
    items: Sequence[Tensor],
) -> list[_Result]:
    """Apply a function to every item as classifiers do: by a CPU's cores, or in turn on a GPU."""
    if device.type == "cpu":
        return workers.map(function, items)
    with torch.inference_mode():
        return [function(item) for item in items]


def time_passes(
    work: Callable[[], object], *, seconds: float, device: torch.device, warm: bool = False
) -> float:
    """Return the seconds of one call, of as many as take about ``seconds`` together.

    A GPU is waited for before the first and after the last call only, so that it is kept busy.

    Args:
        work: What is timed.
        seconds: Of all calls that are timed, about; one at least.
        device: Where it computes.
        warm: Whether it has run before: the first call compiles code and fills caches.
    """
    if not warm:
        work()
    once = _time_calls(work, 1, device)
    calls = max(1, round(seconds / once))
    return once if calls == 1 else _time_calls(work, calls, device) / calls


def _time_calls(work: Callable[[], object], calls: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_stages(
    classifier: AnyClassifier,
    image: Tensor,
    boxes: Tensor,
    *,
    merge: MergeConfig,
    timer: StageTimer,
) -> None:
    """Classify and merge the regions of an image as detection does, each stage on the clock.

    The stages are ``trunk`` (of shared maps alone), ``cut`` (warp or sample, and put in the
    network's precision), ``network``, ``head`` and ``merge``. A GPU runs them without a CUDA graph.

    Args:
        classifier: Of either mode.
        image: RGB uint8, ``[3, H, W]``.
        boxes: Regions, on the CPU, ``[N, 4]``.
        merge: Settings of soft-NMS or NMS, and of voting.
        timer: Receives the times.
    """
    batches, device = classifier.batches, timer.device
    work = _work_of(classifier, image, boxes, timer)
    parts = work.regions.split(batches.batch_size)
    share = min(batches.workers.threads, len(parts)) if device.type == "cpu" else 1

    def score(part: Tensor) -> tuple[Tensor, Tensor]:
        with timer("cut", workers=share, part=True):
            inputs = work.cut(part)
        with timer("network", workers=share, part=True):
            features = work.network(inputs)
        with timer("head", workers=share, part=True):
            logits, offsets = classifier.head(features.float())
            return logits, offsets

    scored = run_on(device, batches.workers, score, parts)
    with torch.inference_mode(), timer("merge"):
        logits, offsets = (torch.cat(tensors) for tensors in zip(*scored, strict=True))
        size = (image.shape[-2], image.shape[-1])
        moved = decode_boxes(work.boxes.to(device), offsets, size)
        merge_detections(moved.cpu(), classifier.head.probabilities(logits).cpu(), merge)


@dataclass(frozen=True)
class _Work:
    """What is done batch by batch.

    Attributes:
        boxes: Of the image, in the order of the batches, ``[N, 4]``.
        regions: What ``cut`` takes of each, ``[N, ...]``.
        cut: Makes the network's input of some of them.
        network: Makes features of that.
    """

    boxes: Tensor
    regions: Tensor
    cut: Callable[[Tensor], Tensor]
    network: Callable[[Tensor], Tensor]


def _work_of(classifier: AnyClassifier, image: Tensor, boxes: Tensor, timer: StageTimer) -> _Work:
    """Do what comes before the batches, the trunk on the clock."""
    if isinstance(classifier, RegionClassifier):
        cut = partial(classifier.cut, image.to(timer.device))
        return _Work(boxes, boxes, cut, classifier.network.features)
    trunk, workers = classifier.trunk, classifier.batches.workers
    size = (image.shape[-2], image.shape[-1])
    with timer("trunk", workers=workers.threads if timer.device.type == "cpu" else 1):
        regions, places = place_regions(boxes, size, trunk.config)
        maps = classifier.image_maps(image, [level for level, _ in split_levels(regions)])
    cut = partial(trunk.pyramid_regions, maps)
    return _Work(boxes[places], regions, cut, trunk.network.inception5)
