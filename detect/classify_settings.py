"""Settings of tools/classify.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detect.config import MISSING, register


@dataclass
class ClassifyConfig:
    """Settings of tools/classify.py."""

    out: str = "classes"  # folder of the results
    weights: str = MISSING  # .caffemodel, .safetensors, .pth or torchvision; of a,b averaged
    data: Any = None  # in place of PATHs: imagefolder, data.root=FOLDER; then it is scored too
    crops: int = 144  # views of an image that are averaged: 1, 10 or 144 (the paper's)
    classes: str | None = None  # meta_clsloc.mat or lines 'wnid id name', of clsloc.txt's ids
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    precision: str = "auto"  # auto, float32 or bfloat16; auto: bfloat16 where hardware has it
    threads: int = 0  # images in work at the same time on a CPU, one core each; 0: one a core
    overwrite: bool = False  # start again where out/ holds results of other settings


register("classify", ClassifyConfig)
