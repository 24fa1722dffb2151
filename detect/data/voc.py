"""PASCAL VOC: photos, image lists and XML annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detect.data.records import Record
from detect.data.sources import (
    InputError,
    XmlAnnotation,
    first_repeated,
    read_annotations,
    read_lines,
)

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def read_voc(
    root: str | Path, split: str, class_names: Sequence[str] = VOC_CLASSES
) -> list[Record]:
    """Read one list of a VOC data set.

    Args:
        root: Folder that holds JPEGImages, Annotations and ImageSets/Main, such as VOC2007.
        split: Name of the list in ImageSets/Main, such as ``train``.
        class_names: Objects of other classes are left out.

    Returns:
        One record an image, in the order of the list.

    Raises:
        InputError: If a list or annotation is missing or malformed, or no object is of any class.
    """
    root = Path(root)
    image_list = root / "ImageSets" / "Main" / f"{split}.txt"
    return read_voc_annotations(
        root / "Annotations", image_list, class_names, photos=root / "JPEGImages"
    )


def read_voc_annotations(
    annotations: Path,
    image_list: Path,
    class_names: Sequence[str] = VOC_CLASSES,
    photos: Path | None = None,
) -> list[Record]:
    """Read VOC ground truth from wherever it lies.

    Args:
        annotations: Folder or tar archive of ``NAME.xml``.
        image_list: Text file, the name of one image a line.
        class_names: Objects of other classes are left out.
        photos: Folder of ``NAME.jpg``; the records have no path without it.

    Returns:
        One record an image, in the order of the list, image ids from 1.

    Raises:
        InputError: If a file is missing or malformed, or no object is of any class.
    """
    names = [line.strip() for _, line in read_lines(image_list)]
    if not names:
        raise InputError(f"{image_list}: names no image; write the name of one image a line")
    if (repeated := first_repeated(names)) is not None:
        raise InputError(f"{image_list}: names {repeated!r} twice; keep one of the lines")
    labels = {name: label for label, name in enumerate(class_names)}
    records = [
        _record(annotation, image_id, labels, photos)
        for image_id, annotation in enumerate(read_annotations(annotations, names), start=1)
    ]
    if not any(len(record.labels) for record in records):
        raise InputError(
            f"{annotations}: no object of any class ({', '.join(class_names)}) on the "
            f"{len(names)} images of {image_list}; are these the right classes?"
        )
    return records


def read_voc_classes(path: Path) -> tuple[str, ...]:
    """Read a list of class names, one a line.

    Raises:
        InputError: If the list is empty or names a class twice.
    """
    names = tuple(line.strip() for _, line in read_lines(path))
    if not names:
        raise InputError(f"{path}: names no class; write one class name a line")
    if (repeated := first_repeated(names)) is not None:
        raise InputError(f"{path}: names the class {repeated!r} twice; keep one of the lines")
    return names


def _record(
    annotation: XmlAnnotation, image_id: int, labels: dict[str, int], photos: Path | None
) -> Record:
    objects = [found for found in annotation.objects if found.name in labels]
    return Record(
        name=annotation.name,
        path=None if photos is None else photos / f"{annotation.name}.jpg",
        width=annotation.width,
        height=annotation.height,
        boxes=torch.tensor([found.box for found in objects], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([labels[found.name] for found in objects], dtype=torch.int64),
        difficult=torch.tensor([found.difficult for found in objects], dtype=torch.bool),
        image_id=image_id,
    )
