"""Export of a checkpoint to ONNX files, compared with PyTorch before anything is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from skimage import data
from torch import Tensor

from detect.checkpoint import Checkpoint, file_digest, load_checkpoint
from detect.diagnosis import installed_version
from detect.engine import assemble
from detect.onnx_backend import OnnxClassifier, needing_extra
from detect.onnx_files import DEFAULT_OPSET, DESCRIPTION, ExportedDetector, write_folder
from detect.workers import CoreWorkers

# Rounding differs by 1e-6 and 1e-4 on the bundled checkpoint.
PROBABILITY_TOLERANCE = 1e-4
BOX_TOLERANCE = 0.02  # pixels, on photos of 300 to 600
PACKAGES = ("going-deeper-detection", "torch", "onnx", "onnxruntime")
# Parts of a photo: the whole, its quarters, middle, a tall, a wide and a small one.
_PARTS = (
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.5, y + 0.5) for x in (0.0, 0.5) for y in (0.0, 0.5)),
    (0.25, 0.25, 0.75, 0.75),
    (0.4, 0.1, 0.6, 0.9),
    (0.1, 0.4, 0.9, 0.6),
    (0.45, 0.45, 0.5, 0.5),
)


@dataclass(frozen=True)
class Comparison:
    """How far an export is from PyTorch in float32, on regions of three photos.

    Attributes:
        regions: Number of regions compared.
        largest_probability_difference: Over all regions and classes.
        largest_box_difference: Over all regions, classes and sides, in pixels.
        top1_agreement: Share of regions whose most probable class is the same, 0 to 1.
    """

    regions: int
    largest_probability_difference: float
    largest_box_difference: float
    top1_agreement: float

    def __str__(self) -> str:
        return (
            f"{self.regions} regions of 3 photos against PyTorch: probabilities differ by up to "
            f"{self.largest_probability_difference:.1e}, boxes by up to "
            f"{self.largest_box_difference:.1e} pixels, top-1 agrees in {self.top1_agreement:.1%}"
        )


def export_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    regions: str | None = None,
    opset: int = DEFAULT_OPSET,
) -> Comparison:
    """Write a checkpoint's ONNX models and ``detector.json`` to a folder.

    Args:
        source: A file made by tools/train.py.
        folder: Made where it is absent; files of the same names are replaced.
        regions: ``shared`` or ``crops``; by default as trained.
        opset: Version of ONNX's operators; 13 or more.

    Returns:
        How the models compare with PyTorch; ``detector.json`` holds the same.

    Raises:
        ValueError: If the checkpoint cannot be used, ``regions`` or ``opset`` is no choice, onnx or
            onnxruntime is not installed, or the models differ from PyTorch by more than
            ``PROBABILITY_TOLERANCE`` or ``BOX_TOLERANCE``; no file is written then.
    """
    with needing_extra():
        from detect.onnx_graph import export_in_memory
    checkpoint = load_checkpoint(source)
    exported = export_in_memory(checkpoint, regions, opset=opset)
    found = compare(checkpoint, exported)
    # Written so that a difference that is no number is refused too.
    if not (
        found.largest_probability_difference <= PROBABILITY_TOLERANCE
        and found.largest_box_difference <= BOX_TOLERANCE
    ):
        raise ValueError(
            f"{source}: not exported, for the models differ from the network: {found}; allowed "
            f"are {PROBABILITY_TOLERANCE} and {BOX_TOLERANCE} pixels; try another onnxruntime"
        )
    tolerances = {"probability_tolerance": PROBABILITY_TOLERANCE, "box_tolerance": BOX_TOLERANCE}
    record = {
        "opset": opset,
        "checkpoint": {"name": Path(source).name, "sha256": file_digest(source)},
        "versions": {name: installed_version(name) for name in PACKAGES},
        "compared_with_pytorch": asdict(found) | tolerances,
    }
    write_folder(Path(folder), exported, record)
    return found


def compare(checkpoint: Checkpoint, exported: ExportedDetector) -> Comparison:
    """Score regions of scikit-image's photos with the models and with PyTorch in float32.

    Args:
        checkpoint: In float32, on the CPU.
        exported: The models made of it.

    Raises:
        ValueError: If onnxruntime is not installed, or refuses a model.
    """
    models = OnnxClassifier(exported)
    network = assemble(
        checkpoint, checkpoint.network, regions=exported.regions, workers=CoreWorkers()
    )
    boxes, probabilities, agreements = [], [], []
    for photo in (data.astronaut(), data.coffee(), data.chelsea()):
        image = torch.from_numpy(photo).permute(2, 0, 1)
        regions = _parts_of(image)
        ours, theirs = models.score_regions(image, regions), network.score_regions(image, regions)
        boxes.append((ours[0] - theirs[0]).abs().max())
        probabilities.append((ours[1] - theirs[1]).abs().max())
        agreements.append(ours[1].argmax(dim=1) == theirs[1].argmax(dim=1))
    agree = torch.cat(agreements)
    return Comparison(
        len(agree),
        float(torch.stack(probabilities).max()),
        float(torch.stack(boxes).max()),
        float(agree.float().mean()),
    )


def summarise(folder: Path, found: Comparison) -> str:
    """Tell what was written, and how it compares."""
    return f"{found}\nwritten to {folder / DESCRIPTION} and the models that it names"


def _parts_of(image: Tensor) -> Tensor:
    """Return boxes of a photo ``[3, H, W]``: ``[9, 4]``."""
    height, width = image.shape[1:]
    return torch.tensor(_PARTS) * torch.tensor([width, height, width, height])
