"""Settings of tools/reproduce.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detect.config import register

TABLES = ("architecture", "network", "classification", "proposals", "detection")


@dataclass
class ReproduceConfig:
    """Settings of tools/reproduce.py.

    Raises:
        ValueError: If there is no such table.
    """

    table: str = "all"  # architecture, network, classification, proposals, detection or all
    data: Any = None  # voc with data.root=VOC2007 data.split=val: for proposals and detection
    imagenet: str | None = None  # folder as data=imagefolder of tools/classify.py takes it
    weights: str | None = None  # GoogLeNets for classification, with commas between
    checkpoints: list[str] = field(default_factory=list)  # detectors; by default the bundled one
    multibox: str | None = None  # file of tools/train_multibox.py, to join the paper's proposals
    photos: int = 40  # of each data set, spread over it; 0: all
    out: str = "reproduce"  # folder of tables.md and tables.json

    def __post_init__(self) -> None:
        if self.table != "all" and self.table not in TABLES:
            raise ValueError(f"table={self.table}: choose all or one of {', '.join(TABLES)}")


register("reproduce", ReproduceConfig)
