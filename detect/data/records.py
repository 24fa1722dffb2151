"""The one record type that every data set reader returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detect.data.annotations import Annotations

if TYPE_CHECKING:  # scoring reads the same files, and is done before torch is loaded
    from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One image with its annotated objects.

    Attributes:
        name: The image's name in its data set, such as ``000017``: without suffix, and without
            folder where that leaves it unique.
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
    known = np.array([name in labels for name in annotations.classes], dtype=np.bool_)
    kept = [labels[name] for name in annotations.classes if name in labels]
    names = annotations.names
    return make_records(
        names,
        [None if photos is None else photos / f"{name}.jpg" for name in names],
        sizes=annotations.sizes,
        image_ids=image_ids,
        images=annotations.images[known],
        boxes=to_half_open(annotations.corners[known]),
        labels=np.array(kept, dtype=np.int64),
        difficult=annotations.difficult[known],
    )


def to_half_open(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-open boxes of 1-based inclusive corners, ``[M, 4]``."""
    return corners - [1.0, 1.0, 0.0, 0.0]


def make_records(
    names: Sequence[str],
    paths: Sequence[Path | None],
    *,
    sizes: NDArray[np.int64],
    image_ids: Iterable[int],
    images: NDArray[np.integer],
    boxes: NDArray[np.floating],
    labels: NDArray[np.int64],
    difficult: NDArray[np.bool_],
) -> list[Record]:
    """Make a record of each image from columns.

    Args:
        names: Of the images, ``[I]``.
        paths: Of their photos, ``[I]``.
        sizes: Width and height, ``[I, 2]``.
        image_ids: Their numbers in results files, ``[I]``.
        images: Position of each object's image, ascending, ``[M]``.
        boxes: Half-open ``xyxy``, ``[M, 4]``.
        labels: ``[M]``.
        difficult: ``[M]``.
    """
    import torch

    counts = np.bincount(images, minlength=len(names)).tolist()
    columns = zip(
        names,
        paths,
        sizes.tolist(),
        torch.from_numpy(boxes).float().split(counts),
        torch.from_numpy(labels).split(counts),
        torch.from_numpy(difficult).split(counts),
        image_ids,
        strict=True,
    )
    return [
        Record(
            name=name,
            path=path,
            width=width,
            height=height,
            boxes=own,
            labels=classes,
            difficult=hard,
            image_id=image_id,
        )
        for name, path, (width, height), own, classes, hard, image_id in columns
    ]
