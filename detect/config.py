"""Settings of the tools: one root dataclass each, from the dataclasses beside the code they steer.

The only module of the package that knows Hydra.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from detect.merging import MergeConfig
from detect.shared_trunk import SharedTrunkConfig
from detect.training import TrainingConfig


@dataclass
class DetectConfig:
    """Settings of tools/detect.py."""

    out: str = "out"  # folder of the results
    checkpoint: str | None = None  # file made by tools/train.py; by default the bundled detector
    regions: str | None = None  # shared (trunk once an image) or crops; by default as trained
    proposer: Any = MISSING  # group: googlenet (superpixels x 2), fast (R-CNN's), quality
    merge: MergeConfig = field(default_factory=MergeConfig)
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    precision: str = "auto"  # auto, float32 or bfloat16; auto: bfloat16 where hardware has it
    threads: int = 0  # images in work at the same time on a CPU; 0: one a core
    frame_step: int = 1  # every n-th frame of a video
    drawn: bool = True  # whether to draw the detections on every photo
    draw_threshold: float = 0.5  # least score of a drawn detection, 0 to 1
    report: bool = True  # whether to write report.html
    overwrite: bool = False  # start again where out/ holds results of other settings


@dataclass
class TrainConfig:
    """Settings of tools/train.py."""

    out: str = MISSING  # folder of the checkpoint, the log and the state to go on from
    weights: str = MISSING  # ImageNet GoogLeNet: .caffemodel, .safetensors, .pth or torchvision
    data: Any = MISSING  # group: voc
    proposer: Any = MISSING  # group: googlenet (superpixels x 2), fast (R-CNN's), quality
    cache: str = "cache"  # folder of proposals and stem maps, kept between trainings
    shared: SharedTrunkConfig = field(default_factory=SharedTrunkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "cpu"  # cpu or cuda
    threads: int = 0  # photos in work at the same time; 0: one a core
    save_minutes: float = 3.0  # between two saved states


@dataclass
class ScoreConfig:
    """Settings of tools/score.py."""

    format: str = MISSING  # ilsvrc, coco or voc
    predictions: str = MISSING  # results file, plain, .gz or .xz; voc: folder of the files
    annotations: str = MISSING  # ilsvrc, voc: folder or tar archive of XML; coco: JSON file
    out: str = MISSING  # folder of scores.json
    image_list: str | None = None  # ilsvrc: lines "name id"; voc: the name of one image a line
    classes: str | None = None  # ilsvrc: meta_det.mat or map_det.txt; voc: names, else its 20
    blacklist: str | None = None  # ilsvrc: lines "image_id wnid" that are not judged
    voc_metric: str = "2010"  # voc: 2010 (area under the curve) or 2007 (11 points)


def settings_help(settings: type) -> dict[str, str]:
    """Return what Hydra prints for --help: every setting with its default and comment.

    The comments stand in the source of the dataclass, their only home, and are read from there.
    """
    fields = re.findall(r"^    (\w+): .+?(?: = (.+?))?  # (.+)$", inspect.getsource(settings), re.M)
    defaults = {"MISSING": "...", "None": "null"}
    names = [f"{name}={defaults.get(text, text)}" for name, text, _ in fields]
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {text}" for name, (*_, text) in zip(names, fields, strict=True)]
    head = f"{settings.__doc__}\n\nname=value, in any order; those with ... have no default:\n"
    foot = "\nA value with = , or brackets needs quotes: 'name=\"a,b\"'\n"
    return {"template": "\n".join([head, *lines, foot])}


def register() -> None:
    """Make the schemas known to Hydra, under the names that configs/*.yaml list first."""
    store = ConfigStore.instance()
    store.store(name="detect_schema", node=DetectConfig)
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="score_schema", node=ScoreConfig)
    store.store(group="hydra/help", name="score_help", node=settings_help(ScoreConfig))
