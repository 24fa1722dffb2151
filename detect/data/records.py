"""The one record type that every data set reader returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detect.data.annotations import Annotations

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


def to_records(
    annotations: Annotations,
    labels: Mapping[str, int],
    image_ids: Iterable[int],
    photos: Path | None = None,
) -> list[Record]:
    """Make a record of each image's annotation.

    Args:
        annotations: Of the images.
        labels: Label of each class; objects of other classes are left out.
        image_ids: Number of each image in results files, ``[I]``.
        photos: Folder of ``NAME.jpg``; the records have no path without it.
    """
    import torch

    known = np.array([name in labels for name in annotations.classes], dtype=np.bool_)
    kept = [labels[name] for name in annotations.classes if name in labels]
    half_open = annotations.corners[known] - [1.0, 1.0, 0.0, 0.0]
    counts = np.bincount(annotations.images[known], minlength=len(annotations.names)).tolist()
    columns = zip(
        annotations.names,
        annotations.sizes.tolist(),
        torch.from_numpy(half_open).float().split(counts),
        torch.tensor(kept, dtype=torch.int64).split(counts),
        torch.from_numpy(annotations.difficult[known]).split(counts),
        image_ids,
        strict=True,
    )
    return [
        Record(
            name=name,
            path=None if photos is None else photos / f"{name}.jpg",
            width=width,
            height=height,
            boxes=boxes,
            labels=classes,
            difficult=difficult,
            image_id=image_id,
        )
        for name, (width, height), boxes, classes, difficult, image_id in columns
    ]
