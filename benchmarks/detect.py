"""Time tools/detect.py as a whole process on VOC2007 photos, and score what it found.

    python benchmarks/detect.py VOC_ROOT [--photos 200] [--regions shared crops]
    python benchmarks/detect.py VOC_ROOT --precision bfloat16 float32

The detector is the bundled one's like that learned from train alone, unless checkpoint= is given.
Everything counts: start, reading, proposals, classification, drawing, every results file. A run
during which other processes used more than 0.1 core is taken again, up to --tries times.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the packages, not this folder's files

from benchmarks.bars import Bar
from benchmarks.machine import QuietRuns, describe_machine, quiet_runs
from benchmarks.unseen import with_unseen
from detect.config import split_arguments

PRECISION_BAR = Bar("points of mAP from float32", 0.1, at_most=True, decimals=2)


@dataclass(frozen=True)
class Run:
    """One detection of all photos.

    Attributes:
        out: Folder of the results.
        seconds: Of the whole process.
        memory: Its peak, GiB.
    """

    out: Path
    seconds: float
    memory: float


def detect(paths: Sequence[str], out: Path, options: Sequence[str]) -> Run:
    """Run the tool on photos with some settings."""
    command = [sys.executable, str(ROOT / "tools" / "detect.py"), "-", f"out={out}", *options]
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(paths))
    start = time.perf_counter()
    with listing.open() as file:
        process = subprocess.Popen(command, stdin=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"detection ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(out, time.perf_counter() - start, usage.ru_maxrss / 2**20)


def detect_quietly(
    paths: Sequence[str], folder: Path, options: Sequence[str], *, tries: int
) -> QuietRuns[Run]:
    """Run the tool until one run was quiet, each into a folder of its own inside a folder."""
    number = itertools.count()
    return quiet_runs(lambda: detect(paths, folder / f"{next(number)}", options), 1, tries=tries)


def score(names: Sequence[str], voc: Path, out: Path) -> float:
    """Score the run's VOC files; return mAP."""
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(names))
    command = [sys.executable, str(ROOT / "tools" / "score.py"), "format=voc", f"out={out}"]
    command += [f"predictions={out / 'voc'}", f"annotations={voc / 'Annotations'}"]
    subprocess.run([*command, f"image_list={listing}"], check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((out / "scores.json").read_text())["mean_ap"])


def compare_precisions(means: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """Say how far the mAP of every other precision lies from float32's, where that was run.

    Args:
        means: mAP, 0 to 1, by regions and precision.
    """
    for (regions, precision), mean in means.items():
        exact = means.get((regions, "float32"))
        if exact is not None and precision != "float32":
            verdict = PRECISION_BAR.verdict(100 * abs(mean - exact))
            yield f"{regions}, {precision}: {verdict}"


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the settings of this script, and those for tools/detect.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="name=value: settings passed on to tools/detect.py",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--photos", type=int, default=200, help="the first N of val.txt")
    parser.add_argument("--regions", nargs="+", default=["shared"], choices=["shared", "crops"])
    precisions = ["auto", "bfloat16", "float32"]
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=precisions)
    parser.add_argument("--tries", type=int, default=3, help="runs until one was quiet, at most")
    own, settings = split_arguments(sys.argv[1:])
    return parser.parse_args(own), settings


def main() -> None:
    """Print a row for each way to cut regions and each precision."""
    arguments, options = read_arguments()
    voc = arguments.voc.resolve()
    names = (voc / "ImageSets/Main/val.txt").read_text().split()[: arguments.photos]
    paths = [str(voc / "JPEGImages" / f"{name}.jpg") for name in names]
    print(f"{describe_machine()}; {len(names)} photos of VOC2007 val")
    print(f"{'regions':10}{'precision':12}{'s a photo':>12}{'peak GiB':>12}{'mAP':>10}", flush=True)
    means = {}
    for regions, precision in itertools.product(arguments.regions, arguments.precision):
        settings = [f"regions={regions}", *with_unseen(options)]
        settings += [f"precision={precision}"] if precision != "auto" else []
        with tempfile.TemporaryDirectory() as folder:
            taken = detect_quietly(paths, Path(folder), settings, tries=arguments.tries)
            [run] = taken.results
            means[regions, precision] = mean = score(names, voc, run.out)
        print(
            f"{regions:10}{precision:12}{run.seconds / len(names):12.2f}{run.memory:12.2f}"
            f"{100 * mean:10.2f}  ({taken.remark})",
            flush=True,
        )
    for line in compare_precisions(means):
        print(line)


if __name__ == "__main__":
    main()
