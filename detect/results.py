"""Detections as files: COCO, ILSVRC and VOC results, and the lists beside them.

Every format is one pair of functions, and its conventions (``xywh``, 1-based corners, category
ids) stay inside that pair. Coordinates are printed with two decimals (a hundredth of a pixel);
scores with the fewest digits that give the same float32 back, so that no order is lost. The formats
do not name photos without detections: neither do the dictionaries that the readers return.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detect.data.voc import VOC_PREFIX, voc_file_names
from detect.detections import Detections
from detect.files import numbered_lines, write_atomically

_TOLD = 5  # skipped photos that a summary names
Row = tuple[float, float, float, float, str, int]  # half-open x1, y1, x2, y2, score, label


@dataclass(frozen=True)
class ImageResult:
    """What was found on one photo.

    Attributes:
        name: Unique in its run: a relative path, ``holiday/a b.jpg``, or a frame, ``a.mp4#000012``.
        width: Pixels of the photo.
        height: Pixels of the photo.
        detections: What was found, in the photo's pixels, best first.
    """

    name: str
    width: int
    height: int
    detections: Detections


def write_results(out: Path, results: Sequence[ImageResult], class_names: Sequence[str]) -> None:
    """Write a run's results in every format, each file atomically.

    The files are ``detections.json`` (COCO), ``categories.json``, ``detections.txt`` (ILSVRC),
    ``images.txt`` and ``voc/``. A photo's id is its position + 1.

    Raises:
        ValueError: If two photos share a name, a label has no class, or a number is not finite.
    """
    for result in results:
        labels = result.detections.labels
        if len(labels) and int(labels.max()) >= len(class_names):
            raise ValueError(f"{result.name}: label {int(labels.max())} has no class name")
    names = list_names([result.name for result in results])
    by_id = {i: result.detections for i, result in enumerate(results, start=1)}
    by_name = {name: result.detections for name, result in zip(names, results, strict=True)}
    write_coco(out / "detections.json", by_id)
    write_categories(out / "categories.json", class_names)
    write_ilsvrc(out / "detections.txt", by_id)
    write_image_list(out / "images.txt", names)
    write_voc(out / "voc", by_name, class_names)


def write_coco(path: Path, detections: Mapping[int, Detections]) -> None:
    """Write COCO results: ``xywh`` boxes, two decimals, exact scores, category id = label + 1.

    Width and height are differences of the rounded corners: both corners come back as rounded.
    """
    lines = []
    for image_id, found in detections.items():
        for x1, y1, x2, y2, score, label in _rows(found, image_id):
            bbox = f"[{x1!r}, {y1!r}, {round(x2 - x1, 2)!r}, {round(y2 - y1, 2)!r}]"
            lines.append(
                f'{{"image_id": {image_id}, "category_id": {label + 1}, "bbox": {bbox}, '
                f'"score": {score}}}'
            )
    write_atomically(path, "[" + ",\n".join(lines) + "]\n")


def read_coco(path: Path, class_names: Sequence[str] = ()) -> dict[int, Detections]:
    """Read COCO results, the inverse of ``write_coco``.

    Raises:
        ValueError: If the file is no list of COCO results; names the entry.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError(f"{path}: COCO results are a list, not a {type(entries).__name__}")
    rows: dict[int, list[list[float]]] = {}
    for i, entry in enumerate(entries):
        try:
            x, y, width, height = entry["bbox"]
            row = [x, y, round(x + width, 2), round(y + height, 2), entry["score"]]
            rows.setdefault(int(entry["image_id"]), []).append([*row, entry["category_id"] - 1])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, entry {i}: not a COCO result ({error!r})") from error
    return {image_id: _detections(found, class_names, path) for image_id, found in rows.items()}


def write_categories(path: Path, class_names: Sequence[str]) -> None:
    """Write the classes as COCO categories, ids from 1, one a line."""
    lines = [json.dumps({"id": i, "name": name}) for i, name in enumerate(class_names, start=1)]
    write_atomically(path, "[" + ",\n".join(lines) + "]\n")


def read_categories(path: Path) -> tuple[str, ...]:
    """Read class names in the order of their ids, the inverse of ``write_categories``.

    Raises:
        ValueError: If the ids are not 1, 2, 3, ...
    """
    entries = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda entry: entry["id"])
    if [entry["id"] for entry in entries] != list(range(1, len(entries) + 1)):
        raise ValueError(f"{path}: category ids must be 1, 2, 3, ... without gaps")
    return tuple(entry["name"] for entry in entries)


def write_ilsvrc(path: Path, detections: Mapping[int, Detections]) -> None:
    """Write ``image_id class_id score xmin ymin xmax ymax``, 1-based inclusive, two decimals."""
    lines = (
        f"{image_id} {label + 1} {score} {x1 + 1:.2f} {y1 + 1:.2f} {x2:.2f} {y2:.2f}\n"
        for image_id, found in detections.items()
        for x1, y1, x2, y2, score, label in _rows(found, image_id)
    )
    write_atomically(path, "".join(lines))


def read_ilsvrc(path: Path, class_names: Sequence[str] = ()) -> dict[int, Detections]:
    """Read ILSVRC results, the inverse of ``write_ilsvrc``.

    Raises:
        ValueError: If a line does not hold seven numbers; names the line.
    """
    rows: dict[int, list[list[float]]] = {}
    for number, line in numbered_lines(path):
        try:
            image_id, class_id, *numbers = line.split()
            row = _corners(numbers)
            rows.setdefault(int(image_id), []).append([*row, int(class_id) - 1])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not an ILSVRC result ({error})") from error
    return {image_id: _detections(found, class_names, path) for image_id, found in rows.items()}


def list_names(names: Sequence[str]) -> list[str]:
    """Shorten photo names as data sets do: without the suffix where that stays unambiguous.

    Line breaks, which file names may hold and lines may not, become the visible signs for them.

    Raises:
        ValueError: If two photos have the same name.
    """
    names = [name.replace("\n", "\u240a").replace("\r", "\u240d") for name in names]
    stems = [re.sub(r"(?<=[^/])\.[A-Za-z0-9]+$", "", name) for name in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"two photos have the name {repeated[0]!r}")
    counts, taken = Counter(stems), set(names)
    return [
        stem if counts[stem] == 1 and stem not in taken else name
        for name, stem in zip(names, stems, strict=True)
    ]


def write_image_list(path: Path, names: Sequence[str]) -> None:
    """Write ``name id`` lines, ids from 1, names as ``list_names`` gives them."""
    write_atomically(path, "".join(f"{name} {i}\n" for i, name in enumerate(names, start=1)))


def read_image_list(path: Path) -> dict[str, int]:
    """Read ``name id`` lines; a name may hold spaces.

    Raises:
        ValueError: If a line holds no id; names the line.
    """
    ids = {}
    for number, line in numbered_lines(path):
        name, separator, image_id = line.rpartition(" ")
        if not separator or not image_id.isdecimal():
            raise ValueError(f"{path}, line {number}: expected 'name id', found {line!r}")
        ids[name] = int(image_id)
    return ids


def write_voc(
    folder: Path, detections: Mapping[str, Detections], class_names: Sequence[str]
) -> None:
    """Write a file a class, ``name score xmin ymin xmax ymax``, 1-based inclusive, two decimals.

    A class without detections has an empty file. Files of classes that no longer exist are removed,
    or a scorer would count an earlier run's detections.
    """
    lines: list[list[str]] = [[] for _ in class_names]
    for name, found in detections.items():
        for x1, y1, x2, y2, score, label in _rows(found, name):
            lines[label].append(f"{name} {score} {x1 + 1:.2f} {y1 + 1:.2f} {x2:.2f} {y2:.2f}\n")
    files = voc_file_names(class_names)
    for file, of_class in zip(files, lines, strict=True):
        write_atomically(folder / file, "".join(of_class))
    for stale in {path.name for path in folder.glob(f"{VOC_PREFIX}*.txt")} - set(files):
        (folder / stale).unlink()


def read_voc(folder: Path, class_names: Sequence[str]) -> dict[str, Detections]:
    """Read a folder of VOC files, the inverse of ``write_voc``; each photo's best come first.

    Raises:
        FileNotFoundError: If the file of a class is missing.
        ValueError: If a line does not hold a name and five numbers; names the line.
    """
    rows: dict[str, list[list[float]]] = {}
    for label, file in enumerate(voc_file_names(class_names)):
        for number, line in numbered_lines(folder / file):
            try:
                name, *numbers = line.rsplit(" ", 5)
                rows.setdefault(name, []).append([*_corners(numbers), label])
            except ValueError as error:
                raise ValueError(f"{folder / file}, line {number}: {error}") from error
    for found in rows.values():
        found.sort(key=lambda row: -row[4])
    return {name: _detections(found, class_names, folder) for name, found in rows.items()}


def write_skipped(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write a table of the photos that could not be read: image, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "reason"))
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def tell_skipped(rows: Sequence[tuple[str, str]], where: object) -> list[str]:
    """Return lines about the first photos that could not be read; all are in the file ``where``."""
    lines = [f"  skipped {name}: {reason}" for name, reason in rows[:_TOLD]]
    more = len(rows) - _TOLD
    return [*lines, f"  and {more} more, see {where}"] if more > 0 else lines


def read_skipped(path: Path) -> list[tuple[str, str]]:
    """Read the table of skipped photos, the inverse of ``write_skipped``."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(image, reason) for image, reason in list(csv.reader(file))[1:]]


def exact_texts(values: torch.Tensor) -> list[str]:
    """Print each float32 with the fewest digits that give it back, ``[...]`` -> flat list."""
    return [str(value) for value in values.detach().cpu().float().numpy().ravel()]


def check_finite(detections: Detections, image: int | str) -> None:
    """Refuse boxes and scores that are not finite: no format can hold them.

    Raises:
        ValueError: Names the image.
    """
    if not (detections.boxes.isfinite().all() and detections.scores.isfinite().all()):
        raise ValueError(f"image {image}: a box or score is not a finite number")


def _rows(detections: Detections, image: int | str) -> list[Row]:
    """Return printable numbers, one row a detection."""
    check_finite(detections, image)
    boxes = detections.boxes.detach().cpu().numpy().astype(np.float64)
    boxes = np.round(boxes, 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    labels = detections.labels.tolist()
    texts = exact_texts(detections.scores)
    rows = zip(boxes.tolist(), texts, labels, strict=True)
    return [(x1, y1, x2, y2, score, label) for (x1, y1, x2, y2), score, label in rows]


def _corners(numbers: Sequence[str]) -> list[float]:
    """Parse ``score xmin ymin xmax ymax``, 1-based inclusive, into half-open corners and score."""
    score, xmin, ymin, xmax, ymax = (float(number) for number in numbers)
    return [round(xmin - 1, 2), round(ymin - 1, 2), xmax, ymax, score]


def _detections(rows: list[list[float]], class_names: Sequence[str], path: Path) -> Detections:
    """Build detections from rows ``x1 y1 x2 y2 score label``."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    labels = table[:, 5].long()
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{path}: class ids start at 1, found {int(labels.min()) + 1}")
    try:
        return Detections(table[:, :4].float(), table[:, 4].float(), labels, tuple(class_names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
