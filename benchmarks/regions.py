"""Time the classification of regions against eager torchvision and against the machine's peak.

    python benchmarks/regions.py [VOC2007] [--busy] [--quick] [--device cuda]

Every figure is the median of several runs. In each of them the anchor (torchvision's GoogLeNet,
eager, float32, in a process of its own, in whichever way it is fastest) and the peak (a wide
convolution) are measured in turn with it; ratios are medians of the ratios in a run. Runs during
which other processes used more than 0.1 core are taken again, and each figure tells what they used.

VOC2007 gives a photo of 500 x 375; without it one of scikit-image's is resized to that. --busy adds
what a busy process on one core costs; --quick takes one short run of everything.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from benchmarks.contestants import Place
from benchmarks.eager import Eager
from benchmarks.machine import OtherLoad, describe_machine
from benchmarks.region_figures import (
    Bench,
    busy_figure,
    cut_figure,
    image_figures,
    other_figures,
    photo_figure,
    shared_figure,
    throughput_figures,
)
from benchmarks.region_subjects import find_photo
from detect.allocator import keep_freed_memory
from detect.workers import CoreWorkers

ANCHOR_BATCHES = {"cpu": (1, 2, 4, 8, 16, 32, 64), "cuda": (64, 128, 256, 512)}


def make_bench(args: argparse.Namespace) -> Bench:
    """Find the anchor's fastest way, and say what all figures share."""
    device = torch.device(args.device)
    workers = CoreWorkers(args.threads)
    place = Place(device, workers, seconds=0.05 if args.quick else args.seconds)
    batches = (1, 4) if args.quick else ANCHOR_BATCHES[device.type]
    with OtherLoad() as load:
        anchor = Eager(place, batches)
    busy = "" if load.cores is None else f" (others used {load.cores:.2f} cores meanwhile)"
    print(f"anchor: {anchor.name}{busy}", flush=True)
    runs = 1 if args.quick else args.runs
    return Bench(
        place,
        anchor,
        runs=runs,
        tries=1 if args.quick else 3 * runs,
        scale=0.01 if args.quick else 1.0,
    )


def figures(bench: Bench, photo: Path, *, busy: bool) -> Iterator[str]:
    """Measure one figure after the other."""
    yield from throughput_figures(bench)
    yield from other_figures(bench)
    yield cut_figure(bench)
    yield shared_figure(bench)
    yield from image_figures(bench)
    yield photo_figure(bench, photo)
    if busy:
        yield busy_figure(bench)


def read_arguments() -> argparse.Namespace:
    """Read the settings; leave with one line where they cannot be served."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("voc", type=Path, nargs="?", help="folder of VOC2007")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0: all")
    parser.add_argument("--runs", type=int, default=5, help="of each figure")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--busy", action="store_true", help="beside a busy process, on a CPU")
    parser.add_argument("--quick", action="store_true", help="one short run of everything")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here; leave it out")
    if args.busy and not hasattr(os, "sched_setaffinity"):
        parser.error("--busy: this system cannot bind a process to a core; leave it out")
    if args.threads < 0 or args.runs < 1 or args.seconds <= 0:
        parser.error("--threads, --runs and --seconds are numbers from 0, 1 and above 0")
    return args


def main() -> None:
    """Measure and print."""
    args = read_arguments()
    # As tools/detect.py does; the anchor, in a process of its own, has the system's way.
    keep_freed_memory()
    print(describe_machine())
    bench = make_bench(args)
    with tempfile.TemporaryDirectory() as folder:
        for figure in figures(bench, find_photo(args.voc, Path(folder)), busy=args.busy):
            print(figure, flush=True)
    bench.anchor.close()


if __name__ == "__main__":
    main()
