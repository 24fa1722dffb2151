"""Trained MultiBoxes as files: safetensors in float16, with the settings they need."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detect.files import write_atomically
from detect.shared_geometry import SharedTrunkConfig
from proposals.multibox import MultiBox

VERSION = 1
Form = Literal["grid", "whole"]


@dataclass
class MultiBoxFile:
    """A MultiBox and what it needs.

    Attributes:
        multibox: The head, float32.
        form: ``grid`` (maps of a shared trunk) or ``whole`` (features of the image; the 2014
            paper).
        trunk: Digest of the trunk that it learned from.
        shared: Scales at which images enter the trunk; the pyramid holds the levels it reads.
        crop_scales: Of crops, in the form ``whole``.
        training: Data and recipe, for the record.
    """

    multibox: MultiBox
    form: Form
    trunk: str
    shared: SharedTrunkConfig = field(default_factory=SharedTrunkConfig)
    crop_scales: tuple[float, ...] = (1.0,)
    training: dict[str, Any] = field(default_factory=dict)


def save_multibox(path: str | Path, file: MultiBoxFile) -> None:
    """Write a MultiBox, atomically, in float16."""
    head = file.multibox
    settings = {
        "version": VERSION,
        "channels": head.channels,
        "hidden": head.hidden,
        "kernel": head.kernel,
        "form": file.form,
        "trunk": file.trunk,
        "shared": asdict(file.shared),
        "crop_scales": list(file.crop_scales),
        "training": file.training,
    }
    # Priors stay exact: residuals are relative to them.
    tensors = {
        key: (tensor if key == "priors" else tensor.half()).cpu().contiguous()
        for key, tensor in head.state_dict().items()
    }
    write_atomically(Path(path), save(tensors, {"multibox": json.dumps(settings, sort_keys=True)}))


def load_multibox(path: str | Path) -> MultiBoxFile:
    """Read a MultiBox, to float32 on the CPU.

    Raises:
        ValueError: If the file is absent, damaged, of a newer version or no MultiBox of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of tools/train_multibox.py")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable MultiBox ({error})") from error
    if "multibox" not in metadata:
        raise ValueError(f"{path}: no MultiBox; was it made by tools/train_multibox.py?")
    settings = json.loads(metadata["multibox"])
    if settings["version"] > VERSION:
        raise ValueError(
            f"{path}: version {settings['version']} is newer than this code's {VERSION}"
        )
    priors = tensors.get("priors", torch.zeros(0, 4))
    try:
        shape = {name: settings[name] for name in ("hidden", "kernel")}
        multibox = MultiBox(settings["channels"], priors, **shape)
        multibox.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())[:200]}") from error
    return MultiBoxFile(
        multibox.eval(),
        settings["form"],
        settings["trunk"],
        SharedTrunkConfig.from_file(settings["shared"]),
        tuple(settings["crop_scales"]),
        settings["training"],
    )
