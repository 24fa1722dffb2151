"""The one record type that every data set reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detect.data.sources import XmlObject

if TYPE_CHECKING:  # scoring reads the same files, and is done before torch is loaded
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


def object_tensors(
    objects: list[XmlObject], labels: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes ``[N, 4]``, labels ``[N]`` and difficult flags ``[N]`` of objects.

    Args:
        objects: As an annotation file has them.
        labels: Label of each class; objects of other classes are left out.
    """
    import torch

    known = [found for found in objects if found.name in labels]
    corners = torch.tensor([found.corners for found in known], dtype=torch.float64)
    half_open = corners.reshape(-1, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0])
    return (
        half_open.float(),
        torch.tensor([labels[found.name] for found in known], dtype=torch.int64),
        torch.tensor([found.difficult for found in known], dtype=torch.bool),
    )
