"""The one record type that every data set reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One image with its annotated objects.

    Attributes:
        name: The image's name in its data set, without folder and suffix, such as ``000017``.
        path: Where the photo lies; ``None`` where only annotations are at hand.
        width: Pixels; 0 where the annotation does not say.
        height: Pixels; 0 where the annotation does not say.
        boxes: Ground-truth objects, half-open ``xyxy`` pixels, float32 ``[N, 4]``.
        labels: Their classes from 0, int64 ``[N]``.
        difficult: Objects that count neither as found nor as missed, bool ``[N]``.
        image_id: The number that results files use for the image, from 1.
    """

    name: str
    path: Path | None
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    image_id: int = 0
