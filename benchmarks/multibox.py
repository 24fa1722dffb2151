"""MultiBox beside selective search: boxes, coverage of the objects, and what it costs in time.

    python benchmarks/multibox.py VOC_ROOT [--photos 0] [--classes bird bus] [--multibox FILE]

Every object counts, of any size, difficult ones too. With --classes only photos and objects of
these count: how well a MultiBox covers what it was trained without, say. What proposals are worth
in mAP is what benchmarks/detect.py prints with proposer=fast, proposer=googlenet, experiment=fast.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from benchmarks.bars import Bar
from benchmarks.machine import describe_machine
from benchmarks.unseen import TRAIN_CHECKPOINT, TRAIN_MULTIBOX
from detect.allocator import keep_freed_memory, keep_kernels
from detect.checkpoint import load_checkpoint
from detect.config import load_config
from detect.data.records import Record
from detect.data.splits import spread
from detect.data.voc import VOC_CLASSES, read_voc
from detect.engine import build_classifier
from detect.images import read_image
from detect.multibox_proposals import multibox_proposals, share_trunk
from detect.multibox_trunk import trunk_digest
from detect.settings import DetectConfig
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers
from proposals import Proposer, SelectiveSearch
from proposals.recall import average_recall, best_overlaps, recall
from proposals.union import join
from tools.progress import progress

ALONE = Bar("% of the objects found at IoU 0.5 by 200 boxes of MultiBox", 85.0)
NUMBER = Bar("% of the fast mode's boxes", 65.0, at_most=True)
COVERAGE = Bar("points of coverage above the fast mode's", 1.0)
ADDED = Bar("ms a photo where the trunk is computed anyway", 60.0, at_most=True)
OWN = Bar("ms a photo where it is not, levels of experiment=fast", 250.0, at_most=True)

FIRST = "superpixels_x2, the first 200"
FEWER_LEVELS = "multibox, levels of experiment=fast"


@dataclass(frozen=True)
class Coverage:
    """What a proposer covers, and with how many boxes.

    Attributes:
        boxes: A photo.
        overlaps: Best one of every object, ``[G]``.
    """

    boxes: float
    overlaps: Tensor

    def row(self, name: str) -> str:
        """Write it as a row of the table."""
        half, seven = recall(self.overlaps, (0.5, 0.7)).tolist()
        mean = average_recall(self.overlaps).item()
        return f"| {name} | {self.boxes:.0f} | {half:.3f} | {seven:.3f} | {mean:.3f} |"


def cover(
    records: Sequence[Record], proposers: Mapping[str, Proposer], classes: Sequence[int]
) -> dict[str, Coverage]:
    """Measure proposers, the fast mode alone and MultiBox with the larger superpixels."""

    def measure(record: Record) -> tuple[list[int], Tensor]:
        assert record.path is not None
        image = read_image(record.path)
        found = {name: proposer(image) for name, proposer in proposers.items()}
        found[FIRST] = found["superpixels_x2"][:200]
        found["googlenet"] = join([found["multibox"], found["superpixels_x2"]], 0.95)
        objects = record.boxes[torch.isin(record.labels, torch.tensor(classes))]
        bar.update()
        return [len(boxes) for boxes in found.values()], torch.stack(
            [best_overlaps(boxes, objects)[0] for boxes in found.values()]
        )

    with progress(len(records), "photos") as bar:
        counts, overlaps = zip(*CoreWorkers().map(measure, records), strict=True)
    boxes = torch.tensor(counts).float().mean(dim=0).tolist()
    return {
        name: Coverage(number, best)
        for name, number, best in zip(
            (*proposers, FIRST, "googlenet"), boxes, torch.cat(overlaps, dim=1), strict=True
        )
    }


def time_it(
    records: Sequence[Record], multibox: Path, checkpoint: Path, fewer: list[float]
) -> dict[str, list[float]]:
    """Time MultiBox on maps that are there, and with a trunk of its own at all levels and at fewer.

    Args:
        records: Photos.
        multibox: File of tools/train_multibox.py.
        checkpoint: Detector whose trunk it reads.
        fewer: Levels of the trunk, a cheaper choice.

    Returns:
        Milliseconds of each photo: ``shared``, ``own`` and ``fewer``.
    """
    detector = load_checkpoint(checkpoint)
    classifier = build_classifier(detector, device=torch.device("cpu"))
    assert isinstance(classifier, SharedTrunkClassifier)
    cores = os.cpu_count() or 1
    own = multibox_proposals(multibox, detector, threads=cores)
    shared = share_trunk(own, classifier, trunk_digest(detector.network, "grid"))
    cheaper = multibox_proposals(multibox, detector, threads=cores, pyramid=fewer)
    levels = range(len(detector.shared.pyramid))
    proposers = {"shared": shared, "own": own, "fewer": cheaper}
    timed: dict[str, list[float]] = {name: [] for name in proposers}
    for warm, record in [(True, records[0]), *((False, record) for record in records)]:
        assert record.path is not None
        image = read_image(record.path)
        classifier.image_maps(image, levels)
        for name, proposer in proposers.items():
            image = image if name == "shared" else image.clone()  # one whose maps are not there
            start = time.perf_counter()
            proposer(image)
            if not warm:
                timed[name].append(1000 * (time.perf_counter() - start))
    return timed


def main() -> None:
    """Print the table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=0, help="spread over the split; 0: all")
    parser.add_argument("--classes", nargs="*", default=[], choices=VOC_CLASSES, metavar="CLASS")
    parser.add_argument("--multibox", type=Path, default=TRAIN_MULTIBOX)
    parser.add_argument(
        "--checkpoint", type=Path, default=TRAIN_CHECKPOINT, help="whose trunk it reads"
    )
    parser.add_argument("--timed", type=int, default=30, help="photos that are timed; 0: none")
    arguments = parser.parse_args()
    keep_freed_memory()
    keep_kernels(4_000)  # as tools/detect.py
    fast, _ = load_config("detect", ["experiment=fast"])
    assert isinstance(fast, DetectConfig)
    fewer = fast.pyramid
    classes = [VOC_CLASSES.index(name) for name in arguments.classes or VOC_CLASSES]
    wanted = torch.tensor(classes)
    records = [r for r in read_voc(arguments.voc, arguments.split)
               if torch.isin(r.labels, wanted).any()]  # fmt: skip
    records = spread(records, arguments.photos)
    print(f"{describe_machine()}; {len(records)} photos of {arguments.split}\n", flush=True)
    proposers: dict[str, Proposer] = {
        "fast": SelectiveSearch("fast"),
        "superpixels_x2": SelectiveSearch("googlenet"),
        "multibox": multibox_proposals(arguments.multibox, arguments.checkpoint),
        FEWER_LEVELS: multibox_proposals(arguments.multibox, arguments.checkpoint, pyramid=fewer),
    }
    measured = cover(records, proposers, classes)
    print("| proposer | boxes | R@0.5 | R@0.7 | AR |\n|---|---|---|---|---|")
    for name, coverage in measured.items():
        print(coverage.row(name))
    of = {name: 100 * recall(m.overlaps, (0.5,)).item() for name, m in measured.items()}
    print(f"\n{len(measured['fast'].overlaps)} objects")
    print(ALONE.verdict(of["multibox"]))
    print(NUMBER.verdict(100 * measured["googlenet"].boxes / measured["fast"].boxes))
    print(COVERAGE.verdict(of["googlenet"] - of["fast"]), flush=True)
    if arguments.timed:
        chosen = spread(records, arguments.timed)
        timed = time_it(chosen, arguments.multibox, arguments.checkpoint, fewer)
        medians = {name: statistics.median(measured) for name, measured in timed.items()}
        print(f"medians of {len(chosen)} photos:")
        print(ADDED.verdict(medians["shared"]))
        print(f"{medians['own']:.1f} ms a photo where it is not, all levels")
        print(OWN.verdict(medians["fewer"]))


if __name__ == "__main__":
    main()
