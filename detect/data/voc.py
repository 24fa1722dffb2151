"""PASCAL VOC: photos, image lists and XML annotations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detect.data.annotations import read_annotations
from detect.data.problems import InputError, Kind, Problems
from detect.data.records import Record, to_records
from detect.data.sources import first_repeated, read_lines

REPEATED = Kind("repeated_name", "is listed a second time", "keep one of the lines")
VOC_PREFIX = "comp4_det_test_"

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
    names = read_voc_list(image_list)
    labels = {name: label for label, name in enumerate(class_names)}
    found = read_annotations(annotations, names)
    records = to_records(found, labels, range(1, len(names) + 1), photos)
    if not any(len(record.labels) for record in records):
        raise InputError(
            f"{annotations}: no object of any class ({', '.join(class_names)}) on the "
            f"{len(names)} images of {image_list}; are these the right classes?"
        )
    return records


def voc_file_names(class_names: Sequence[str]) -> list[str]:
    """Return each class's results file, safe on every file system and unique without case."""
    files: dict[str, str] = {}  # by name without case: some file systems know no difference
    for label, name in enumerate(class_names):
        safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|%]', lambda sign: f"%{ord(sign[0]):02X}", name)
        safe = safe.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
        if safe.casefold() in files:
            safe += f"%{label + 1}"
        files[safe.casefold()] = f"{VOC_PREFIX}{safe}.txt"
    return list(files.values())


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


def read_voc_list(path: Path) -> list[str]:
    """Read an image list, the name of one image a line.

    Raises:
        InputError: If the list is empty; names the lines that repeat a name.
    """
    problems = Problems(str(path))
    names: dict[str, int] = {}
    for number, line in read_lines(path):
        name = line.strip()
        if name in names:
            problems.add(REPEATED, f"line {number}", repr(name))
        names.setdefault(name, number)
    problems.raise_if_any()
    if not names:
        raise InputError(f"{path}: names no image; write the name of one image a line")
    return list(names)
