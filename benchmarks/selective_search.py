"""Time selective search against OpenCV contrib's and dlib's, photo by photo in turn.

The others need opencv-contrib-python, which cannot share an environment with opencv-python, and
dlib: give the Python of an environment that has them (dlib may be missing).

    python -m venv ../anchor && ../anchor/bin/pip install opencv-contrib-python dlib
    python benchmarks/selective_search.py VOC2007 --anchor-python ../anchor/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from detect.data.records import Record
from detect.data.voc import read_voc
from proposals.recall import average_best_overlap, average_recall, best_overlaps, recall

BUDGETS = None, 200, 500

# Every method is a process of its own, of which one works at a time: a path a line in; boxes,
# seconds (without reading the file) and the peak of resident memory in KiB out.
WORKER = """
import json, sys, time
import cv2, numpy as np
method, setting, width, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cv2.setNumThreads(threads)

def opencv(image):
    scale = image.shape[1] / width
    image = cv2.resize(image, (width, round(image.shape[0] / scale)))
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    getattr(search, "switchToSelectiveSearch" + setting)()
    boxes = search.process().astype(float)
    boxes[:, 2:] += boxes[:, :2]
    return boxes * scale

def dlib_search(image):
    scale = image.shape[1] / width
    image = cv2.resize(image, (width, round(image.shape[0] / scale)))
    rectangles = []
    pixels = np.ascontiguousarray(image[..., ::-1])
    dlib.find_candidate_object_locations(pixels, rectangles, min_size=int(setting))
    corners = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles]
    return np.array(corners, dtype=float).reshape(-1, 4) * scale

def ours(image):
    return np.asarray(search(np.ascontiguousarray(image[..., ::-1])), dtype=float)

if method == "opencv":
    run, version = opencv, cv2.__version__
    cv2.ximgproc.segmentation
elif method == "dlib":
    import dlib
    run, version = dlib_search, dlib.__version__
else:
    sys.path.insert(0, sys.argv[5])
    from proposals import SelectiveSearch
    search = SelectiveSearch(setting, width=width, threads=threads)
    run, version = ours, ""
    run(np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8))
print(json.dumps(version), flush=True)
for line in sys.stdin:
    image = cv2.imread(line.rstrip("\\n"))
    start = time.perf_counter()
    boxes = run(image)
    seconds = time.perf_counter() - start
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps([boxes.tolist(), seconds, peak]), flush=True)
"""


class Method:
    """A search in a process of its own, and what it found so far."""

    def __init__(self, name: str, python: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.boxes: list[int] = []
        self.overlaps: list[Tensor] = []  # of each photo, [len(BUDGETS), G]
        self.peak = 0
        self._process = subprocess.Popen(
            [python, "-c", WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = json.loads(self._exchange(None))

    def _exchange(self, line: str | None) -> str:
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None and answers is not None
        if line is not None:
            given.write(f"{line}\n")
            given.flush()
        answer = answers.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended: see above; --help tells what it needs")
        return answer

    def measure(self, record: Record) -> None:
        """Search one photo."""
        boxes, seconds, self.peak = json.loads(self._exchange(str(record.path)))
        self.seconds.append(seconds)
        self.boxes.append(len(boxes))
        proposals = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.overlaps.append(best_overlaps(proposals, record.boxes, BUDGETS))

    def columns(self, anchor: Method) -> list[str]:
        """Return a row of the table; speed is the median of the ratios on each photo."""
        ratios = [a / b for a, b in zip(anchor.seconds, self.seconds, strict=True)]
        numbers = measures(torch.cat(self.overlaps, dim=1)).tolist()
        return [
            f"{1000 * statistics.median(self.seconds):.1f}",
            f"{statistics.median(ratios):.1f}x",
            f"{statistics.median(self.boxes):.0f}",
            *(f"{number:.3f}" for number in numbers),
            f"{self.peak / 2**10:.0f}",
        ]


def measures(overlaps: Tensor) -> Tensor:
    """Return R@0.5, R@0.7, AR and ABO with all boxes, AR@200 and AR@500, ``[6]``."""
    ends = average_recall(overlaps)
    return torch.stack(
        [*recall(overlaps[0], (0.5, 0.7)), ends[0], average_best_overlap(overlaps)[0], *ends[1:]]
    )


def interval(one: Method, other: Method, repetitions: int = 2000) -> list[str]:
    """Return 95 % intervals of the differences of ``measures``, photos drawn with replacement."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for _ in range(repetitions):
        drawn = torch.randint(len(one.overlaps), (len(one.overlaps),), generator=generator)
        values = [measures(torch.cat([m.overlaps[i] for i in drawn], dim=1)) for m in (one, other)]
        differences.append(values[0] - values[1])
    ends = torch.stack(differences).quantile(torch.tensor([0.025, 0.975]), dim=0)
    return [f"{low:+.3f}..{high:+.3f}" for low, high in ends.T.tolist()]


def without_small(record: Record, min_side: int, width: int) -> Record:
    """Leave out objects with a shorter side in the photo resized to a width."""
    sides = (record.boxes[:, 2:] - record.boxes[:, :2]) * (width / record.width)
    return replace(record, boxes=record.boxes[sides.amin(dim=1) >= min_side])


def machine() -> str:
    """Name the processor, the number of cores and what else they were busy with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    load = f", load {os.getloadavg()[0]:.2f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores{load}"


def start_methods(args: argparse.Namespace) -> dict[str, list[Method]]:
    """Start every process, grouped under the anchor that it is compared with."""
    width = str(args.width)

    def anchor(method: str, setting: str, threads: int) -> Method:
        plural = "s" if threads > 1 else ""
        name = f"{method} {setting}".lower() + f", {threads} thread{plural}"
        return Method(name, args.anchor_python, [method, setting, width, str(threads)])

    def ours(preset: str, threads: int) -> Method:
        plural = "s" if threads > 1 else ""
        arguments = ["ours", preset, width, str(threads), sys.path[0]]
        return Method(f"{preset}, {threads} thread{plural}", sys.executable, arguments)

    def anchors(setting: str, threads: int) -> list[Method]:
        return [anchor("opencv", setting, threads)] if args.anchor_python else []

    groups = {}
    for threads in args.threads:
        group = [*anchors("Fast", threads), *(ours(p, threads) for p in args.presets)]
        groups[f"Fast settings, {threads} thread(s)"] = group
    if args.anchor_python and not args.no_dlib:
        # Its default, and what gives about as many boxes as the others.
        group = groups[f"Fast settings, {args.threads[0]} thread(s)"]
        group += [anchor("dlib", min_size, 1) for min_size in ("20", "500")]
    if args.quality:
        quality = [ours("quality", threads) for threads in args.threads]
        groups["Quality settings"] = anchors("Quality", args.threads[0]) + quality
    return groups


def print_group(title: str, methods: list[Method]) -> None:
    """Print a table, the first method being the anchor."""
    anchor = methods[0]
    heads = ("ms", "speed", "boxes", "R@0.5", "R@0.7", "AR", "ABO", "AR@200", "AR@500", "peak MiB")
    print(f"\n{title}\n{'':24}" + "".join(f"{head:>9}" for head in heads))
    for method in methods:
        print(f"{method.name:24}" + "".join(f"{c:>9}" for c in method.columns(anchor)))
    print("95 % intervals of the difference to the first line:")
    for method in methods[1:]:
        ends = zip(heads[3:9], interval(method, anchor), strict=True)
        print(f"{method.name:24} " + "  ".join(f"{head} {end}" for head, end in ends))


def main() -> None:
    """Read the settings, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", help="folder of VOC2007: JPEGImages, Annotations, ImageSets")
    parser.add_argument(
        "--anchor-python", help="Python of the other environment; without: ours only"
    )
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--min-objects", type=int, default=3, help="photos with as many only")
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument(
        "--min-side", type=int, default=0, help="shortest side of objects that count, resized"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--presets", nargs="+", default=["opencv", "fast", "googlenet"])
    parser.add_argument("--quality", action="store_true", help="the quality modes as well")
    parser.add_argument("--no-dlib", action="store_true", help="leave dlib out")
    args = parser.parse_args()

    groups = start_methods(args)
    records = [r for r in read_voc(args.root, args.split) if len(r.boxes) >= args.min_objects]
    records = records[:: max(1, len(records) // args.photos)][: args.photos]
    records = [without_small(record, args.min_side, args.width) for record in records]
    versions = {m.name: m.version for methods in groups.values() for m in methods if m.version}
    print(f"{machine()}\n{'; '.join(f'{name}: {v}' for name, v in versions.items())}")
    objects = sum(len(r.boxes) for r in records)
    print(
        f"{len(records)} photos of {args.split} with {args.min_objects} objects or more, resized "
        f"to width {args.width}; {objects} objects count, difficult ones too, "
        f"{f'of {args.min_side} pixels or more' if args.min_side else 'of every size'}.\n"
        "Medians a photo, methods in turn on each, reading not counted; speed: the median ratio."
    )
    for record in records:
        for methods in groups.values():
            for method in methods:
                method.measure(record)
    for title, methods in groups.items():
        print_group(title, methods)


if __name__ == "__main__":
    main()
