"""Trained region classifiers as files: safetensors, with everything needed to use them.

The tensors are stored in float16; the file's metadata holds the class names, the preprocessing, the
scales and context of the regions, and how the classifier was trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detect.files import write_atomically
from detect.googlenet import GoogLeNet, Layout, Preprocessing
from detect.heads import RegionHead
from detect.precision import PrecisionCheck
from detect.rejection import RejectionNetwork
from detect.shared_geometry import SharedTrunkConfig

VERSION = 2  # 1 knows neither the pyramid of a shared trunk nor sigmoid
BUNDLED = Path(__file__).parent / "pretrained" / "voc2007.safetensors"
Regions = Literal["shared", "crops"]


@dataclass
class Checkpoint:
    """A region classifier and what it needs.

    Attributes:
        network: The trunk, without classifier.
        head: Probabilities with background last, and box regression.
        class_names: Classes without background, ``[C]``.
        preprocessing: What the network expects of its input.
        regions: How regions were cut in training: ``shared`` (from maps of the image) or ``crops``.
        shared: Scales of the shared maps and context of the regions.
        training: Data and recipe, for the record.
        precision_check: What bfloat16 does to the scores of real regions, where it was measured.
        rejection: What tells regions of a shared trunk that need no scoring, where it was trained.
    """

    network: GoogLeNet
    head: RegionHead
    class_names: tuple[str, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    regions: Regions = "shared"
    shared: SharedTrunkConfig = field(default_factory=SharedTrunkConfig)
    training: dict[str, Any] = field(default_factory=dict)
    precision_check: PrecisionCheck | None = None
    rejection: RejectionNetwork | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically, in float16."""
    settings = {
        "version": VERSION,
        "layout": checkpoint.network.layout,
        "class_names": list(checkpoint.class_names),
        "activation": checkpoint.head.activation,
        "preprocessing": asdict(checkpoint.preprocessing),
        "regions": checkpoint.regions,
        "shared": asdict(checkpoint.shared),
        "training": checkpoint.training,
        "precision_check": checkpoint.precision_check and asdict(checkpoint.precision_check),
    }
    tensors: dict[str, Tensor] = {}
    parts = {"network": checkpoint.network, "head": checkpoint.head}
    if checkpoint.rejection is not None:
        settings["rejection"] = {"hidden": checkpoint.rejection.hidden.out_features}
        parts["rejection"] = checkpoint.rejection
    for part, module in parts.items():
        for key, tensor in module.state_dict().items():
            if key.startswith("aux"):  # of use in training alone
                continue
            half = tensor.half() if tensor.is_floating_point() else tensor
            tensors[f"{part}.{key}"] = half.cpu().contiguous()
    write_atomically(Path(path), save(tensors, {"detect": json.dumps(settings, sort_keys=True)}))


def load_checkpoint(path: str | Path = BUNDLED) -> Checkpoint:
    """Read a checkpoint, to float32 on the CPU.

    Raises:
        ValueError: If the file is absent, damaged, of a newer version or no checkpoint of ours.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; backend=onnxruntime reads those of tools/export.py")
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error})") from error
    if "detect" not in metadata:
        raise ValueError(
            f"{path}: has weights but not our settings; was it made by tools/train.py?"
        )
    settings = json.loads(metadata["detect"])
    if settings["version"] > VERSION:
        raise ValueError(
            f"{path}: version {settings['version']} is newer than this code's {VERSION}"
        )
    layout: Layout = settings["layout"]
    network = GoogLeNet(0, layout=layout)
    activation = settings.get("activation", "softmax")  # not in files of version 1
    head = RegionHead(len(settings["class_names"]), activation)
    known = settings.get("rejection")  # not in the first files
    rejection = known and RejectionNetwork(len(settings["class_names"]), known["hidden"])
    modules = {"network.": network, "head.": head} | ({"rejection.": rejection} if known else {})
    for part, module in modules.items():
        own = {k[len(part) :]: _widen(v) for k, v in tensors.items() if k.startswith(part)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())[:200]}") from error
        module.eval()
    check = settings.get("precision_check")  # not in the first files
    preprocessing = {k: tuple(v) for k, v in settings["preprocessing"].items()}
    return Checkpoint(
        network,
        head,
        tuple(settings["class_names"]),
        Preprocessing(**preprocessing),
        settings["regions"],
        _shared_settings(path, settings["shared"]),
        settings["training"],
        check and PrecisionCheck(**check),
        rejection,
    )


def _shared_settings(path: Path, settings: dict[str, Any]) -> SharedTrunkConfig:
    try:
        return SharedTrunkConfig.from_file(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its shared trunk has settings of no use ({error})") from error


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor
