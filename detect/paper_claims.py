"""Claims of "Going deeper with convolutions", measured on the data at hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from detect.budget import count_cost
from detect.checkpoint import Checkpoint
from detect.classify_run import judge
from detect.data.imagefolder import ClassifiedPhotos
from detect.data.records import Record
from detect.detections import Detections
from detect.engine import build_classifier
from detect.ensemble import join_checkpoints
from detect.googlenet import GoogLeNet
from detect.image_classifier import ImageClassifier
from detect.images import read_image
from detect.merging import MergeConfig, merge_detections
from detect.multi_crop import CROPS
from detect.multibox_proposals import share_trunk
from detect.multibox_trunk import trunk_digest
from detect.rejection import REJECTION_THRESHOLD, make_rejection
from detect.results import ImageResult
from detect.scoring import score_voc
from detect.workers import CoreWorkers
from proposals.proposer import Proposer
from proposals.recall import best_overlaps, recall

OnDone = Callable[[], object]


@dataclass(frozen=True)
class Claim:
    """A figure of the paper and the same thing measured.

    Attributes:
        what: Is measured.
        paper: Figure as printed.
        ours: Figure measured.
        data: Measured on what.
        note: Whether the two compare, and why.
    """

    what: str
    paper: str
    ours: str
    data: str
    note: str


def format_claims(claims: Sequence[Claim]) -> Iterator[str]:
    """Yield the claims as a Markdown table."""
    yield "| | paper | ours | on | comparable? |"
    yield "|---|---|---|---|---|"
    for claim in claims:
        yield f"| {claim.what} | {claim.paper} | {claim.ours} | {claim.data} | {claim.note} |"


def network_claims() -> list[Claim]:
    """Count the size of the network against the paper's claims and AlexNet's."""
    from torchvision.models import alexnet  # a second to import

    with torch.device("meta"):
        network, others = GoogLeNet(1000), alexnet(weights=None)
    ours, theirs = (sum(p.numel() for p in n.parameters()) for n in (network, others))
    plain = GoogLeNet(1000)
    cost = count_cost(plain, (3, 224, 224), _run)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    return [
        Claim(
            "multiply-adds of a 224 x 224 crop",
            "1.5 billion (budget, section 1)",
            f"{cost.multiply_adds / 1e9:.3f} billion",
            "counted",
            "yes; Table 1's rows add up to as much",
        ),
        Claim(
            "parameters, AlexNet's against ours",
            "12 x fewer (section 1)",
            f"{theirs / 1e6:.1f} / {ours / 1e6:.2f} million = {theirs / ours:.1f} x",
            "counted, torchvision's AlexNet",
            "12 x would need 5.1 million; without the classifier it is "
            f"{theirs / (ours - 1_025_000):.1f} x",
        ),
        Claim(
            "layers with parameters, one after another",
            "22 (section 5)",
            f"{3 + 2 * 9 + 1}",
            f"counted; {convolutions} convolutions in all",
            "yes",
        ),
    ]


def classification_claims(
    photos: ClassifiedPhotos, weights: Sequence[str], on_done: OnDone
) -> list[Claim]:
    """Measure top-5 errors of 1, 10 and 144 crops (Table 3).

    Args:
        photos: Of ImageNet's classes.
        weights: Networks that are averaged.
        on_done: Called after each photo and number of crops.
    """
    single = {1: "10.07 %", 10: "9.15 %", 144: "7.89 %"}
    claims = []
    labels = {i.name: label for i, label in zip(photos.images, photos.labels, strict=True)}
    for crops in CROPS:
        classifier = ImageClassifier.load(weights, crops=crops)

        def classify(at: int, classifier: ImageClassifier = classifier) -> ImageResult:
            image = photos.images[at]
            found = classifier(read_image(image.path))
            on_done()
            return ImageResult(image.name, 1, 1, found)

        rates = judge(CoreWorkers().map(classify, range(len(photos.images))), labels)
        claims.append(
            Claim(
                f"top-5 error, {len(weights)} network(s), {crops} crops",
                f"{single[crops]} (1 network)",
                f"{100 * rates.top5_error:.2f} % (top-1 {100 * rates.top1_error:.2f} %)",
                f"{rates.images} photos",
                "the same views; BVLC's replication was trained without the paper's sampling of "
                "scales, 11.1 % by its authors with 1 crop on all of val",
            )
        )
    return claims


def proposal_claims(
    records: Sequence[Record], fast: Proposer, doubled: Proposer, on_done: OnDone
) -> list[Claim]:
    """Measure what larger superpixels (and MultiBox) do to number and coverage (section 8).

    Args:
        records: Photos with objects.
        fast: R-CNN's proposals.
        doubled: The paper's.
        on_done: Called after each photo.
    """

    def measure(record: Record) -> tuple[torch.Tensor, list[int]]:
        assert record.path is not None
        image = read_image(record.path)
        found = [proposer(image) for proposer in (fast, doubled)]
        on_done()
        overlaps = torch.stack([best_overlaps(boxes, record.boxes)[0] for boxes in found])
        return overlaps, [len(boxes) for boxes in found]

    measured = CoreWorkers().map(measure, records)
    overlaps = torch.cat([best for best, _ in measured], dim=1)
    one, two = recall(overlaps)[:, 0].tolist()
    counts = torch.tensor([numbers for _, numbers in measured]).float().mean(dim=0).tolist()
    data = f"{len(records)} photos, {overlaps.shape[1]} objects"
    joined = hasattr(doubled, "proposers")
    return [
        Claim(
            "proposals, of R-CNN's number",
            "about 60 % (with 200 of MultiBox)",
            f"{100 * counts[1] / counts[0]:.0f} % ({counts[1]:.0f} of {counts[0]:.0f})",
            data,
            "the same settings" if joined else "selective search alone: no MultiBox for it",
        ),
        Claim(
            "coverage, R-CNN's -> ours",
            "92 -> 93 %",
            f"{100 * one:.1f} -> {100 * two:.1f} %",
            data,
            "recall at IoU 0.5, objects of every size" + ("" if joined else "; no MultiBox"),
        ),
    ]


def detection_claims(
    records: Sequence[Record],
    checkpoints: Sequence[Checkpoint],
    proposer: Proposer,
    on_done: OnDone,
) -> list[Claim]:
    """Measure a single detector as the paper had it, with what it lacked, and an ensemble.

    Args:
        records: Photos with objects.
        checkpoints: Detectors of the same classes; with several, each of them and their average
            are measured too.
        proposer: Finds the regions.
        on_done: Called after each photo.
    """
    names = checkpoints[0].class_names
    found = _detect_with_all(records, checkpoints, proposer, on_done)

    def mean_ap(detections: Sequence[Detections]) -> float:
        named = [replace(each, class_names=names) for each in detections]
        return 100 * (score_voc(named, records, names).mean_ap or 0.0)

    each = [mean_ap(own) for own in found.members]
    learned = ", ".join(dict.fromkeys(_learned_from(checkpoint) for checkpoint in checkpoints))
    data = f"{len(records)} photos; learned from {learned}"
    other = f"no: {len(names)} classes, not ILSVRC's 200; the differences are what to look at"
    untimely = "the paper had no time for box regression, and did not vote"
    claims = [
        Claim(
            "mAP, one network, no box regression",
            "38.02 %",
            f"{mean_ap(found.unmoved):.1f} %",
            data,
            other,
        ),
        Claim("the same with box regression and voting", "-", f"{each[0]:.1f} %", data, untimely),
    ]
    if len(each) > 1:
        mean, joined = statistics.mean(each), mean_ap(found.joined)
        alone = f"each alone {', '.join(f'{value:.1f}' for value in each)}, their mean {mean:.1f} %"
        claims += [
            Claim(f"mAP, {len(each)} networks", "43.9 % (6)", f"{joined:.1f} %", data, other),
            Claim("gain of the ensemble", "+3.9 % (6)", f"{joined - mean:+.1f} %", data, alone),
        ]
    return claims


def _learned_from(checkpoint: Checkpoint) -> str:
    # Photos that a detector has learned from tell nothing about others: the reader must know.
    split = (checkpoint.training.get("data") or {}).get("split")
    return f"`{split}`" if split else "photos that its file does not name"


@dataclass
class _Found:
    """Detections of every photo.

    Attributes:
        members: Of each network, with box regression and voting.
        joined: Of their average, the same way; empty where there is one network.
        unmoved: Of the first network, without either.
    """

    members: list[list[Detections]]
    joined: list[Detections] = field(default_factory=list)
    unmoved: list[Detections] = field(default_factory=list)


def _detect_with_all(
    records: Sequence[Record],
    checkpoints: Sequence[Checkpoint],
    proposer: Proposer,
    on_done: OnDone,
) -> _Found:
    """Detect with each network and their average, all on the same regions, merged by NMS."""
    cpu = torch.device("cpu")
    members = [build_classifier(checkpoint, device=cpu) for checkpoint in checkpoints]
    joined = build_classifier(join_checkpoints(checkpoints), device=cpu) if members[1:] else None
    proposer = share_trunk(proposer, members[0], trunk_digest(checkpoints[0].network, "grid"))
    rejection = make_rejection(checkpoints[0].rejection, members[0], REJECTION_THRESHOLD)
    full = MergeConfig(nms_threshold=0.3)
    plain = replace(full, vote_threshold=None)
    found = _Found([[] for _ in members])
    for record in records:
        assert record.path is not None
        image = read_image(record.path)
        regions = proposer(image)
        regions = rejection(image, regions) if rejection else regions
        for member, own in zip(members, found.members, strict=True):
            boxes, scores = member.score_regions(image, regions)
            own.append(merge_detections(boxes, scores, full))
            if member is members[0]:
                unmoved = regions[:, None].expand_as(boxes)
                found.unmoved.append(merge_detections(unmoved, scores, plain))
        if joined:
            found.joined.append(merge_detections(*joined.score_regions(image, regions), full))
        on_done()
    return found


def _run(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = module(inputs)
    return outputs
