"""Small data sets on disk, laid out as VOC, COCO and ILSVRC are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # half-open xyxy
Objects = Sequence[tuple[str, Box]]


def write_photo(path: Path, width: int = 100, height: int = 80, **options: Any) -> Path:
    """Write a photo with a bright square at 10, 20, 50, 60."""
    pixels = np.random.default_rng(0).integers(0, 70, (height, width, 3), np.uint8)
    pixels[20:60, 10:50] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_xml(path: Path, objects: Objects, head: str | None = None, extra: str = "") -> None:
    """Write an annotation; by default it gives the size of ``write_photo``'s photos."""
    if head is None:
        head = "<size><width>100</width><height>80</height></size>"
    text = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{head}{text}</annotation>", encoding="utf-8")


def write_voc(root: Path, photos: Mapping[str, Objects], split: str = "train") -> Path:
    """Write a VOC tree with one list."""
    for name, objects in photos.items():
        write_photo(root / "JPEGImages" / f"{name}.jpg")
        write_xml(root / "Annotations" / f"{name}.xml", objects)
    write_list(root / "ImageSets" / "Main" / f"{split}.txt", list(photos))
    return root


def write_coco(root: Path, photos: Mapping[str, Objects], split: str = "train2017") -> Path:
    """Write a COCO tree; category ids descend from 90 in the order in which classes occur."""
    names = list(dict.fromkeys(name for objects in photos.values() for name, _ in objects))
    truth = {
        "images": [
            {"id": 10 + i, "file_name": f"{name}.jpg", "width": 100, "height": 80}
            for i, name in enumerate(photos)
        ],
        "categories": [{"id": 90 - k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {
                "image_id": 10 + i,
                "category_id": 90 - names.index(name),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for i, objects in enumerate(photos.values())
            for name, (x1, y1, x2, y2) in objects
        ],
    }
    for name in photos:
        write_photo(root / split / f"{name}.jpg")
    (root / "annotations").mkdir()
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    return root


def write_ilsvrc(root: Path, photos: Mapping[str, Objects], split: str = "train") -> Path:
    """Write a DET tree whose classes, in the order in which they occur, are n01, n02, ..."""
    names = list(dict.fromkeys(name for objects in photos.values() for name, _ in objects))
    wnids = {name: f"n{number:02}" for number, name in enumerate(names, start=1)}
    for name, objects in photos.items():
        write_photo(root / "Data/DET" / split / f"{name}.JPEG")
        annotation = root / "Annotations/DET" / split / f"{name}.xml"
        write_xml(annotation, [(wnids[kind], box) for kind, box in objects])
    numbered = [f"{name} {number}" for number, name in enumerate(photos, start=1)]
    write_list(root / f"ImageSets/DET/{split}.txt", numbered)
    classes = [f"{wnid} {number} {name}" for number, (name, wnid) in enumerate(wnids.items(), 1)]
    write_list(root / "devkit/data/map_det.txt", classes)
    return root


def write_list(path: Path, lines: Sequence[str]) -> Path:
    """Write a text file of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
