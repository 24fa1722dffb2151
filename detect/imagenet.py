"""Published ImageNet weights of GoogLeNet: BVLC's Caffe model and torchvision's."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from detect.caffemodel import read_caffemodel
from detect.googlenet import INCEPTION_CHANNELS, GoogLeNet, Layout

CLASSES_KEY = "class_names"  # of a file's metadata: names of its classes, as JSON


def _caffe_names() -> dict[str, str]:
    """Map Caffe layer names of bvlc_googlenet to this module's."""
    names = {"conv1/7x7_s2": "conv1.conv", "conv2/3x3_reduce": "conv2.conv"}
    names |= {"conv2/3x3": "conv3.conv", "loss3/classifier": "fc"}
    branches = {
        "1x1": "branch1.conv",
        "3x3_reduce": "branch2.0.conv",
        "3x3": "branch2.1.conv",
        "5x5_reduce": "branch3.0.conv",
        "5x5": "branch3.1.conv",
        "pool_proj": "branch4.1.conv",
    }
    for block in INCEPTION_CHANNELS:
        for caffe, ours in branches.items():
            names[f"inception_{block}/{caffe}"] = f"inception{block}.{ours}"
    for loss, aux in (("loss1", "aux1"), ("loss2", "aux2")):
        names |= {f"{loss}/conv": f"{aux}.conv.conv"}
        names |= {f"{loss}/fc": f"{aux}.fc1", f"{loss}/classifier": f"{aux}.fc2"}
    return names


def from_caffe(tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Rename the BVLC GoogLeNet's tensors to this module's and turn its input from BGR to RGB.

    Args:
        tensors: ``<layer>.weight`` and ``<layer>.bias`` under Caffe's layer names.

    Raises:
        ValueError: If a layer is not one of GoogLeNet's.
    """
    names = _caffe_names()
    state: OrderedDict[str, Tensor] = OrderedDict()
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        if layer not in names:
            raise ValueError(f"layer {layer!r} is none of GoogLeNet's")
        state[f"{names[layer]}.{kind}"] = tensor.float()
    state["conv1.conv.weight"] = state["conv1.conv.weight"].flip(1)
    return state


def load_imagenet(weights: str | Path, *, auxiliary: bool = False) -> GoogLeNet:
    """Load a GoogLeNet trained on ImageNet, with its 1000-way classifier.

    Args:
        weights: A file of the BVLC model (``.caffemodel``, or ``.safetensors`` under Caffe's layer
            names), a file of torchvision's (``.pth`` or ``.safetensors``), or ``torchvision`` to
            let torchvision download its own.
        auxiliary: Whether to keep the auxiliary classifiers; those absent from the file start
            untrained.

    Raises:
        ValueError: If the file is absent or does not hold a GoogLeNet, naming what differs.
    """
    state = _read_weights(weights)
    layout: Layout = "torchvision" if "conv1.bn.weight" in state else "paper"
    if not auxiliary:
        state = {k: v for k, v in state.items() if not k.startswith("aux")}
    if "fc.weight" not in state:
        raise ValueError(f"{weights}: holds no GoogLeNet classifier (fc or loss3/classifier)")
    model = GoogLeNet(len(state["fc.weight"]), layout=layout, auxiliary=auxiliary)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{weights}: {' '.join(str(error).split())}") from error
    missing = [key for key in missing if not key.startswith("aux")]
    if missing or unexpected:
        raise ValueError(f"{weights}: no GoogLeNet: missing {missing[:3]}, extra {unexpected[:3]}")
    return model.eval()


def class_names_of(weights: str | Path) -> tuple[str, ...]:
    """Return the names of classes that tools/train_classifier.py left in a file; or none."""
    if Path(weights).suffix != ".safetensors" or not Path(weights).is_file():
        return ()
    with safe_open(weights, framework="pt") as file:
        return tuple(json.loads((file.metadata() or {}).get(CLASSES_KEY, "[]")))


def _read_weights(weights: str | Path) -> Mapping[str, Tensor]:
    if str(weights) == "torchvision":
        from torchvision.models import GoogLeNet_Weights

        url_state = GoogLeNet_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        return dict(url_state)
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file; name a .caffemodel or .safetensors")
    if path.suffix == ".caffemodel":
        return from_caffe(read_caffemodel(path))
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return from_caffe(state) if "conv1/7x7_s2.weight" in state else state
