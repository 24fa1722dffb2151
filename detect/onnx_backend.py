"""Region classification with onnxruntime on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detect.checkpoint import Checkpoint
from detect.crops import crop_boxes
from detect.googlenet import GoogLeNet
from detect.heads import decode_boxes
from detect.onnx_files import CLASSIFIER, REGIONS, TRUNK, ExportedDetector, read_folder
from detect.shared_trunk import SharedTrunk, resized_size, sample_regions

BATCH_SIZE = 8  # more save no time here, and take more memory


class OnnxClassifier:
    """Scores the regions of an image; takes the place of the classifiers that run on torch.

    Several Python threads may score images at the same time.

    Args:
        exported: The models, and how regions are cut for them.
        batch_size: Regions that pass through a model together.
        threads: That onnxruntime uses for one image; 1 where several images are in work at once.

    Raises:
        ValueError: If onnxruntime is not installed, or refuses a model.
    """

    def __init__(
        self, exported: ExportedDetector, *, batch_size: int = BATCH_SIZE, threads: int = 1
    ) -> None:
        self.settings = replace(exported, models={})  # their bytes are of no more use
        self.class_names = exported.class_names
        self.batch_size = batch_size
        self._sessions = {
            name: _start_session(name, content, threads)
            for name, content in exported.models.items()
        }
        with torch.device("meta"):  # to place boxes on the map, which needs no weights
            network = GoogLeNet(0)
        self._trunk = SharedTrunk(network, exported.preprocessing, exported.shared)

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
            threads: That onnxruntime uses for one image.

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
        """Classify regions of an image.

        Args:
            image: RGB, uint8 ``[3, H, W]``.
            boxes: Regions, ``[N, 4]``.

        Returns:
            A regressed box a class, ``[N, C, 4]``, and probabilities with background last,
            ``[N, C + 1]``, both float32.
        """
        classes = len(self.class_names)
        if not len(boxes):
            return torch.zeros(0, classes, 4), torch.zeros(0, classes + 1)
        shared = self.settings.regions == "shared"
        cut = self._cut_from_map(image) if shared else self._cut_crops(image)
        session = self._sessions[REGIONS if shared else CLASSIFIER]
        parts = [_run(session, cut(part)) for part in boxes.split(self.batch_size)]
        offsets = torch.cat([offsets for _, offsets in parts])
        size = (image.shape[-2], image.shape[-1])
        return decode_boxes(boxes, offsets, size), torch.cat([scores for scores, _ in parts])

    def _cut_crops(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda boxes: crop_boxes(image, boxes, self.settings.crop)

    def _cut_from_map(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Run the trunk once on the image, resized as ``SharedTrunk.stem_map`` does it."""
        size = (image.shape[-2], image.shape[-1])
        resized = F.interpolate(
            image[None].float(),
            size=resized_size(size, self.settings.shared),
            mode="bilinear",
            antialias=True,
        )
        (maps,) = _run(self._sessions[TRUNK], resized)
        maps = maps.contiguous(memory_format=torch.channels_last)
        return lambda boxes: sample_regions(maps, self._trunk.map_boxes(boxes, size))


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


def _start_session(name: str, model: bytes, threads: int) -> Any:
    with needing_extra():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait must not spin on cores that others need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}: onnxruntime {onnxruntime.__version__} refuses it ({reason})"
        ) from error


def _run(session: Any, inputs: Tensor) -> list[Tensor]:
    """Run a model of one input; returns its outputs in order."""
    name = session.get_inputs()[0].name
    return [torch.from_numpy(x) for x in session.run(None, {name: inputs.contiguous().numpy()})]
