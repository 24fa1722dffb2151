"""A detector that has not seen VOC2007 val, to measure on it: the bundled one learned from val too.

benchmarks/weights/README.md says how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
TRAIN_CHECKPOINT = WEIGHTS / "voc2007_train.safetensors"
TRAIN_MULTIBOX = WEIGHTS / "voc2007_train_multibox.safetensors"


def with_unseen(settings: Sequence[str]) -> list[str]:
    """Add the detector to settings of tools/detect.py that name none, and its MultiBox to it."""
    chosen, unseen = list(settings), f"checkpoint={TRAIN_CHECKPOINT}"
    if not any(setting.startswith("checkpoint=") for setting in settings):
        chosen.append(unseen)
    if unseen in chosen and not any(setting.startswith("multibox=") for setting in settings):
        chosen.append(f"multibox={TRAIN_MULTIBOX}")
    return chosen
