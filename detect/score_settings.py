"""Settings of tools/score.py."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from detect.config import MISSING, register
from detect.data.problems import InputError

FORMATS = ("ilsvrc", "coco", "voc", "clsloc")
NEEDED = {  # settings without which a format cannot be scored
    "ilsvrc": {
        "annotations": "the folder or tar archive of the XML files",
        "image_list": "lines 'name id', the devkit's val.txt",
        "classes": "meta_det.mat or map_det.txt",
    },
    "coco": {"annotations": "the instances file of the ground truth"},
    "voc": {
        "annotations": "the folder or tar archive of the XML files",
        "image_list": "the name of one image a line",
    },
    "clsloc": {"ground_truth": "the class id of one image a line"},
}
ONLY_FOR = {  # settings that other formats have no use for
    "image_list": ("ilsvrc", "voc", "clsloc"),
    "classes": ("ilsvrc", "voc", "clsloc"),
    "blacklist": ("ilsvrc", "clsloc"),
    "ground_truth": ("clsloc",),
    "boxes": ("clsloc",),
    "voc_metric": ("voc",),
    "engine": ("coco",),
    "repair": ("coco",),
    "compare": ("ilsvrc", "coco", "voc"),
    "bootstrap": ("ilsvrc", "coco", "voc"),
    "report": ("ilsvrc", "coco", "voc"),
}


@dataclass
class ScoreConfig:
    """Settings of tools/score.py."""

    format: str = MISSING  # ilsvrc, coco, voc or clsloc
    predictions: str = MISSING  # results file, .gz, .xz or plain; voc: folder, or a path with *
    annotations: str | None = None  # folder or tar archive of XML; coco: the instances file
    out: str = MISSING  # folder of scores.json and the report
    image_list: str | None = None  # ilsvrc: lines "name id"; voc, clsloc: one image a line
    classes: str | None = None  # ilsvrc: meta_det.mat or map_det.txt; voc: names, else those found
    blacklist: str | None = None  # ilsvrc: lines "image_id wnid"; clsloc: positions of images
    ground_truth: str | None = None  # clsloc: the class id of one image a line
    boxes: bool | None = None  # clsloc: whether guesses have boxes; null: found out
    voc_metric: str = "2010"  # voc: 2010 (area under the curve) or 2007 (11 points)
    official: bool = False  # the official code's own answer, where it is of no use too
    engine: str = "numba"  # coco: numba or pycocotools, the reference
    drop: list[str] = field(default_factory=list)  # malformed, not_finite, unknown_image, ...
    repair: list[str] = field(default_factory=list)  # coco: xyxy, annotation_ids
    bootstrap: int = 0  # draws of images for 95 % intervals, such as 1000; 0: no intervals
    seed: int = 0  # of the draws
    compare: str | None = None  # a second submission, like predictions: differences, 1000 draws
    report: bool = False  # reasons, curves and report.html as well; draws 1000 unless told
    photos: str | None = None  # folder of the photos: the report shows the worst mistakes


register("score", ScoreConfig)


def check_settings(settings: ScoreConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        InputError: Names the setting and what to do.
    """
    if settings.format not in FORMATS:
        raise InputError(f"format={settings.format}: choose one of {', '.join(FORMATS)}")
    for name, what in NEEDED[settings.format].items():
        if getattr(settings, name) is None:
            raise InputError(f"format={settings.format} needs {name}=..., {what}")
    defaults = ScoreConfig()
    for name, formats in ONLY_FOR.items():
        value = getattr(settings, name)
        if settings.format not in formats and value != getattr(defaults, name):
            raise InputError(
                f"{name}={value} is for format={' and '.join(formats)} alone; leave it out"
            )
    if settings.bootstrap < 0 or settings.seed < 0:
        raise InputError(
            f"bootstrap={settings.bootstrap} seed={settings.seed}: give numbers from 0 on"
        )
    if settings.photos is not None:
        if not settings.report:
            raise InputError("photos=... is for the report; add report=true")
        if not as_path(settings.photos).is_dir():
            raise InputError(f"photos={settings.photos}: is no folder; give that of the photos")
    check_folder_to_write("out", settings.out)


def check_folder_to_write(setting: str, value: str) -> None:
    """Refuse a folder that cannot be written to, before any work is done for it.

    Raises:
        InputError: Names what stands in the way.
    """
    if not value:
        raise InputError(f"{setting}=: give the name of a folder")
    folder = as_path(value).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{setting}={value}: {there} is a file; give the name of a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"{setting}={value}: {there} cannot be written to; give another folder")


def as_path(text: str) -> Path:
    """Return a path; shells leave ``name=~/folder`` as it is."""
    return Path(text).expanduser() if text.startswith("~/") else Path(text)
