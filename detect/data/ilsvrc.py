"""ILSVRC DET: image lists, class lists, the blacklist and XML annotations."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import scipy.io
import torch
from scipy.io.matlab import MatReadError

from detect.data.records import Record
from detect.data.sources import (
    InputError,
    XmlAnnotation,
    first_repeated,
    read_annotations,
    read_lines,
)

NUM_DET_CLASSES = 200
NOT_MATLAB = (  # what scipy raises for files that are cut off or of another kind
    MatReadError,
    NotImplementedError,
    LookupError,
    ValueError,
    TypeError,
    StopIteration,
    EOFError,
    zlib.error,
)


@dataclass(frozen=True)
class Synsets:
    """The classes, in the order of their ids: label 0 is the class with id 1.

    Attributes:
        wnids: WordNet ids, such as ``n02672831``, ``[C]``.
        names: Names, such as ``accordion``, ``[C]``.
    """

    wnids: tuple[str, ...]
    names: tuple[str, ...]

    def label_of(self) -> dict[str, int]:
        """Return each WordNet id's label."""
        return {wnid: label for label, wnid in enumerate(self.wnids)}


def read_ilsvrc(annotations: Path, image_list: Path, synsets: Synsets) -> list[Record]:
    """Read ILSVRC DET ground truth.

    Args:
        annotations: Folder or tar archive of ``NAME.xml``.
        image_list: Lines ``name id``.
        synsets: The classes.

    Returns:
        One record an image, in the order of the list; an image without objects has none.

    Raises:
        InputError: If a file is missing or malformed, or an object's class is not in ``synsets``.
    """
    image_ids = read_image_list(image_list)
    labels = synsets.label_of()
    return [
        _record(annotation, image_ids[annotation.name], labels, annotations)
        for annotation in read_annotations(annotations, list(image_ids))
    ]


def read_image_list(path: Path) -> dict[str, int]:
    """Read lines ``name id``; a name may hold spaces, ids are unique and start at 1.

    Raises:
        InputError: Names the line that is malformed or repeats a name or id.
    """
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, line in read_lines(path):
        parts = line.strip().rsplit(maxsplit=1)
        where = f"{path}, line {number}"
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise InputError(f"{where}: {line!r} is not 'name id'; write the id last, as a number")
        name, image_id = parts[0], int(parts[1])
        if image_id == 0:
            raise InputError(f"{where}: {name!r} has id 0; image ids are 1-based")
        if name in ids:
            raise InputError(f"{where}: names {name!r} a second time; keep one of the lines")
        if image_id in names:
            raise InputError(
                f"{where}: gives id {image_id} to {name!r} after {names[image_id]!r}; "
                "every image needs its own id"
            )
        ids[name], names[image_id] = image_id, name
    if not ids:
        raise InputError(f"{path}: names no image; write 'name id' lines")
    return ids


def read_synsets(path: Path) -> Synsets:
    """Read the classes from the devkit's meta_det.mat, or from text lines ``wnid id name``.

    Of meta_det.mat the first 200 synsets are the classes; the rest are their ancestors.

    Raises:
        InputError: If the file is malformed or the ids are not 1, 2, 3, ...
    """
    rows = _mat_rows(path) if path.suffix == ".mat" else _text_rows(path)
    rows.sort()
    if not rows or [row[0] for row in rows] != list(range(1, len(rows) + 1)):
        raise InputError(
            f"{path}: class ids must be 1, 2, 3, ... without gaps, found {[r[0] for r in rows]}"
        )
    synsets = Synsets(tuple(row[1] for row in rows), tuple(row[2] for row in rows))
    if (repeated := first_repeated(synsets.wnids)) is not None:
        raise InputError(f"{path}: lists {repeated!r} twice; keep one of them")
    return synsets


def read_blacklist(path: Path, synsets: Synsets) -> frozenset[tuple[int, int]]:
    """Read lines ``image_id wnid``: pairs that are not judged.

    Returns:
        Pairs ``(image_id, label)``, image ids from 1, labels from 0.

    Raises:
        InputError: Names the line that is malformed.
    """
    labels = synsets.label_of()
    pairs = set()
    for number, line in read_lines(path):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdecimal() or parts[1] not in labels:
            raise InputError(
                f"{path}, line {number}: {line!r} is not 'image_id wnid' with a listed class"
            )
        pairs.add((int(parts[0]), labels[parts[1]]))
    return frozenset(pairs)


def _record(
    annotation: XmlAnnotation, image_id: int, labels: dict[str, int], source: Path
) -> Record:
    names = [found.name for found in annotation.objects]
    unknown = next((name for name in names if name not in labels), None)
    if unknown is not None:
        raise InputError(
            f"{source}: {annotation.name}.xml holds an object {unknown!r}, which the class list "
            "does not name; give the class list that belongs to the annotations"
        )
    return Record(
        name=annotation.name,
        path=None,
        width=annotation.width,
        height=annotation.height,
        boxes=torch.tensor([f.box for f in annotation.objects], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([labels[name] for name in names], dtype=torch.int64),
        difficult=torch.zeros(len(names), dtype=torch.bool),
        image_id=image_id,
    )


def _text_rows(path: Path) -> list[tuple[int, str, str]]:
    rows = []
    for number, line in read_lines(path):
        parts = line.strip().split(maxsplit=2)
        if len(parts) != 3 or not parts[1].isdecimal():
            raise InputError(f"{path}, line {number}: {line!r} is not 'wnid id name'")
        rows.append((int(parts[1]), parts[0], parts[2]))
    return rows


def _mat_rows(path: Path) -> list[tuple[int, str, str]]:
    try:
        synsets = scipy.io.loadmat(str(path), squeeze_me=True)["synsets"][:NUM_DET_CLASSES]
        fields = synsets.dtype.names
        id_field = next(name for name in fields if name.endswith("_DET_ID"))
        return [(int(row[id_field]), str(row["WNID"]), str(row["name"])) for row in synsets]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give meta_det.mat") from error
    except NOT_MATLAB as error:
        raise InputError(f"{path}: not the devkit's meta_det.mat ({error!r})") from error
