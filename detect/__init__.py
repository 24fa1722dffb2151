"""GoogLeNet region classification: boxes to detections to files to mAP."""

from typing import TYPE_CHECKING, Any

from detect.detections import Detections

if TYPE_CHECKING:
    from detect.detector import Detector

__all__ = ["Detections", "Detector"]


def __getattr__(name: str) -> Any:
    # Scoring and reading results need neither the network nor compiled proposals.
    if name == "Detector":
        from detect.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
