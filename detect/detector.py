"""The spine: propose, classify, merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detect.augmentation import AugmentConfig, augment
from detect.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from detect.detections import Detections
from detect.devices import choose_device
from detect.engine import Classifier, build_classifier
from detect.ensemble import join_checkpoints
from detect.images import as_image
from detect.merging import MergeConfig, merge_detections
from detect.multibox_proposals import default_proposals, share_trunk
from detect.multibox_trunk import trunk_digest
from detect.rejection import REJECTION_THRESHOLD, check_threshold, make_rejection
from proposals import Proposer


class Detector:
    """Region proposals, a region classifier and merging, joined.

    Args:
        proposer: Finds candidate boxes.
        classifier: Scores them.
        class_names: Name of each class, without background.
        merge: How scored boxes become detections.
        device: Where the classifier computes.
        rejection: Chooses those of an image's candidates that are worth scoring; by default all.
    """

    def __init__(
        self,
        proposer: Proposer,
        classifier: Classifier,
        *,
        class_names: tuple[str, ...],
        merge: MergeConfig | None = None,
        device: torch.device | str = "cpu",
        rejection: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.proposer = proposer
        self.classifier = classifier
        self.class_names = class_names
        self.merge = merge or MergeConfig()
        self.device = torch.device(device)
        self.rejection = rejection or (lambda _, boxes: boxes)

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
        with clock("reject"):
            proposals = self.rejection(image, proposals)
        with clock("classify"):
            boxes, scores = self.classifier.score_regions(image, proposals)  # [N, C, 4], [N, C + 1]
        with clock("merge"):
            detections = merge_detections(boxes, scores, self.merge)
        return replace(detections, class_names=self.class_names)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint | Sequence[str | Path] = BUNDLED,
        *,
        regions: str | None = None,
        pyramid: Sequence[float] = (),
        proposer: Proposer | None = None,
        merge: MergeConfig | None = None,
        augmentation: AugmentConfig | None = None,
        rejection_threshold: float = REJECTION_THRESHOLD,
        device: str | torch.device | None = None,
        precision: str = "auto",
        backend: str = "torch",
        threads: int = 0,
        compiled: bool = False,
    ) -> Detector:
        """Build a detector from a checkpoint, by default the bundled one.

        Args:
            checkpoint: A file made by tools/train.py, or what was read from it; several of the same
                classes are averaged; for onnxruntime also a folder made by tools/export.py.
            regions: ``shared`` (one trunk pass an image) or ``crops``; by default as trained.
            pyramid: Levels of a shared trunk, factors of its usual size; by default as trained.
            proposer: By default the paper's: see ``detect.multibox_proposals.default_proposals``.
            merge: Settings of soft-NMS or NMS, and of voting.
            augmentation: Views of an image that are averaged; by default it alone.
            rejection_threshold: Foreground probability at first sight below which a proposal is not
                scored, where the checkpoint can tell it; see ``detect.rejection``.
            device: By default a CUDA device where there is one.
            precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where hardware multiplies it.
            backend: ``torch``, or ``onnxruntime``: on the CPU, in float32, see docs/export.md.
            threads: Cores that classify one image, on a CPU; 0: all.
            compiled: Whether torch.compile makes the kernels, which takes a minute or more.

        Raises:
            ValueError: If the checkpoint cannot be used, or an argument is none of its choices.
        """
        check_threshold(rejection_threshold)
        sources = _sources(checkpoint)
        if backend == "onnxruntime":
            if device not in (None, "cpu", torch.device("cpu")):
                raise ValueError(f"device={device}: backend=onnxruntime computes on the CPU")
            if pyramid:
                raise ValueError(f"pyramid={list(pyramid)} needs backend=torch")
            proposer = proposer or default_proposals(sources[0], device="cpu")
            source = sources[0] if len(sources) == 1 else _join(sources)
            classifier, names = _on_onnxruntime(source, regions, precision, threads)
            classifier = augment(classifier, augmentation or AugmentConfig())
            return cls(proposer, classifier, class_names=names, merge=merge, device="cpu")
        if backend != "torch":
            raise ValueError(f"backend={backend}: choose torch or onnxruntime")
        joined, place = _join(sources), choose_device(device)
        joined = replace(joined, shared=joined.shared.with_levels(pyramid))
        proposer = proposer or default_proposals(sources[0], pyramid=pyramid, device=place)
        classifier = build_classifier(
            joined,
            device=place,
            regions=regions,
            precision=precision,
            threads=threads,
            compiled=compiled,
        )
        proposer = share_trunk(proposer, classifier, trunk_digest(joined.network, "grid"))
        rejection = make_rejection(joined.rejection, classifier, rejection_threshold)
        return cls(
            proposer,
            augment(classifier, augmentation or AugmentConfig()),
            class_names=joined.class_names,
            merge=merge,
            device=place,
            rejection=rejection,
        )


def _sources(
    checkpoint: str | Path | Checkpoint | Sequence[str | Path],
) -> list[str | Path | Checkpoint]:
    return [checkpoint] if isinstance(checkpoint, str | Path | Checkpoint) else [*checkpoint]


def _join(sources: Sequence[str | Path | Checkpoint]) -> Checkpoint:
    return join_checkpoints(
        [s if isinstance(s, Checkpoint) else load_checkpoint(s) for s in sources]
    )


def _on_onnxruntime(
    source: str | Path | Checkpoint, regions: str | None, precision: str, threads: int
) -> tuple[Classifier, tuple[str, ...]]:
    from detect.onnx_backend import load_onnx_classifier  # an extra may not be installed

    made = load_onnx_classifier(source, regions=regions, precision=precision, threads=threads)
    return made, made.class_names
