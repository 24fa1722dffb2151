"""Time the merging of one image's scored boxes into detections, on one thread.

Everything between the scores and the detections is timed, on boxes shared by all classes and on
a box for each class, as box regression gives them. Beside it stands torchvision's NMS alone, on
the same candidates.

python benchmarks/merging.py
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from detect.merging import MergeConfig, merge_detections

NMS_THRESHOLD = 0.3
SOFT = MergeConfig()
USUAL = MergeConfig(nms_threshold=NMS_THRESHOLD)
EVERY = replace(USUAL, score_threshold=0.0)  # every box is a candidate of every class
MORE = replace(EVERY, max_per_class=1500, max_detections=1500)
ALL = replace(EVERY, max_per_class=100_000, max_detections=100_000)
REPEATS = 15  # and at least as many as fill half a second


class Case(NamedTuple):
    """Boxes, classes, how sure the scores are, what varies in the boxes, and the settings."""

    num_boxes: int
    num_classes: int
    confidence: float  # the higher, the fewer candidates
    config: MergeConfig
    largest: float = 300.0  # pixels; side of a box in a photo of 500


CASES = (
    Case(1300, 20, 8.0, USUAL),
    Case(1300, 20, 4.0, USUAL),
    Case(1300, 20, 4.0, SOFT),
    Case(1300, 200, 4.0, USUAL),
    Case(1500, 200, 2.0, USUAL),
    Case(1500, 200, 2.0, SOFT),
    Case(1500, 200, 4.0, EVERY),
    Case(1500, 200, 4.0, MORE),
    Case(1500, 200, 4.0, ALL),
    Case(1500, 200, 4.0, ALL, largest=30.0),
)


def scene(case: Case, *, per_class: bool) -> tuple[Tensor, Tensor]:
    """Make boxes of all sizes in a photo of 500 pixels and scores as a softmax gives them."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.num_boxes, 2)
    centre = 500 * torch.rand(shape, generator=generator)
    size = case.largest * (1 / 15 + torch.rand(shape, generator=generator) ** 2)
    logits = torch.randn(case.num_boxes, case.num_classes + 1, generator=generator)
    logits *= case.confidence / 2
    logits[:, -1] += case.confidence  # most boxes show background
    if per_class:  # each class moves the box a little
        moves = torch.randn(2, case.num_boxes, case.num_classes, 2, generator=generator)
        centre = centre[:, None] + 0.1 * moves[0] * size[:, None]
        size = size[:, None] * torch.exp(0.1 * moves[1])
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1), logits.softmax(dim=1)


def times(function: Callable[[], object]) -> list[float]:
    """Return the milliseconds of many calls, after one that may compile."""
    function()
    spent: list[float] = []
    while len(spent) < REPEATS or sum(spent) < 500:
        start = time.perf_counter()
        function()
        spent.append(1000 * (time.perf_counter() - start))
    return spent


def measure(case: Case, *, per_class: bool) -> str:
    """Return a line of the table."""
    boxes, scores = scene(case, per_class=per_class)
    config = case.config
    rows, labels = (scores[:, :-1] >= config.score_threshold).nonzero(as_tuple=True)
    candidates = boxes[rows, labels] if per_class else boxes[rows]
    chosen = scores[rows, labels]
    spent = times(lambda: merge_detections(boxes, scores, config))
    plain = times(lambda: batched_nms(candidates, chosen, labels, NMS_THRESHOLD))
    limits = f"{config.max_per_class}/{config.max_detections}"
    found = len(merge_detections(boxes, scores, config))
    return (
        f"{case.num_boxes:6} {case.num_classes:8} {case.largest:8.0f} "
        f"{'soft' if config.nms_threshold is None else 'NMS':>5} "
        f"{'a class' if per_class else 'shared':>8} {len(rows):11} {limits:>14} {found:6} "
        f"{median(spent):8.2f} {min(spent):8.2f} {median(plain):12.2f}"
    )


def main() -> None:
    """Print a table of the median and the best times."""
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(
        f"{'boxes':>6} {'classes':>8} {'largest':>8} {'merge':>5} {'boxes are':>8} "
        f"{'candidates':>11} {'limits':>14} {'found':>6} {'ms':>8} {'best':>8} {'NMS alone':>12}"
    )
    for case in CASES:
        for per_class in (False, True):
            print(measure(case, per_class=per_class), flush=True)


if __name__ == "__main__":
    main()
