"""Time region classification of one photo on one thread: PyTorch, and onnxruntime.

    python benchmarks/onnx_speed.py [--repeats 7]

64 regions as crops, and 1,000 from a shared map with the trunk's pass; cutting them counts. Medians
of repeats that take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import onnxruntime
import torch
from skimage import data
from torch import Tensor

from detect.checkpoint import load_checkpoint
from detect.engine import Classifier, build_classifier
from detect.onnx_backend import OnnxClassifier
from detect.precision import best_precision

REGIONS = {"crops": 64, "shared": 1000}


def classifiers(regions: str) -> dict[str, Classifier]:
    """Make the contenders; bfloat16 where the hardware multiplies it."""
    precisions = ["float32"]
    if best_precision(torch.device("cpu")) == torch.bfloat16:
        precisions.append("bfloat16")
    checkpoint, cpu = load_checkpoint(), torch.device("cpu")
    made: dict[str, Classifier] = {
        f"torch {precision}": build_classifier(
            checkpoint, device=cpu, regions=regions, precision=precision, threads=1
        )
        for precision in precisions
    }
    made["onnxruntime float32"] = OnnxClassifier.from_checkpoint(checkpoint, regions=regions)
    return made


def boxes_of(n: int, side: int) -> Tensor:
    """Return regions of all sizes in a photo of equal sides, ``[n, 4]``."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(n, 2, generator=generator) * 0.6 * side
    sides = 20 + torch.rand(n, 2, generator=generator) * 0.35 * side
    return torch.cat([corners, corners + sides], dim=1)


def main() -> None:
    """Print a row for each way to cut regions and each contender."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).contiguous()  # [3, 512, 512]
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, one thread")
    print(f"{'regions':8} {'on':20} {'ms a photo':>11} {'regions/s':>10}")
    for regions, number in REGIONS.items():
        contenders, boxes = classifiers(regions), boxes_of(number, image.shape[1])
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.repeats + 1):
            for name, classifier in contenders.items():
                start = time.perf_counter()
                classifier.score_regions(image, boxes)
                seconds[name].append(time.perf_counter() - start)
        for name, times in seconds.items():
            middle = median(times[1:])  # the first warms up
            print(f"{regions:8} {name:20} {1000 * middle:11.0f} {number / middle:10.0f}")


if __name__ == "__main__":
    main()
