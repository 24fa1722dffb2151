"""Time selective search against OpenCV contrib's, on the same photos and one thread each.

OpenCV's selective search needs opencv-contrib-python, which cannot share an environment with
opencv-python: give the Python of an environment that has it.

    python benchmarks/selective_search.py VOC_ROOT --opencv-python OTHER_ENV/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from detect.data.records import Record
from detect.data.voc import read_voc
from proposals import SelectiveSearch
from proposals.recall import average_best_overlap, average_recall, best_overlaps, recall

# Runs in the other environment: a path a line in, boxes and seconds out.
OPENCV_WORKER = """
import json, sys, time
import cv2
cv2.setNumThreads(1)
mode, width = sys.argv[1], int(sys.argv[2])
print(json.dumps(cv2.__version__), flush=True)
for line in sys.stdin:
    image = cv2.imread(line.rstrip("\\n"))
    start = time.perf_counter()
    scale = image.shape[1] / width
    image = cv2.resize(image, (width, round(image.shape[0] / scale)))
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    getattr(search, "switchToSelectiveSearch" + mode)()
    x, y, w, h = search.process().T.astype(float) * scale
    seconds = time.perf_counter() - start
    boxes = list(zip(x.tolist(), y.tolist(), (x + w).tolist(), (y + h).tolist()))
    print(json.dumps([boxes, seconds]), flush=True)
"""


class OpenCV:
    """Selective search in another environment."""

    def __init__(self, python: str, mode: str, width: int) -> None:
        command = [python, "-c", OPENCV_WORKER, mode, str(width)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = json.loads(self._read_line())

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("OpenCV's process ended: has its environment opencv-contrib-python?")
        return line

    def __call__(self, path: Path) -> tuple[Tensor, float]:
        """Return the boxes of a photo and the seconds they took, without reading the file."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        boxes, seconds = json.loads(self._read_line())
        return torch.tensor(boxes).reshape(-1, 4), seconds


class Ours:
    """Selective search of this project, compiled before the first measurement."""

    def __init__(self, preset: str, width: int) -> None:
        self.search = SelectiveSearch(preset, width=width)
        self.search(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))

    def __call__(self, path: Path) -> tuple[Tensor, float]:
        """Return the boxes of a photo and the seconds they took, without reading the file."""
        pixels = np.asarray(cv2.imread(str(path)))[..., ::-1].copy()  # BGR
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        start = time.perf_counter()
        boxes = self.search(image)
        return boxes, time.perf_counter() - start


@dataclass
class Row:
    """What one method found."""

    seconds: list[float] = field(default_factory=list)
    boxes: list[int] = field(default_factory=list)
    overlaps: list[Tensor] = field(default_factory=list)

    def add(self, boxes: Tensor, seconds: float, truth: Tensor) -> None:
        """Measure the proposals of one photo."""
        self.seconds.append(seconds)
        self.boxes.append(len(boxes))
        self.overlaps.append(best_overlaps(boxes, truth)[0])

    def line(self, name: str, reference: float) -> str:
        """Return the row of the table; ``reference`` in seconds is 1x."""
        median = statistics.median(self.seconds)
        overlaps = torch.cat(self.overlaps)
        half, tight = recall(overlaps, (0.5, 0.7)).tolist()
        measures = (half, tight, average_recall(overlaps), average_best_overlap(overlaps))
        columns = " ".join(f"{float(m):7.3f}" for m in measures)
        speed = f"{reference / median:6.1f}x"
        return (
            f"{name:24} {1000 * median:8.1f} {statistics.median(self.boxes):7.0f} {columns} {speed}"
        )


def machine() -> str:
    """Name the processor and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores"


def measure(opencv: dict[str, OpenCV], ours: dict[str, Ours], records: list[Record]) -> None:
    """Take the photos in turn, so that a busy machine slows all methods alike; print the table."""
    rows = {name: Row() for name in [*opencv, *ours, *(f"{name}, cut" for name in ours)]}
    for record in records:
        assert record.path is not None
        for name, reference in opencv.items():
            rows[name].add(*reference(record.path), record.boxes)
        for name, search in ours.items():
            boxes, seconds = search(record.path)
            rows[name].add(boxes, seconds, record.boxes)
            cut = boxes[: rows["OpenCV fast"].boxes[-1]]
            rows[f"{name}, cut"].add(cut, seconds, record.boxes)

    titles = " ".join(f"{title:>7}" for title in ("boxes", "R@0.5", "R@0.7", "AR", "ABO", "speed"))
    print(f"{'':24} {'ms':>8} {titles}")
    baseline = statistics.median(rows["OpenCV fast"].seconds)
    for name, row in rows.items():
        print(row.line(name, baseline))
    print("Medians a photo, one thread. cut: to as many boxes as OpenCV fast.")


def main() -> None:
    """Read the settings, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", help="folder of VOC2007: JPEGImages, Annotations, ImageSets")
    parser.add_argument("--opencv-python", required=True, help="Python with opencv-contrib-python")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--presets", nargs="+", default=["fast", "googlenet", "opencv"])
    parser.add_argument("--quality", action="store_true", help="OpenCV's quality mode as well")
    args = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    modes = ["Fast", "Quality"] if args.quality else ["Fast"]
    opencv = {f"OpenCV {m.lower()}": OpenCV(args.opencv_python, m, args.width) for m in modes}
    ours = {preset: Ours(preset, args.width) for preset in args.presets}
    records = read_voc(args.root, args.split)
    records = records[:: max(1, len(records) // args.photos)][: args.photos]
    version = opencv["OpenCV fast"].version
    print(f"{machine()}; OpenCV {version}")
    print(f"{len(records)} photos of {args.split}, resized to width {args.width}")
    measure(opencv, ours, records)


if __name__ == "__main__":
    main()
