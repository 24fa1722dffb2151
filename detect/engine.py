"""The region classifier of a checkpoint, built for a machine and checked against plain float32."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import skimage
import torch
from torch import Tensor

from detect.checkpoint import Checkpoint
from detect.classifier import RegionClassifier
from detect.crops import CropConfig
from detect.googlenet import GoogLeNet
from detect.images import read_image
from detect.precision import PrecisionCheck, choose_precision
from detect.prepare import compile_network, prepare_network
from detect.shared_trunk import SharedTrunk, SharedTrunkClassifier
from detect.workers import CoreWorkers
from proposals.compiling import announce_compiling

logger = logging.getLogger(__name__)

# Small batches keep a CPU's caches warm and its memory low; a GPU wants to be filled.
BATCH_SIZES = {"shared": 64, "crops": 8}
GPU_BATCH_SIZE = 512
_CHECK_SIDE = 224  # pixels of the photo that every new classifier is checked on


class Classifier(Protocol):
    """Scores the regions of one image, each from its own crop or from one shared map."""

    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an image.

        Args:
            image: RGB, uint8 ``[3, H, W]``.
            boxes: Regions, ``[N, 4]``.

        Returns:
            A regressed box a class, ``[N, C, 4]``, and probabilities with background last,
            ``[N, C + 1]``, both float32 on the CPU.
        """
        ...


def build_classifier(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    regions: str | None = None,
    precision: str = "auto",
    threads: int = 0,
    compiled: bool = False,
) -> Classifier:
    """Build the fastest classifier that scores as the checkpoint's network does.

    Each candidate is compared with the plain network in float32 on regions of a photo. One that
    fails, or scores otherwise, is named in a warning, and the next one takes its place.

    Args:
        checkpoint: Trained weights; not changed.
        device: Where to compute.
        regions: ``shared`` (one trunk pass an image) or ``crops``; None: as trained.
        precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where hardware multiplies it.
        threads: Cores that one image may use on a CPU; 0: all.
        compiled: Whether torch.compile makes the kernels, which takes a minute or more.

    Raises:
        ValueError: If ``regions`` or ``precision`` is none of its choices.
    """
    announce_compiling("detect", "classification", Path(__file__).parent / "__pycache__")
    regions = regions or checkpoint.regions
    if regions not in BATCH_SIZES:
        raise ValueError(f"regions={regions}: choose shared or crops")
    candidates = list(_candidates(checkpoint, device, precision, compiled))
    workers = CoreWorkers(threads)
    checkpoint = copy.deepcopy(checkpoint)  # the caller's may lie, and stays, elsewhere
    plain = checkpoint.network.to(device).eval()
    assemble_with = partial(assemble, checkpoint, regions=regions, workers=workers)
    expected = _check_scores(assemble_with, plain)
    for name, make in candidates:
        try:
            network = make()
            check = PrecisionCheck.compare([expected], [_check_scores(assemble_with, network)])
        except Exception as error:  # an operator that is not there, a compiler that gives up, ...
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            if check.passes():
                return assemble_with(network)
            problem = f"its scores differ from float32's: {check}"
        logger.warning("%s cannot be used here: %s", name, problem)
    return assemble_with(plain)


def assemble(
    checkpoint: Checkpoint,
    network: GoogLeNet,
    *,
    regions: str,
    workers: CoreWorkers,
    shorter_side: int | None = None,
) -> Classifier:
    """Join a network, plain or prepared, with the head and the settings of a checkpoint.

    Args:
        checkpoint: Gives the head, the preprocessing and the scale of images.
        network: The checkpoint's, or what was made of it.
        regions: ``shared`` or ``crops``.
        workers: Cores for the batches.
        shorter_side: Of images that enter a shared trunk, in place of the checkpoint's; pixels.
            Regions come from the same levels as at the checkpoint's size.
    """
    batch_size = BATCH_SIZES[regions] if network.device.type == "cpu" else GPU_BATCH_SIZE
    head = checkpoint.head.to(network.device)
    if regions == "shared":
        config = checkpoint.shared
        if shorter_side is not None:
            region_side = config.region_side * shorter_side / config.shorter_side
            config = replace(config, shorter_side=shorter_side, region_side=region_side)
        trunk = SharedTrunk(network, checkpoint.preprocessing, config)
        return SharedTrunkClassifier(trunk, head, batch_size=batch_size, workers=workers)
    return RegionClassifier(
        network,
        head,
        preprocessing=checkpoint.preprocessing,
        crop=CropConfig.with_mean(checkpoint.preprocessing.mean),
        batch_size=batch_size,
        workers=workers,
    )


def check_precision(
    checkpoint: Checkpoint, photos: Iterable[tuple[Tensor, Tensor]], precision: str = "bfloat16"
) -> PrecisionCheck:
    """Compare the prepared network in a precision with the plain one in float32, on a CPU.

    Args:
        checkpoint: Trained weights.
        photos: RGB uint8 images ``[3, H, W]`` and regions of them, ``[N, 4]``.
        precision: ``float32`` or ``bfloat16``.

    Raises:
        ValueError: If there is no region.
    """
    cpu = torch.device("cpu")
    checkpoint = copy.deepcopy(checkpoint)  # the caller's may lie on a GPU, and stays there
    checkpoint.network.to(cpu).eval()
    prepared = prepare_network(
        checkpoint.network, dtype=choose_precision(precision, cpu), device=cpu
    )
    workers = CoreWorkers()
    classifiers = [
        assemble(checkpoint, network, regions=checkpoint.regions, workers=workers)
        for network in (checkpoint.network, prepared)
    ]
    expected: list[Tensor] = []
    found: list[Tensor] = []
    for image, boxes in photos:
        for classifier, scores in zip(classifiers, (expected, found), strict=True):
            scores.append(classifier.score_regions(image, boxes)[1])
    return PrecisionCheck.compare(expected, found)


def _candidates(
    checkpoint: Checkpoint, device: torch.device, precision: str, compiled: bool
) -> Iterator[tuple[str, Callable[[], GoogLeNet]]]:
    """Yield name and maker of the networks to try, the fastest first."""
    chosen = choose_precision(precision, device)
    dtypes = [chosen, torch.float32] if chosen != torch.float32 else [chosen]
    card = checkpoint.precision_check
    if chosen == torch.bfloat16 and card is not None and not card.passes():
        logger.warning("bfloat16 is not used: it failed the check of this checkpoint: %s", card)
        dtypes = [torch.float32]
    network = checkpoint.network
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        make = partial(prepare_network, network, dtype=dtype, device=device)
        if compiled:
            make_compiled = partial(compile_network, network, dtype=dtype, device=device)
            yield f"torch.compile in {name}", make_compiled
        yield f"the prepared network in {name}", make


def _check_scores(assemble_with: Callable[..., Classifier], network: GoogLeNet) -> Tensor:
    """Score regions of a photo, small enough to take a moment only.

    The regions are of different sizes, and so from several levels where there is a pyramid.
    """
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    image = read_image(path)[:, :_CHECK_SIDE, 110 : 110 + _CHECK_SIDE]
    corners = torch.tensor([[0, 0], [0, 40], [60, 30], [100, 100]]).float()
    sides = torch.tensor([[224, 224], [224, 90], [60, 110], [30, 40]]).float()
    boxes = torch.cat([corners, (corners + sides).clamp(max=_CHECK_SIDE)], dim=1)
    return assemble_with(network, shorter_side=_CHECK_SIDE).score_regions(image, boxes)[1]
