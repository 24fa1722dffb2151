"""MultiBox as a proposer: on a trunk of its own, or on the maps that the classifier has made."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from detect.checkpoint import BUNDLED, Checkpoint, file_digest, load_checkpoint
from detect.devices import choose_device
from detect.engine import Classifier, assemble
from detect.files import split_paths
from detect.multibox_file import MultiBoxFile, load_multibox
from detect.multibox_trunk import PyramidMaps, WholeImageFeatures, trunk_digest
from detect.precision import best_precision
from detect.prepare import prepare_multibox, prepare_network
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers
from proposals.multibox import MultiBoxProposer, Trunk
from proposals.proposer import Proposer
from proposals.selective_search import SelectiveSearch
from proposals.union import Union

BUNDLED_MULTIBOX = BUNDLED.with_name("voc2007_multibox.safetensors")
# Boxes an image, those of MultiBox first: as good in mAP as all, for two thirds of their time.
UNION_BUDGET = 1000


def multibox_proposals(
    multibox: str | Path | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    *,
    max_boxes: int = 200,
    nms_threshold: float = 0.7,
    pyramid: Sequence[float] = (),
    device: str | torch.device | None = None,
    threads: int = 1,
) -> MultiBoxProposer:
    """Make a proposer of a file of tools/train_multibox.py.

    It reads the trunk that it learned from: that of the given detector, which may share its maps
    then (see ``share_trunk``), or the bundled detector's.

    Args:
        multibox: The file; by default the bundled one.
        checkpoint: Detector, of files a,b the first; by default the bundled one.
        max_boxes: Of an image, the most confident ones.
        nms_threshold: Of boxes that overlap by more, the most confident one stays.
        pyramid: Levels of the trunk that are read; by default those that it learned from.
        device: By default a CUDA device where there is one.
        threads: Cores that one image may use on a CPU.

    Raises:
        ValueError: If a file cannot be used, or the MultiBox learned from another trunk.
    """
    path = multibox or BUNDLED_MULTIBOX
    made = load_multibox(path)
    first = _first(checkpoint)
    for source in [first] if first == BUNDLED else [first, BUNDLED]:
        detector = _loaded(source)
        if detector and trunk_digest(detector.network, made.form) == made.trunk:
            break
    else:
        raise ValueError(
            f"{path}: learned from a trunk that is neither {_name(checkpoint)}'s nor the bundled "
            "detector's; give the checkpoint that it was trained on"
        )
    proposer = make_proposer(
        made,
        detector,
        device=choose_device(device),
        pyramid=pyramid,
        threads=threads,
        name=file_digest(path) + (f" at {list(pyramid)}" if pyramid else ""),
    )
    proposer.max_boxes, proposer.nms_threshold = max_boxes, nms_threshold
    return proposer


def default_proposals(
    checkpoint: str | Path | Checkpoint | None = None,
    multibox: str | Path | None = None,
    *,
    max_boxes: int | None = None,
    pyramid: Sequence[float] = (),
    device: str | torch.device | None = None,
) -> Proposer:
    """Choose the paper's proposals where a MultiBox goes with a detector.

    The 200 boxes of the MultiBox that is given, or of the bundled one if the detector has the trunk
    that it learned from, and the best of selective search with superpixels of twice R-CNN's size
    behind them. Other detectors would have to run a second trunk for it, and do without.

    Args:
        checkpoint: Detector, of files a,b the first; by default the bundled one.
        multibox: File of tools/train_multibox.py.
        max_boxes: Of an image; by default ``UNION_BUDGET`` where there is a MultiBox, else all.
        pyramid: Levels of the trunk that are read; by default those that it learned from.
        device: By default a CUDA device where there is one.

    Raises:
        ValueError: If a file cannot be used, or the given MultiBox learned from another trunk.
    """
    if multibox is None:
        detector, made = _loaded(_first(checkpoint)), load_multibox(BUNDLED_MULTIBOX)
        if detector is None or trunk_digest(detector.network, made.form) != made.trunk:
            return SelectiveSearch("googlenet", max_boxes=max_boxes)
    learned = multibox_proposals(multibox, checkpoint, pyramid=pyramid, device=device)
    budget = UNION_BUDGET if max_boxes is None else max_boxes
    return Union([learned, SelectiveSearch("googlenet")], max_boxes=budget)


def _first(checkpoint: str | Path | Checkpoint | None) -> Path | Checkpoint:
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    return Path(split_paths(str(checkpoint))[0]) if checkpoint else BUNDLED


def _name(checkpoint: str | Path | Checkpoint | None) -> str:
    return "the given detector" if isinstance(checkpoint, Checkpoint) else f"{_first(checkpoint)}"


def _loaded(source: Path | Checkpoint) -> Checkpoint | None:
    """Return a detector; None for a folder of ONNX files, which has no trunk to look into."""
    if isinstance(source, Checkpoint):
        return source
    return None if source.is_dir() else load_checkpoint(source)


def make_proposer(
    made: MultiBoxFile,
    detector: Checkpoint,
    *,
    device: torch.device,
    pyramid: Sequence[float] = (),
    threads: int = 1,
    name: str = "",
) -> MultiBoxProposer:
    """Join a MultiBox with a trunk of its own, made of a detector's network when first asked.

    Args:
        made: The MultiBox; not changed.
        detector: Has the trunk that it learned from.
        device: Where both compute.
        pyramid: Levels of the trunk that are read; by default those that it learned from.
        threads: Cores that one image may use on a CPU.
        name: Tells the weights from others.

    Raises:
        ValueError: If a level has no size.
    """
    if made.form == "whole":
        network = prepare_network(detector.network, dtype=best_precision(device), device=device)
        trunk: Trunk = WholeImageFeatures(network, detector.preprocessing, made.crop_scales)
    else:
        own = copy.copy(detector)
        own.shared = made.shared.with_levels(pyramid)

        @cache
        def classifier() -> SharedTrunkClassifier:
            network = prepare_network(detector.network, dtype=best_precision(device), device=device)
            built = assemble(own, network, regions="shared", workers=CoreWorkers(threads))
            assert isinstance(built, SharedTrunkClassifier)
            return built

        lock = Lock()

        def image_maps(image: Tensor, places: Sequence[int]) -> dict[int, Tensor]:
            with lock:  # threads would make one each
                ready = classifier()
            return ready.image_maps(image, places)

        trunk = PyramidMaps(image_maps, own.shared, own.shared.pyramid, made.trunk)
    return MultiBoxProposer(prepare_multibox(made.multibox, device), trunk, name=name)


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
