"""Settings of tools/score.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from detect.config import MISSING, register


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
