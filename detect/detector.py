"""The spine: propose, classify, merge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detect.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from detect.detections import Detections
from detect.engine import Classifier, build_classifier
from detect.images import as_image
from detect.merging import MergeConfig, merge_detections
from proposals import Proposer, SelectiveSearch


class Detector:
    """Region proposals, a region classifier and merging, joined.

    Args:
        proposer: Finds candidate boxes.
        classifier: Scores them.
        class_names: Name of each class, without background.
        merge: How scored boxes become detections.
        device: Where the classifier computes.
    """

    def __init__(
        self,
        proposer: Proposer,
        classifier: Classifier,
        *,
        class_names: tuple[str, ...],
        merge: MergeConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.proposer = proposer
        self.classifier = classifier
        self.class_names = class_names
        self.merge = merge or MergeConfig()
        self.device = torch.device(device)

    def __call__(
        self,
        image: Tensor | np.ndarray | str | Path,
        clock: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> Detections:
        """Detect objects in an image.

        Args:
            image: A path, an RGB array ``[H, W, 3]`` or tensor ``[3, H, W]``, uint8.
            clock: Asked for a context around each stage, by its name.

        Raises:
            ImageError: If a path cannot be read as an image.
            ValueError: If an array or tensor is no uint8 RGB image.
        """
        image = as_image(image)
        with clock("propose"):
            proposals = self.proposer(image)  # [N, 4]
        with clock("classify"):
            boxes, scores = self.classifier.score_regions(image, proposals)  # [N, C, 4], [N, C + 1]
        with clock("merge"):
            detections = merge_detections(boxes, scores, self.merge)
        return replace(detections, class_names=self.class_names)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint = BUNDLED,
        *,
        regions: str | None = None,
        proposer: Proposer | None = None,
        merge: MergeConfig | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
        threads: int = 0,
        compiled: bool = False,
    ) -> Detector:
        """Build a detector from a checkpoint, by default the bundled one.

        Args:
            checkpoint: A file made by tools/train.py, or what was read from it.
            regions: ``shared`` (one trunk pass an image) or ``crops``; by default as trained.
            proposer: By default selective search with superpixels of twice R-CNN's size.
            merge: Settings of NMS and voting.
            device: By default a CUDA device where there is one.
            precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where hardware multiplies it.
            threads: Cores that classify one image, on a CPU; 0: all.
            compiled: Whether torch.compile makes the kernels, which takes a minute or more.

        Raises:
            ValueError: If the checkpoint cannot be used, or an argument is none of its choices.
        """
        if isinstance(checkpoint, Checkpoint):
            checkpoint = copy.deepcopy(checkpoint)  # the caller's stays as it is
        else:
            checkpoint = load_checkpoint(checkpoint)
        device = _choose_device(device)
        classifier = build_classifier(
            checkpoint,
            device=device,
            regions=regions,
            precision=precision,
            threads=threads,
            compiled=compiled,
        )
        return cls(
            proposer or SelectiveSearch("googlenet"),
            classifier,
            class_names=checkpoint.class_names,
            merge=merge,
            device=device,
        )


def _choose_device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name}: choose cpu, cuda or cuda:NUMBER") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: {torch.cuda.device_count()} CUDA devices here; use cpu")
    return device
