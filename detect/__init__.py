"""GoogLeNet region classification: boxes to detections to files to mAP."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detect.detections import Detections
    from detect.detector import Detector

__all__ = ["Detections", "Detector"]


def __getattr__(name: str) -> Any:
    # Scoring needs neither the network nor torch, which takes longer to load than to score.
    if name == "Detector":
        # Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from detect.detector import Detector

        return Detector
    if name == "Detections":
        from detect.detections import Detections

        return Detections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
