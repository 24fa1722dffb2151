"""Time the merging of one image's scored boxes into detections, on one thread.

python benchmarks/merging.py
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from detect.merging import MergeConfig, merge_detections

CASES = ((1300, 20, 8.0), (1300, 20, 4.0), (1300, 200, 4.0), (1300, 200, 2.0))
REPEATS = 15


def scene(num_boxes: int, num_classes: int, confidence: float) -> tuple[Tensor, Tensor]:
    """Make boxes of all sizes in a photo of 500 pixels and scores as a softmax gives them."""
    generator = torch.Generator().manual_seed(0)
    centre = 500 * torch.rand(num_boxes, 2, generator=generator)
    size = 20 + 300 * torch.rand(num_boxes, 2, generator=generator) ** 2
    logits = confidence / 2 * torch.randn(num_boxes, num_classes + 1, generator=generator)
    logits[:, -1] += confidence  # most boxes show background
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), logits.softmax(dim=1)


def main() -> None:
    """Print a table of the best times."""
    torch.set_num_threads(1)
    config = MergeConfig()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"{'boxes':>6} {'classes':>8} {'candidates':>11} {'ms':>7}")
    for num_boxes, num_classes, confidence in CASES:
        boxes, scores = scene(num_boxes, num_classes, confidence)
        candidates = int((scores[:, :-1] >= config.score_threshold).sum())
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            merge_detections(boxes, scores, config)
            seconds.append(time.perf_counter() - start)
        milliseconds = 1000 * min(seconds)  # the run least disturbed by other processes
        print(f"{num_boxes:6} {num_classes:8} {candidates:11} {milliseconds:7.1f}")


if __name__ == "__main__":
    main()
