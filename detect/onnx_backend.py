"""Region classification with onnxruntime on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detect.checkpoint import Checkpoint, load_checkpoint
from detect.crops import crop_boxes
from detect.heads import decode_boxes
from detect.onnx_files import CLASSIFIER, REGIONS, TRUNK, ExportedDetector, read_folder
from detect.region_sampling import sample_regions
from detect.shared_geometry import place_regions, resize_image, split_levels
from detect.workers import CoreWorkers

BATCH_SIZE = 8  # more save no time here, and take more memory


class OnnxClassifier:
    """Scores the regions of an image; takes the place of the classifiers that run on torch.

    Several Python threads may score images at the same time.

    Args:
        exported: The models, and how regions are cut for them.
        batch_size: Regions that pass through a model together.
        threads: Cores that share the batches of one image; 0: all.

    Raises:
        ValueError: If onnxruntime is not installed, or refuses a model.
    """

    def __init__(
        self, exported: ExportedDetector, *, batch_size: int = BATCH_SIZE, threads: int = 1
    ) -> None:
        self.settings = replace(exported, models={})  # their bytes are of no more use
        self.class_names = exported.class_names
        self.batch_size = batch_size
        self.workers = CoreWorkers(threads)
        self._sessions = {
            name: _start_session(name, content) for name, content in exported.models.items()
        }

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        regions: str | None = None,
        batch_size: int = BATCH_SIZE,
        threads: int = 1,
    ) -> OnnxClassifier:
        """Export a checkpoint in memory.

        Args:
            checkpoint: Network and head, in any precision and on any device; not changed.
            regions: ``shared`` or ``crops``; by default as trained.
            batch_size: Regions that pass through a model together.
            threads: Cores that share the batches of one image; 0: all.

        Raises:
            ValueError: If onnx or onnxruntime is not installed, or ``regions`` is neither.
        """
        with needing_extra():
            from detect.onnx_graph import export_in_memory
        exported = export_in_memory(checkpoint, regions)
        return cls(exported, batch_size=batch_size, threads=threads)

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, batch_size: int = BATCH_SIZE, threads: int = 1
    ) -> OnnxClassifier:
        """Load what tools/export.py wrote; needs onnxruntime, but not onnx.

        Raises:
            ValueError: If a file is absent, damaged or none of ours, naming it, or onnxruntime is
                not installed.
        """
        return cls(read_folder(Path(folder)), batch_size=batch_size, threads=threads)

    @torch.inference_mode()
    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an RGB uint8 image: see ``detect.engine.Classifier``."""
        classes = len(self.class_names)
        if not len(boxes):
            return torch.zeros(0, classes, 4), torch.zeros(0, classes + 1)
        if self.settings.regions == "shared":
            return self._score_on_maps(image, boxes)
        parts = self.workers.map(
            lambda part: self._run(CLASSIFIER, crop_boxes(image, part, self.settings.crop)),
            boxes.split(self.batch_size),
        )
        return _join(parts, boxes, image)

    def _score_on_maps(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        size = (image.shape[-2], image.shape[-1])
        regions, places = place_regions(boxes, size, self.settings.shared)
        levels = [level for level, _ in split_levels(regions)]
        # The largest first: cores take one after the other.
        levels.sort(key=self.settings.shared.pyramid.__getitem__, reverse=True)
        computed = self.workers.map(partial(self._image_map, image), levels)
        maps = dict(zip(levels, computed, strict=True))

        def score(part: Tensor) -> list[Tensor]:
            points = [sample_regions(maps[level], placed) for level, placed in split_levels(part)]
            return self._run(REGIONS, torch.cat(points))

        parts = self.workers.map(score, regions.split(self.batch_size))
        moved, scores = _join(parts, boxes[places], image)
        back = places.argsort()
        return moved[back], scores[back]

    def _image_map(self, image: Tensor, level: int) -> Tensor:
        factor = self.settings.shared.pyramid[level]
        (maps,) = self._run(TRUNK, resize_image(image, self.settings.shared, factor))
        return maps.contiguous(memory_format=torch.channels_last)

    def _run(self, model: str, inputs: Tensor) -> list[Tensor]:
        """Run a model of one input; returns its outputs in order."""
        session = self._sessions[model]
        name = session.get_inputs()[0].name
        outputs = session.run(None, {name: inputs.contiguous().numpy()})
        return [torch.from_numpy(output) for output in outputs]


def load_onnx_classifier(
    source: str | Path | Checkpoint,
    *,
    regions: str | None = None,
    precision: str = "auto",
    threads: int = 0,
) -> OnnxClassifier:
    """Start a classifier from a checkpoint, or from a folder that tools/export.py wrote.

    Args:
        source: Either of them.
        regions: ``shared`` or ``crops``; by default as trained, or as exported.
        precision: ``auto`` or ``float32``, which are the same here.
        threads: Cores that share the batches of one image; 0: all.

    Raises:
        ValueError: If onnxruntime is not installed, the source cannot be used or a setting is none
            of its choices.
    """
    if precision not in ("auto", "float32"):
        raise ValueError(f"precision={precision}: backend=onnxruntime computes in float32")
    if isinstance(source, Checkpoint) or not Path(source).is_dir():
        checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
        return OnnxClassifier.from_checkpoint(checkpoint, regions=regions, threads=threads)
    classifier = OnnxClassifier.from_folder(source, threads=threads)
    if regions not in (None, classifier.settings.regions):
        exported = classifier.settings.regions
        raise ValueError(f"regions={regions}: {source} was exported with regions={exported}")
    return classifier


@contextmanager
def needing_extra() -> Iterator[None]:
    """Say how to get a package that the block imports in vain.

    Raises:
        ValueError: If it is not installed, or broken.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"onnx and onnxruntime are needed ({error}): pip install "
            "'going-deeper-detection[onnx]', or in the repository pip install -e '.[onnx]'"
        ) from error


def _start_session(name: str, model: bytes) -> Any:
    with needing_extra():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # cores share batches, not operators
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}: onnxruntime {onnxruntime.__version__} refuses it ({reason})"
        ) from error


def _join(parts: Sequence[Sequence[Tensor]], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return moved boxes and probabilities from what the batches' model gives."""
    scores, offsets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return decode_boxes(boxes, offsets, (image.shape[-2], image.shape[-1])), scores
