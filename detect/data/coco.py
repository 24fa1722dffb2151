"""COCO: photos and annotations of an ``instances`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from detect.data.records import Record
from detect.data.sources import InputError, first_repeated, read_json


def read_coco(
    annotations: Path, image_root: Path | None = None
) -> tuple[list[Record], tuple[str, ...]]:
    """Read a COCO ground truth.

    A record's name is the stem of the file name. Crowds become difficult objects; boxes without
    any area are left out. Labels follow the order of the category ids, which need not be dense.

    Args:
        annotations: An ``instances`` file, plain, .gz or .xz.
        image_root: Folder of the photos; the records have no path without it.

    Returns:
        One record an image, in the order of the file, and the class names ``[C]``.

    Raises:
        InputError: If the file is malformed.
    """
    truth = read_instances(annotations)
    categories = sorted(truth["categories"], key=lambda category: int(category["id"]))
    labels = {category["id"]: label for label, category in enumerate(categories)}
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    records = [
        _record(image, by_image[image["id"]], labels, image_root) for image in truth["images"]
    ]
    return records, tuple(category["name"] for category in categories)


def read_instances(path: Path) -> dict[str, Any]:
    """Read an ``instances`` file and check what pycocotools does not.

    Raises:
        InputError: Names the entry that is malformed.
    """
    truth = read_json(path)
    check_instances(truth, str(path))
    return dict(truth)


def check_instances(truth: Any, where: str) -> None:
    """Check a ground truth: ids whole, unique and known, boxes finite and not inverted.

    Args:
        truth: What an ``instances`` file holds.
        where: What an error message calls it.

    Raises:
        InputError: Names the entry that is malformed.
    """
    if not isinstance(truth, dict):
        raise InputError(f"{where}: holds a {type(truth).__name__}, not COCO ground truth")
    for key in ("images", "annotations", "categories"):
        entries = truth.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"{where}: has no list {key!r}; give the instances file of a data set")
    for key, text in (("images", "file_name"), ("categories", "name")):
        for i, entry in enumerate(truth[key]):
            if type(entry.get("id")) is not int or not isinstance(entry.get(text), str):
                raise InputError(
                    f"{where}, {key}[{i}]: id {entry.get('id')!r} and {text} {entry.get(text)!r} "
                    "must be a whole number and a text"
                )
        if (repeated := first_repeated(entry["id"] for entry in truth[key])) is not None:
            raise InputError(f"{where}: the id {repeated} occurs twice in {key!r}; make it unique")
    _check_annotations(truth, where)


def is_box(bbox: object) -> bool:
    """Tell whether a value is ``[x, y, width, height]``, finite and not negative in size."""
    return (
        isinstance(bbox, Sequence)
        and len(bbox) == 4
        and all(isinstance(number, int | float) for number in bbox)
        and bool(np.isfinite(bbox).all())
        and bbox[2] >= 0
        and bbox[3] >= 0
    )


def _check_annotations(truth: Mapping[str, Any], where: str) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for i, annotation in enumerate(truth["annotations"]):
        entry = f"{where}, annotations[{i}]"
        for key, known in (("image_id", images), ("category_id", categories)):
            value = annotation.get(key)
            if type(value) is not int or value not in known:
                raise InputError(f"{entry}: {key} {value!r} is not listed; add it or correct it")
        if not is_box(annotation.get("bbox")):
            raise InputError(
                f"{entry}: bbox {annotation.get('bbox')!r} is not [x, y, width, height]"
            )


def _record(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    image_root: Path | None,
) -> Record:
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    boxes = boxes.float()
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    found = torch.tensor([labels[a["category_id"]] for a in annotations], dtype=torch.int64)
    crowd = torch.tensor([bool(a.get("iscrowd", 0)) for a in annotations], dtype=torch.bool)
    return Record(
        name=PurePosixPath(image["file_name"]).stem,
        path=None if image_root is None else image_root / image["file_name"],
        width=int(image.get("width", 0)),
        height=int(image.get("height", 0)),
        boxes=boxes[keep],
        labels=found[keep],
        difficult=crowd[keep],
        image_id=image["id"],
    )
