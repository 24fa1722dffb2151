"""Official scoring protocols; never sees an image or a network.

From arrays in memory, without any file::

    truth = GroundTruth.from_boxes(images=[0, 1], labels=[0, 0], boxes=..., num_images=2)
    found = ScoredBoxes.from_boxes(images=[0], labels=[0], scores=[0.9], boxes=...)
    score_voc(found, truth, ["cat"]).mean_ap
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detect.scoring.bootstrap import bootstrap_differences, bootstrap_intervals
    from detect.scoring.coco import score_coco
    from detect.scoring.errors import analyse_errors
    from detect.scoring.ilsvrc import score_ilsvrc
    from detect.scoring.scores import Scores, format_table
    from detect.scoring.tables import GroundTruth, ScoredBoxes
    from detect.scoring.voc import score_voc

_HOMES = {
    "GroundTruth": "tables",
    "ScoredBoxes": "tables",
    "Scores": "scores",
    "analyse_errors": "errors",
    "bootstrap_intervals": "bootstrap",
    "bootstrap_differences": "bootstrap",
    "format_table": "scores",
    "score_coco": "coco",
    "score_ilsvrc": "ilsvrc",
    "score_voc": "voc",
}
__all__ = [
    "GroundTruth",
    "ScoredBoxes",
    "Scores",
    "analyse_errors",
    "bootstrap_differences",
    "bootstrap_intervals",
    "format_table",
    "score_coco",
    "score_ilsvrc",
    "score_voc",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # each when it is asked for: one format needs not what others need
        return getattr(import_module(f"detect.scoring.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
