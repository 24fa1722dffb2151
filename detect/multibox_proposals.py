"""MultiBox as a proposer: on a trunk of its own, or on the maps that the classifier has made."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from detect.checkpoint import BUNDLED, Checkpoint, file_digest, load_checkpoint
from detect.devices import choose_device
from detect.engine import Classifier, assemble
from detect.files import split_paths
from detect.multibox_file import MultiBoxFile, load_multibox
from detect.multibox_trunk import PyramidMaps, WholeImageFeatures, trunk_digest
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers
from proposals.multibox import MultiBoxProposer, Trunk
from proposals.proposer import Proposer
from proposals.union import Union


def multibox_proposals(
    multibox: str,
    checkpoint: str | None = None,
    *,
    max_boxes: int = 200,
    nms_threshold: float = 0.7,
    device: str | None = None,
    threads: int = 1,
) -> MultiBoxProposer:
    """Make a proposer of a file of tools/train_multibox.py.

    Args:
        multibox: The file.
        checkpoint: Of the detector whose trunk it learned from, of a,b the first; by default the
            bundled one.
        max_boxes: Of an image, the most confident ones.
        nms_threshold: Of boxes that overlap by more, the most confident one stays.
        device: By default a CUDA device where there is one.
        threads: Cores that one image may use on a CPU.

    Raises:
        ValueError: If a file cannot be used, or the MultiBox learned from another trunk.
    """
    source = split_paths(checkpoint)[0] if checkpoint else BUNDLED
    made, detector = load_multibox(multibox), load_checkpoint(source)
    if made.trunk != trunk_digest(detector.network, made.form):
        raise ValueError(
            f"{multibox}: learned from another trunk than that of {source}; give "
            "the checkpoint that it was trained on"
        )
    proposer = make_proposer(
        made, detector, device=choose_device(device), threads=threads, name=file_digest(multibox)
    )
    proposer.max_boxes, proposer.nms_threshold = max_boxes, nms_threshold
    return proposer


def make_proposer(
    made: MultiBoxFile,
    detector: Checkpoint,
    *,
    device: torch.device,
    threads: int = 1,
    name: str = "",
) -> MultiBoxProposer:
    """Join a MultiBox with a trunk of its own, made of a detector's network.

    Args:
        made: The MultiBox; its head is moved to the device.
        detector: Has the trunk that it learned from.
        device: Where both compute.
        threads: Cores that one image may use on a CPU.
        name: Tells the weights from others.
    """
    network = prepare_network(detector.network, dtype=best_precision(device), device=device)
    if made.form == "whole":
        trunk: Trunk = WholeImageFeatures(network, detector.preprocessing, made.crop_scales)
    else:
        own = copy.copy(detector)
        own.shared = made.shared
        classifier = assemble(own, network, regions="shared", workers=CoreWorkers(threads))
        assert isinstance(classifier, SharedTrunkClassifier)
        factors = made.shared.pyramid
        trunk = PyramidMaps(classifier.image_maps, made.shared, factors, made.trunk)
    return MultiBoxProposer(made.multibox.to(device), trunk, name=name)


def union_of(
    proposers: Mapping[str, Proposer], *, max_boxes: int | None, duplicate_iou: float
) -> Union:
    """Make a union of proposers by name, in their order: see ``proposals.union.Union``."""
    return Union(list(proposers.values()), max_boxes=max_boxes, duplicate_iou=duplicate_iou)


def share_trunk(proposer: Proposer, classifier: Classifier, digest: str) -> Proposer:
    """Let MultiBoxes read the maps that a classifier makes anyway, where these are the same.

    Args:
        proposer: Any; a union of proposers is looked into.
        classifier: Of the detector.
        digest: Of its trunk; see ``trunk_digest``.
    """
    if isinstance(proposer, Union):
        return proposer.of([share_trunk(part, classifier, digest) for part in proposer.proposers])
    if isinstance(classifier, SharedTrunkClassifier) and isinstance(proposer, MultiBoxProposer):
        own, config = proposer.trunk, classifier.trunk.config
        if isinstance(own, PyramidMaps) and own.are_those_of(config, digest):
            shared = PyramidMaps(classifier.image_maps, config, own.factors, digest)
            return proposer.on(shared)
    return proposer
