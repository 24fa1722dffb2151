"""Do more views of a photo help? 1, 10 and 144 crops, on photos that ImageNet's networks never saw.

    python benchmarks/classification.py VOC_ROOT --weights bvlc_googlenet.caffemodel [--photos 0]

For machines without ImageNet: photos of VOC whose objects are all of one kind, and of a kind that
ImageNet has classes for (dogs: 118 breeds; cows: the ox alone). A guess is right if it is one of
those. The errors are therefore not ImageNet's; what more crops do to them is what to look at.
With ImageNet at hand: python tools/classify.py data=imagefolder data.root=DIR crops=1|10|144.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray

from benchmarks.bars import Bar
from benchmarks.machine import describe_machine
from detect.allocator import keep_freed_memory
from detect.classify_run import guesses
from detect.data.imagenet import imagenet_wnids
from detect.data.records import Record
from detect.data.splits import spread
from detect.data.voc import VOC_CLASSES, read_voc
from detect.image_classifier import ImageClassifier
from detect.images import read_image
from detect.multi_crop import CROPS
from detect.workers import CoreWorkers
from tools.progress import progress

# Classes of ImageNet that are a kind of VOC's: WordNet ids, or the first and last of a run of them.
KINDS: dict[str, tuple[str | tuple[str, str], ...]] = {
    "aeroplane": ("n02690373", "n04552348"),  # airliner, warplane
    "bicycle": ("n02835271", "n03792782"),  # for two, mountain bike
    "bird": (("n01514668", "n01622779"), ("n01795545", "n01860187"), ("n02002556", "n02058221")),
    "boat": (
        *("n02951358", "n02981792", "n03095699", "n03344393", "n03447447", "n03662601"),
        *("n03673027", "n03947888", "n04147183", "n04273569", "n04483307", "n04612504"),
    ),
    "bottle": ("n02823428", "n03937543", "n03983396", "n04557648", "n04560804", "n04591713"),
    "bus": ("n03769881", "n04146614", "n04487081"),  # minibus, school bus, trolleybus
    "car": (
        *("n02701002", "n02814533", "n02930766", "n03100240", "n03594945"),
        *("n03670208", "n03770679", "n03777568", "n04037443", "n04285008"),
    ),
    "cat": (("n02123045", "n02124075"),),
    "chair": ("n02791124", "n03376595", "n04099969", "n04429376"),
    "cow": ("n02403003",),  # ox
    "diningtable": ("n03201208",),
    "dog": (("n02085620", "n02113978"),),
    "horse": ("n02389026",),  # sorrel
    "motorbike": ("n03785016", "n03791053"),  # moped, motor scooter
    "pottedplant": ("n03991062",),
    "sheep": ("n02412080",),  # ram
    "sofa": ("n04344873",),
    "train": ("n02917067", "n03272562", "n03895866", "n04310018", "n04335435"),
    "tvmonitor": ("n03782006", "n04152593", "n04404412"),
}  # ImageNet has no class for persons

MEASURES = ("top-1", "top-5")
TEN = {m: Bar(f"points of {m} accuracy gained by 10 crops", 0.01, decimals=2) for m in MEASURES}
MANY = {m: Bar(f"points of {m} accuracy gained by 144", 0, decimals=2) for m in MEASURES}

Hits = NDArray[np.bool_]  # [photos, 2]: right at first, right among five


def labels_of_kinds() -> dict[int, frozenset[int]]:
    """Return ImageNet's labels of each class of VOC that it knows kinds of."""
    wnids = imagenet_wnids()

    def labels(part: str | tuple[str, str]) -> range:
        first, last = (part, part) if isinstance(part, str) else part
        return range(wnids.index(first), wnids.index(last) + 1)

    return {
        VOC_CLASSES.index(name): frozenset(label for part in parts for label in labels(part))
        for name, parts in KINDS.items()
    }


def of_one_kind(records: Sequence[Record], kinds: Mapping[int, frozenset[int]]) -> list[Record]:
    """Return the photos all of whose objects are of one class, which ImageNet knows kinds of."""
    return [
        record
        for record in records
        if len(present := set(record.labels.tolist())) == 1 and present <= kinds.keys()
    ]


def classify(
    records: Sequence[Record], weights: Sequence[str], kinds: Mapping[int, frozenset[int]]
) -> dict[int, Hits]:
    """Classify photos with each number of crops, and print what that took."""
    hits = {}
    for crops in CROPS:
        classifier = ImageClassifier.load(weights, crops=crops)

        def judge(record: Record, classifier: ImageClassifier = classifier) -> tuple[bool, bool]:
            assert record.path is not None
            found = guesses(classifier(read_image(record.path)))
            right = kinds[int(record.labels[0])]
            bar.update()
            return found[0] in right, not right.isdisjoint(found)

        start = time.perf_counter()
        with progress(len(records), "photos") as bar:
            hits[crops] = np.array(list(CoreWorkers().map(judge, records)), dtype=np.bool_)
        seconds = (time.perf_counter() - start) / len(records)
        top1, top5 = 100 - 100 * hits[crops].mean(axis=0)
        print(f"| {crops} | {top1:.2f} % | {top5:.2f} % | {seconds:.3f} |", flush=True)
    return hits


def compare(fewer: Hits, more: Hits, bars: Mapping[str, Bar]) -> str:
    """Say what more crops gain, how much of it may be chance, and which photos it comes from."""
    lines = []
    for name, few, many in zip(MEASURES, fewer.T, more.T, strict=True):
        better, worse = int((many & ~few).sum()), int((few & ~many).sum())
        points, chance = 100 * (better - worse) / len(few), 100 * (better + worse) ** 0.5 / len(few)
        remark = f"+- {chance:.2f}; {better} photos put right, {worse} wrong"
        lines.append(f"{bars[name].verdict(points)} ({remark})")
    return "\n".join(lines)


def main() -> None:
    """Print the errors with 1, 10 and 144 crops, and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--weights", nargs="+", required=True, help="networks that are averaged")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--photos", type=int, default=0, help="spread over them; 0: all")
    arguments = parser.parse_args()
    keep_freed_memory()
    kinds = labels_of_kinds()
    found = [record for split in arguments.splits for record in read_voc(arguments.voc, split)]
    records = spread(of_one_kind(found, kinds), arguments.photos)
    if not records:
        parser.error(f"{arguments.voc}: no photo has objects of one kind alone that ImageNet knows")
    print(f"{describe_machine()}; {len(records)} photos of {' and '.join(arguments.splits)}\n")
    print("| crops | top-1 error | top-5 error | seconds a photo |\n|---|---|---|---|")
    hits = classify(records, arguments.weights, kinds)
    print("\n" + compare(hits[1], hits[10], TEN))
    print(compare(hits[10], hits[144], MANY))


if __name__ == "__main__":
    main()
