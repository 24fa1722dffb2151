"""What each choice is worth in mAP: rejection, proposals, scales, regression, merging, heads.

    python benchmarks/ablations.py VOC_ROOT [--photos 300] [--groups proposals merging]
    python benchmarks/ablations.py VOC_ROOT --heads out/frozen out/svm

Every row differs from the first in one thing. Photos are every n-th of the split, so that any
number of them is spread over it. `experiment=fast` and other settings of tools/detect.py hold for
all rows. `--heads` adds checkpoints of tools/train.py, or the folders they lie in; give
`proposer=superpixels_x2` then, as another trunk has no MultiBox. Prints a Markdown table:
docs/training.md has a part of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.machine import describe_machine
from benchmarks.unseen import TRAIN_CHECKPOINT, with_unseen
from detect.allocator import keep_freed_memory
from detect.checkpoint import Checkpoint, load_checkpoint
from detect.config import build, load_config, split_arguments
from detect.data.records import Record
from detect.data.splits import spread
from detect.data.voc import VOC_CLASSES, read_voc
from detect.detections import Detections
from detect.detector import Detector
from detect.images import read_image
from detect.merging import MergeConfig, merge_detections
from detect.scoring import score_voc
from detect.settings import DetectConfig
from tools.progress import progress

GROUPS = ("rejection", "proposals", "scales", "boxes", "merging", "heads")


@dataclass(frozen=True)
class Scorer:
    """What gives boxes and scores; variants that share it are computed together."""

    settings: tuple[str, ...] = ()  # of tools/detect.py
    checkpoint: Path = TRAIN_CHECKPOINT
    pyramid: tuple[float, ...] | None = None  # None: as trained
    regression: bool = True


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    group: str
    name: str
    scorer: Scorer = field(default_factory=Scorer)
    merge: MergeConfig = field(default_factory=MergeConfig, hash=False)


def list_variants(groups: Sequence[str], first: Scorer, heads: Sequence[Path]) -> list[Variant]:
    """Return the rows, the detector as it is first."""
    plain, regressed = MergeConfig(vote_threshold=None), replace(first, regression=False)
    hard = MergeConfig(nms_threshold=0.3)
    rows = [Variant("", "as it is", first)]
    for threshold in (0, 0.01, 0.1):
        chosen = (*first.settings, f"rejection_threshold={threshold}")
        rows.append(Variant("rejection", f"from {threshold}", replace(first, settings=chosen)))
    others = [setting for setting in first.settings if not setting.startswith("proposer=")]
    for name in ("googlenet", "superpixels_x2", "fast", "quality"):
        chosen = (*others, f"proposer={name}")
        rows.append(Variant("proposals", name, replace(first, settings=chosen)))
    for name, pyramid in (
        ("one scale, 600 pixels", (1.0,)),
        ("two scales, 300 and 600", (0.5, 1.0)),
        ("three scales, an octave apart", (0.3536, 0.7071, 1.4142)),
        ("without the largest", (0.3536, 0.5, 0.7071, 1.0)),
        ("without the smallest", (0.5, 0.7071, 1.0, 1.4142)),
    ):
        rows.append(Variant("scales", name, replace(first, pyramid=pyramid)))
    rows += [
        Variant("boxes", "without box regression", regressed),
        Variant("boxes", "without regression and voting", regressed, plain),
        Variant("merging", "without voting", first, plain),
        Variant("merging", "NMS and voting", first, hard),
        Variant("merging", "NMS alone", first, replace(hard, vote_threshold=None)),
        *(
            Variant("merging", f"NMS at {t} and voting", first, replace(hard, nms_threshold=t))
            for t in (0.2, 0.4, 0.5)
        ),
        *(
            Variant("merging", f"sigma {s}", first, MergeConfig(soft_sigma=s))
            for s in (0.1, 0.3, 0.5)
        ),
        *(
            Variant("merging", f"voting from IoU {t}", first, MergeConfig(vote_threshold=t))
            for t in (0.4, 0.6)
        ),
    ]
    for path in heads:
        file = path / "checkpoint.safetensors" if path.is_dir() else path
        rows.append(Variant("heads", f"{path}", replace(first, checkpoint=file)))
    return [row for row in rows if row.group in ("", *groups)]


def load(scorer: Scorer) -> Checkpoint:
    """Load a scorer's checkpoint with what was changed in it."""
    checkpoint = load_checkpoint(scorer.checkpoint)
    if scorer.pyramid is not None:
        checkpoint.shared.pyramid = list(scorer.pyramid)
    if not scorer.regression:
        torch.nn.init.zeros_(checkpoint.head.box_regression.weight)
        torch.nn.init.zeros_(checkpoint.head.box_regression.bias)
    return checkpoint


def build_scorer(scorer: Scorer) -> Detector:
    """Make the detector of a scorer."""
    given = with_unseen([*scorer.settings, f"checkpoint={scorer.checkpoint}"])
    settings, _ = load_config("detect", given)
    assert isinstance(settings, DetectConfig)
    proposer = build("proposer", settings.proposer)
    return Detector.load(
        load(scorer),
        proposer=proposer,
        pyramid=settings.pyramid,
        rejection_threshold=settings.rejection_threshold,
    )


def detect(
    records: Sequence[Record], scorer: Scorer, variants: Sequence[Variant]
) -> tuple[list[list[Detections]], float]:
    """Detect on all photos; return each variant's detections, and regions scored a photo."""
    detector = build_scorer(scorer)
    found: list[list[Detections]] = [[] for _ in variants]
    count = 0
    with progress(len(records), "photos") as bar:
        for record in records:
            assert record.path is not None
            image = read_image(record.path)
            proposals = detector.rejection(image, detector.proposer(image))
            count += len(proposals)
            boxes, scores = detector.classifier.score_regions(image, proposals)
            for variant, detections in zip(variants, found, strict=True):
                detections.append(merge_detections(boxes, scores, variant.merge))
            bar.update()
    return found, count / len(records)


def table(records: Sequence[Record], variants: Sequence[Variant]) -> Iterator[str]:
    """Yield the table line by line; a row appears when it is known."""
    yield "| what differs | | regions scored a photo | mAP | change |"
    yield "|---|---|---|---|---|"
    first: float | None = None
    for scorer in dict.fromkeys(variant.scorer for variant in variants):
        rows = [variant for variant in variants if variant.scorer == scorer]
        detections, proposals = detect(records, scorer, rows)
        for variant, found in zip(rows, detections, strict=True):
            mean = 100 * (score_voc(found, records, VOC_CLASSES).mean_ap or 0.0)
            first = mean if first is None else first
            yield (
                f"| {variant.group} | {variant.name} | {proposals:.0f} | {mean:.1f} "
                f"| {mean - first:+.1f} |"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="name=value: experiment, proposer, multibox, pyramid and rejection_threshold of "
        "tools/detect.py",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=300, help="spread over the split; 0: all")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=TRAIN_CHECKPOINT,
        help="by default one that has not seen val",
    )
    parser.add_argument("--groups", nargs="*", default=GROUPS, choices=GROUPS)
    parser.add_argument("--heads", nargs="*", type=Path, default=[], help="other checkpoints")
    own, settings = split_arguments(sys.argv[1:])
    arguments = parser.parse_args(own)
    keep_freed_memory()
    records = spread(read_voc(arguments.voc, arguments.split), arguments.photos)
    print(f"{describe_machine()}; {len(records)} photos of {arguments.split}\n", flush=True)
    first = Scorer(tuple(settings), arguments.checkpoint)
    variants = list_variants(arguments.groups, first, arguments.heads)
    for line in table(records, variants):
        print(line, flush=True)


if __name__ == "__main__":
    main()
