"""Fit what proposals/ranking_table.py holds, and compare orders of boxes on other photos.

    python benchmarks/tune_order.py VOC_ROOT --write
    python benchmarks/tune_order.py VOC_ROOT --test val

The first learns from every second photo of train and prints the table of the others; the second
only prints the table, of photos with three objects or more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the packages, not this folder's files

from detect.data.records import Record
from detect.data.voc import read_voc
from proposals import SelectiveSearch, ranking
from proposals.evidence import Evidence, describe, gather
from proposals.grouping import Hierarchy
from proposals.recall import COCO_THRESHOLDS, average_recall, best_overlaps, recall

BUDGETS = (100, 200, 500, 1000, None)
HIDDEN_UNITS = ranking.HIDDEN.shape[1]
TABLE = ROOT / "proposals" / "ranking_table.py"


class Searched(NamedTuple):
    """A photo in the size in which it was searched."""

    hierarchies: list[Hierarchy]
    evidence: list[Evidence]
    width: int
    height: int
    objects: Tensor  # [G, 4]


def search(record: Record, preset: str) -> Searched:
    """Build the hierarchies of a photo."""
    method = SelectiveSearch(preset, min_side=1)
    pixels = method._resize(np.asarray(cv2.imread(str(record.path)))[..., ::-1])
    height, width = pixels.shape[:2]
    scale = torch.tensor([width / record.width, height / record.height] * 2)
    grown = method._over_segmentations(
        np.ascontiguousarray(pixels), lambda space, scale: [method._grow(space, scale)]
    )
    hierarchies = [hierarchy for _, trees in grown for hierarchy in trees]
    evidence = [describe(h, touching, width, height, 1) for touching, trees in grown for h in trees]
    return Searched(hierarchies, evidence, width, height, record.boxes * scale)


def search_all(records: Sequence[Record], preset: str) -> Iterator[Searched]:
    """Search photos in two threads."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda record: search(record, preset), records)


def learn(photos: Iterator[Searched], seed: int = 0) -> list[NDArray[np.float64]]:
    """Learn the share of the IoU thresholds that a region passes; every photo weighs the same.

    Returns:
        Weights of the hidden units with their biases last, ``[F + 1, H]``, and of the output,
        ``[H + 1]``.
    """
    rows, targets, weights = [], [], []
    for photo in photos:
        boxes, regions, features = gather(photo.evidence, photo.width, photo.height)
        best = best_overlaps_of_boxes(torch.from_numpy(boxes).float(), photo.objects)
        passed = (best[:, None] >= torch.tensor(COCO_THRESHOLDS)).float().mean(dim=1)
        rows.append(torch.from_numpy(features).float())
        targets.append(passed[torch.from_numpy(regions)])
        weights.append(torch.full((len(features),), 1 / len(features)))
    x, y, w = torch.cat(rows), torch.cat(targets), torch.cat(weights)
    mean, deviation = x.mean(dim=0), x.std(dim=0) + 1e-6
    x = (x - mean) / deviation
    w /= w.mean()

    torch.manual_seed(seed)
    hidden, output = torch.nn.Linear(x.shape[1], HIDDEN_UNITS), torch.nn.Linear(HIDDEN_UNITS, 1)
    epochs, batch = 8, 4096
    optimizer = torch.optim.Adam([*hidden.parameters(), *output.parameters()])
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for rows_now in torch.randperm(len(x)).split(batch):
            logits = output(hidden(x[rows_now]).relu())[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, y[rows_now], weight=w[rows_now]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    first = hidden.weight.detach().double() / deviation
    bias = hidden.bias.detach().double() - first @ mean.double()
    last = torch.cat([output.weight.detach()[0], output.bias.detach()]).double()
    return [torch.cat([first.T, bias[None]]).numpy(), last.numpy()]


def best_overlaps_of_boxes(boxes: Tensor, objects: Tensor) -> Tensor:
    """Return the best IoU of each box with an object, 0 without objects, ``[N]``."""
    overlaps = torch.nn.functional.pad(box_iou(boxes, objects), (1, 0))  # [N, 1 + G]
    return overlaps.amax(dim=1)


def write(table: list[NDArray[np.float64]]) -> None:
    """Write the table as a module."""
    hidden, output = ([[float(f"{n:.4g}") for n in row] for row in np.atleast_2d(t)] for t in table)
    lines = "\n".join(f"        {row}," for row in hidden)
    TABLE.write_text(
        '"""How the evidence about a region is weighed; written by benchmarks/tune_order.py."""\n\n'
        "import numpy as np\n\n"
        "# A row for each of evidence.FEATURES, then the bias; a column for each hidden unit.\n"
        f"HIDDEN = np.array(\n    [\n{lines}\n    ]\n)\n"
        "# Of the hidden units, then the bias.\n"
        f"OUTPUT = np.array(\n    {output[0]}\n)\n"
    )


def orders(photo: Searched) -> dict[str, NDArray[np.int32]]:
    """Order the boxes of a photo in every way."""
    hierarchies, evidence, width, height, _ = photo
    return {
        "R-CNN": ranking.order_by_rcnn(hierarchies, width, height),
        "height x random": order_by_height(hierarchies, width, height),
        "evidence": ranking.order_by_evidence(evidence, width, height),
    }


def order_by_height(hierarchies: Sequence[Hierarchy], width: int, height: int) -> NDArray[np.int32]:
    """Order boxes by height in the tree times a random number, the largest first."""
    heights = []
    for hierarchy in hierarchies:
        level = np.ones(len(hierarchy.sizes))
        for region, parent in enumerate(hierarchy.parents[:-1]):
            level[parent] = max(level[parent], level[region] + 1)
        heights.append(level)
    keys = np.concatenate(heights)
    keys *= np.random.default_rng(0).random(len(keys))
    boxes = np.concatenate([h.boxes for h in hierarchies])[np.argsort(-keys)]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return np.asarray(boxes[np.sort(first)])


def compare(records: Sequence[Record], preset: str) -> None:
    """Print the table of a preset."""
    overlaps: dict[str, list[Tensor]] = {}
    counts = []
    for photo in search_all(records, preset):
        for name, boxes in orders(photo).items():
            found = best_overlaps(torch.from_numpy(boxes).float(), photo.objects, BUDGETS)
            overlaps.setdefault(name, []).append(found)
        counts.append(len(boxes))
    for name, of_photos in overlaps.items():
        best = torch.cat(of_photos, dim=1)
        columns = [*average_recall(best).tolist(), *recall(best[1:3])[:, 0].tolist()]
        numbers = " ".join(f"{number:7.3f}" for number in columns)
        print(f"{preset:10} {np.median(counts):6.0f} {name:16} {numbers}", flush=True)


def main() -> None:
    """Read the settings, fit, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", help="folder of VOC2007: JPEGImages, Annotations, ImageSets")
    parser.add_argument("--write", action="store_true", help="fit and write the table")
    parser.add_argument("--photos", type=int, default=2000, help="to learn from, at most")
    parser.add_argument("--test", help="compare on this split instead of the other half of train")
    parser.add_argument("--test-photos", type=int, default=60)
    parser.add_argument("--presets", nargs="+", default=["opencv", "fast", "googlenet"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    train = read_voc(args.root, "train")
    if args.write:
        several = [r for r in train[::2] if len(r.boxes) >= 3]
        photos = several + [r for r in train[::2] if len(r.boxes) < 3]
        some = photos[: args.photos]
        table = learn(p for q in ("opencv", "fast") for p in search_all(some, q))
        write(table)
        ranking.HIDDEN, ranking.OUTPUT = table
    records = read_voc(args.root, args.test) if args.test else train[1::2]
    records = [r for r in records if len(r.boxes) >= 3]
    records = records[:: max(1, len(records) // args.test_photos)][: args.test_photos]
    titles = " ".join(f"{'AR@' + str(b or 'all'):>7}" for b in BUDGETS)
    print(f"{'preset':10} {'boxes':>6} {'order':16} {titles} R.5@200 R.5@500")
    for preset in args.presets:
        compare(records, preset)


if __name__ == "__main__":
    main()
