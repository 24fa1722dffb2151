"""Annotations of VOC, ILSVRC and COCO in one form, before anything of it is checked."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.annotations import Annotations
from detect.data.coco_instances import Instances
from detect.data.photos import PhotoFolders
from detect.data.problems import Kind, Problems
from detect.data.records import to_half_open

BLACKLISTED = Kind("blacklisted", "is not judged on that image", "take it off the blacklist")


@dataclass(frozen=True)
class AnnotatedPhotos:
    """What the annotations of a data set say, before anything of it is checked.

    Attributes:
        source: What messages call the annotations.
        names: Of the images, each once, ``[I]``.
        paths: Of their photos, ``None`` where there is none, ``[I]``.
        image_ids: Their numbers in results files, ``[I]``.
        sizes: Width and height, 0 or less where they are not known, ``[I, 2]``.
        images: Position of each object's image, ascending, ``[M]``.
        classes: Names of the classes that objects are of, ``[F]``.
        labels: Index of each object's class among them, int64 ``[M]``.
        boxes: Half-open ``xyxy`` pixels, float64 ``[M, 4]``.
        difficult: Objects that count neither as object nor as background, bool ``[M]``.
    """

    source: str
    names: Sequence[str]
    paths: Sequence[Path | None]
    image_ids: Sequence[int]
    sizes: NDArray[np.int64]
    images: NDArray[np.integer]
    classes: Sequence[str]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]

    def describe(self, j: int) -> tuple[str, str]:
        """Return place and value of an object, for a message."""
        corners = ", ".join(f"{side:g}" for side in self.boxes[j].tolist())
        return self.names[self.images[j]], f"{self.classes[self.labels[j]]} at [{corners}]"


def from_xml(
    found: Annotations,
    classes: Sequence[str],
    source: str,
    paths: Sequence[Path | None],
    image_ids: Mapping[str, int],
) -> AnnotatedPhotos:
    """Put XML annotations whose objects are of these classes, ``[M]``, into the common form."""
    index = {name: label for label, name in enumerate(dict.fromkeys(classes))}
    return AnnotatedPhotos(
        source=source,
        names=found.names,
        paths=paths,
        image_ids=[image_ids[name] for name in found.names],
        sizes=found.sizes,
        images=found.images,
        classes=list(index),
        labels=np.array([index[name] for name in classes], dtype=np.int64),
        boxes=to_half_open(found.corners),
        difficult=found.difficult.copy(),
    )


def from_instances(
    found: Instances, categories: Sequence[str], source: str, folders: PhotoFolders
) -> AnnotatedPhotos:
    """Put COCO annotations into the common form, images in the order of the file."""
    order = np.argsort(found.positions)
    images: NDArray[np.intp] = found.positions[found.images]
    objects = np.argsort(images, kind="stable")
    files = [found.names[i] for i in order]
    names = _short_names(files)
    to_label = np.array([categories.index(name) for name in found.class_names], dtype=np.int64)
    boxes = found.boxes[objects]  # a copy
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    return AnnotatedPhotos(
        source=source,
        names=[names[file] for file in files],
        paths=[folders.with_name(file) for file in files],
        image_ids=found.image_ids[order].tolist(),
        sizes=found.sizes[order],
        images=images[objects],
        classes=categories,
        labels=to_label[found.labels[objects]],
        boxes=boxes,
        difficult=found.crowd[objects],
    )


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Name each file by its stem, with its folders or even whole where that would not be unique."""
    distinct = list(dict.fromkeys(files))
    whole = [os.path.splitext(file)[0] for file in distinct]
    for names in ([name.rpartition("/")[2] for name in whole], whole):
        if len(set(names)) == len(distinct):
            return dict(zip(distinct, names, strict=True))
    return {file: file for file in distinct}


def mark_blacklisted(
    table: AnnotatedPhotos, pairs: Collection[tuple[int, int]], names: Sequence[str]
) -> list[str]:
    """Mark objects of pairs ``(image id, index of the name)`` difficult; tell how many."""
    wanted = {(image_id, names[label]) for image_id, label in pairs}
    ids = [table.image_ids[i] for i in table.images.tolist()]
    classes = [table.classes[label] for label in table.labels.tolist()]
    listed = np.array([pair in wanted for pair in zip(ids, classes, strict=True)], dtype=np.bool_)
    table.difficult[listed] = True
    marked = Problems(table.source, {BLACKLISTED.name}, verb="marked difficult")
    marked.add_rows(BLACKLISTED, listed, table.describe)
    return marked.notes()
