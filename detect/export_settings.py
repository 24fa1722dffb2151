"""Settings of tools/export.py."""

from __future__ import annotations

from dataclasses import dataclass

from detect.config import MISSING, register


@dataclass
class ExportConfig:
    """Settings of tools/export.py."""

    out: str = MISSING  # folder of the ONNX files and detector.json
    checkpoint: str | None = None  # file made by tools/train.py; by default the bundled detector
    regions: str | None = None  # shared (trunk once an image) or crops; by default as trained
    opset: int | None = None  # version of ONNX's operators, 13 or more; by default 17


register("export", ExportConfig)
