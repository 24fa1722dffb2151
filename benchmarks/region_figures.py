"""The figures of benchmarks/regions.py: each measures something and says what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bars import Bar, format_figure
from benchmarks.busy import busy_core
from benchmarks.contestants import SIDE, Contestant, Network, Place, others
from benchmarks.eager import Eager
from benchmarks.machine import InTurn, measure_in_turn
from benchmarks.region_subjects import (
    PHOTO_SIZE,
    ExactlyThisMany,
    checkpoint_of,
    crop_classifier,
    make_image,
    shared_classifier,
)
from detect.budget import count_cost
from detect.budget_measures import (
    AnyClassifier,
    PeakConvolution,
    run_on,
    time_passes,
)
from detect.budget_run import make_boxes
from detect.checkpoint import Checkpoint, load_checkpoint
from detect.detector import Detector
from detect.googlenet import GoogLeNet, Layout
from detect.merging import MergeConfig, merge_detections
from detect.precision import best_precision
from proposals import SelectiveSearch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Regions of an image where crops a second are wanted: enough to keep all cores or a GPU busy.
MANY = {"cpu": 256, "cuda": 4096}
LAYOUTS: tuple[Layout, ...] = ("paper", "torchvision")
_X_ANCHOR, _OF_PEAK = "x the anchor", "% of the peak"
# What the throughput of crops is held against, by device and precision.
THROUGHPUT_BARS: dict[tuple[str, str], dict[str, Bar]] = {
    ("cpu", "bfloat16"): {"ratio": Bar(_X_ANCHOR, 5.5), "peak": Bar(_OF_PEAK, 65)},
    ("cpu", "float32"): {"ratio": Bar(_X_ANCHOR, 3.0), "peak": Bar(_OF_PEAK, 70)},
    ("cuda", "bfloat16"): {"rate": Bar("crops/s", 40_000), "ratio": Bar(_X_ANCHOR, 4.0)},
}
CUT_BAR = Bar("% of crop mode is warp and copies", 8.0, at_most=True)
SHARED_BAR = Bar("x crop mode", 12.0)
PHOTO_BAR = Bar("s a photo", 1.0, at_most=True, decimals=2)
BUSY_BAR = Bar("% lost beside a busy process on one core", 55.0, at_most=True)
GPU_IMAGE_BAR = Bar("ms after proposals", 40.0, at_most=True)


@dataclass(frozen=True)
class Bench:
    """What all figures share.

    Attributes:
        place: Where they are measured.
        anchor: What they are compared with.
        runs: Of each, of which the medians are taken.
        tries: Runs until enough of them were quiet, at most.
        scale: Share of the regions that an image has in a full run.
    """

    place: Place
    anchor: Eager
    runs: int
    tries: int
    scale: float

    @property
    def dtype(self) -> torch.dtype:
        """The precision that suits the device best."""
        return best_precision(self.place.device)

    def regions(self, count: int, image_size: tuple[int, int]) -> Tensor:
        """Make so many regions of an image, or fewer in a quick run."""
        return make_boxes(max(1, round(self.scale * count)), image_size)

    def seconds(self, work: Callable[[], object], *, warm: bool = False) -> float:
        """Return the seconds of one call; see ``time_passes``."""
        place = self.place
        return time_passes(work, seconds=place.seconds, device=place.device, warm=warm)

    def measure(self, **measures: Callable[[], float]) -> InTurn:
        """Measure in turn with the anchor's crops a second, which is called ``anchor``."""
        in_turn = {**measures, "anchor": self.anchor.rate}
        return measure_in_turn(in_turn, self.runs, tries=self.tries)


def throughput_figures(bench: Bench) -> Iterator[str]:
    """Measure crops a second of the network alone in both layouts, and of all of crop mode."""
    for precision, dtype in DTYPES.items():
        peak = PeakConvolution(dtype, bench.place.device, bench.place.workers)
        for layout in LAYOUTS:
            checkpoint = checkpoint_of(layout)
            rates = {"network alone": Network(checkpoint.network, dtype, bench.place).rate}
            if layout == "paper":
                rates["crop mode"] = crop_mode_rate(bench, checkpoint, dtype)
            for name, rate in rates.items():
                found = bench.measure(ours=rate, peak=partial(peak.rate, bench.place.seconds))
                title = f"{name}, {precision}, {layout}"
                yield _throughput_figure(title, found, checkpoint.network, bench, precision)


def _throughput_figure(
    title: str, found: InTurn, network: GoogLeNet, bench: Bench, precision: str
) -> str:
    multiply_adds = count_cost(network, (3, SIDE, SIDE), GoogLeNet.features).multiply_adds
    bars = THROUGHPUT_BARS.get((bench.place.device.type, precision), {})
    rate, ratio = found.median("ours"), found.ratio("ours", "anchor")
    share = 100 * multiply_adds * found.ratio("ours", "peak")
    values = {"rate": (rate, ""), "ratio": (ratio, _X_ANCHOR), "peak": (share, _OF_PEAK)}
    verdicts = [
        bars[key].verdict(value) if key in bars else f"{value:.1f} {what}"
        for key, (value, what) in values.items()
        if key in bars or what
    ]
    figure = f"{rate:,.1f} crops/s; peak {found.median('peak') / 1e9:,.0f} GMAC/s"
    return _figure(title, figure, verdicts, found)


def other_figures(bench: Bench) -> Iterator[str]:
    """Measure crops a second of whatever else is installed that runs networks."""
    if bench.place.device.type != "cpu":
        return
    for contestant in others(load_checkpoint().network, bench.place):
        if isinstance(contestant, str):
            yield contestant
        else:
            yield _other_figure(bench, contestant)
    # What this project's setting of the allocator alone would do for the anchor.
    batches = (bench.anchor.batch, 4 * bench.anchor.batch)
    tuned = Eager(bench.place, batches, keeps_memory=True)
    tuned.name = "anchor that keeps freed memory"
    yield _other_figure(bench, tuned)
    tuned.close()


def _other_figure(bench: Bench, contestant: Contestant) -> str:
    found = bench.measure(theirs=contestant.rate)
    ratio = f"{found.ratio('theirs', 'anchor'):.1f} {_X_ANCHOR}"
    return _figure(contestant.name, f"{found.median('theirs'):,.1f} crops/s", [ratio], found)


def crop_mode_rate(bench: Bench, checkpoint: Checkpoint, dtype: torch.dtype) -> Callable[[], float]:
    """Return what measures crops a second of crop mode: warp, copies, network and head."""
    classifier = crop_classifier(checkpoint, dtype, bench.place)
    image, boxes = make_image(*PHOTO_SIZE), bench.regions(MANY[bench.place.device.type], PHOTO_SIZE)
    return lambda: len(boxes) / bench.seconds(lambda: classifier.score_regions(image, boxes))


def cut_figure(bench: Bench) -> str:
    """Measure which share of crop mode warping and copying take."""
    classifier = crop_classifier(load_checkpoint(), bench.dtype, bench.place)
    device, workers = bench.place.device, bench.place.workers
    image, boxes = make_image(*PHOTO_SIZE), bench.regions(MANY[bench.place.device.type], PHOTO_SIZE)
    parts = boxes.split(classifier.batches.batch_size)
    there = image.to(device)

    def cut() -> None:
        run_on(device, workers, lambda part: classifier.cut(there, part), parts)

    found = bench.measure(
        cut=lambda: bench.seconds(cut),
        whole=lambda: bench.seconds(lambda: classifier.score_regions(image, boxes)),
    )
    figure = f"{1e6 * found.median('cut') / len(boxes):,.0f} us a region"
    verdict = CUT_BAR.verdict(100 * found.ratio("cut", "whole"))
    return _figure("warp and copies", figure, [verdict], found)


def shared_figure(bench: Bench) -> str:
    """Measure how much faster a shared trunk is for 1,500 regions of 600 x 800 pixels."""
    checkpoint, size = load_checkpoint(), (600, 800)
    crops = crop_classifier(checkpoint, bench.dtype, bench.place)
    shared = shared_classifier(checkpoint, bench.dtype, bench.place)
    image, boxes = make_image(*size), bench.regions(1500, size)

    def time(classifier: AnyClassifier) -> Callable[[], float]:
        work = partial(classifier.score_regions, image, boxes)
        work()
        return partial(bench.seconds, work, warm=True)

    found = bench.measure(crops=time(crops), shared=time(shared))
    figure = (
        f"{found.median('shared'):.3f} s against {found.median('crops'):.3f} s by crops, "
        f"{len(boxes)} regions"
    )
    verdict = SHARED_BAR.verdict(found.ratio("crops", "shared"))
    return _figure("shared trunk, 600 x 800", figure, [verdict], found)


def photo_figure(bench: Bench, photo: Path) -> str:
    """Measure everything that one photo takes: reading, 1,200 proposals, classes, merging."""
    count = max(1, round(bench.scale * 1200))
    detector = Detector.load(
        proposer=ExactlyThisMany(SelectiveSearch("googlenet"), count),
        device=bench.place.device,
        threads=bench.place.workers.threads,
    )
    found = bench.measure(photo=lambda: bench.seconds(lambda: detector(photo)))
    seconds = found.median("photo")
    figure = f"{seconds:.3f} s, {count} proposals, file to detections"
    return _figure("one photo, 500 x 375", figure, [PHOTO_BAR.verdict(seconds)], found)


def image_figures(bench: Bench) -> Iterator[str]:
    """Measure what an image of 1,200 proposals takes behind them, in either mode."""
    checkpoint = load_checkpoint()
    image, boxes = make_image(*PHOTO_SIZE), bench.regions(1200, PHOTO_SIZE)

    def detect(classifier: AnyClassifier) -> None:
        merge_detections(*classifier.score_regions(image, boxes), MergeConfig())

    classifiers: dict[str, AnyClassifier] = {
        "crops": crop_classifier(checkpoint, bench.dtype, bench.place),
        "shared": shared_classifier(checkpoint, bench.dtype, bench.place),
    }
    for mode, classifier in classifiers.items():
        work = partial(detect, classifier)
        work()
        found = bench.measure(image=partial(bench.seconds, work, warm=True))
        milliseconds = 1000 * found.median("image")
        limited = mode == "crops" and bench.place.device.type == "cuda"
        verdicts = [GPU_IMAGE_BAR.verdict(milliseconds)] if limited else []
        figure = f"{milliseconds:,.1f} ms, {len(boxes)} proposals"
        yield _figure(f"image after proposals, {mode}", figure, verdicts, found)


def busy_figure(bench: Bench) -> str:
    """Measure what a busy process on one core costs crop mode, and OpenMP's threads."""
    ours = crop_mode_rate(bench, load_checkpoint(), bench.dtype)

    def openmp() -> float:
        # Small batches: beside a busy core, OpenMP takes seconds for a crop.
        return bench.anchor.rate_of(min(bench.anchor.batch, 4), threaded=False)

    def beside(rate: Callable[[], float]) -> Callable[[], float]:
        def measure() -> float:
            with busy_core():
                return rate()

        return measure

    found = bench.measure(alone=ours, beside=beside(ours), omp=openmp, omp_beside=beside(openmp))
    lost = 100 * (1 - found.ratio("beside", "alone"))
    omp_lost = 100 * (1 - found.ratio("omp_beside", "omp"))
    figure = f"{found.median('beside'):,.1f} crops/s instead of {found.median('alone'):,.1f}"
    verdicts = [BUSY_BAR.verdict(lost), f"{omp_lost:.1f} % lost by eager torchvision with OpenMP"]
    return _figure("crop mode beside a busy core", figure, verdicts, found)


def _figure(name: str, figure: str, verdicts: list[str], found: InTurn) -> str:
    anchor = f"{figure}; anchor {found.median('anchor'):,.1f} crops/s"
    return format_figure(name, anchor, verdicts, found.runs.remark)
