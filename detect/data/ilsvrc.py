"""ILSVRC DET: image lists, class lists, the blacklist and XML annotations."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detect.data.annotations import Annotations, read_annotations
from detect.data.problems import InputError, Kind, Problems
from detect.data.records import Record, to_records
from detect.data.sources import first_repeated, read_lines

NUM_DET_CLASSES = 200
NUM_CLSLOC_CLASSES = 1000
NO_LIST_LINE = Kind("no_list_line", "is not 'name id'", "write the id last, as a number")
LARGEST_ID = 2**53  # that a float64 tells from its neighbours
TOO_LARGE = Kind("too_large", "is above 2^53", "number the images from 1")
ID_0 = Kind("id_0", "has id 0", "image ids are 1-based")
REPEATED_NAME = Kind("repeated_name", "is listed a second time", "keep one of the lines")
REPEATED_ID = Kind("repeated_id", "has that id too", "every image needs its own id")
UNKNOWN_OBJECT = Kind(
    "unknown_object",
    "is an object of a class that the class list does not name",
    "give the class list that belongs to the annotations",
)
NO_BLACKLIST_LINE = Kind(
    "no_blacklist_line", "is not 'image_id wnid' with a listed class", "correct or remove the line"
)
NO_CLASS_LINE = Kind("no_class_line", "is not 'wnid id name'", "write the line again")


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
    found = read_annotations(annotations, list(image_ids))
    check_classes(found, labels, annotations)
    return to_records(found, labels, image_ids.values())


def check_classes(annotations: Annotations, labels: dict[str, int], source: Path) -> None:
    """Check that every object is of a listed class.

    Raises:
        InputError: Names the first objects that are not.
    """
    problems = Problems(str(source))
    unknown = set(annotations.classes) - labels.keys()
    problems.add_rows(
        UNKNOWN_OBJECT,
        np.array([bool(unknown) and name in unknown for name in annotations.classes], np.bool_),
        lambda j: (
            f"{annotations.names[annotations.images[j]]}.xml",
            repr(annotations.classes[j]),
        ),
    )
    problems.raise_if_any()


def read_image_list(path: Path) -> dict[str, int]:
    """Read lines ``name id``; a name may hold spaces, ids are unique and start at 1.

    Raises:
        InputError: Names the lines that are malformed or repeat a name or id.
    """
    problems = Problems(str(path))
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, line in read_lines(path):
        parts = line.strip().rsplit(maxsplit=1)
        where = f"line {number}"
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit()):
            problems.add(NO_LIST_LINE, where, repr(line))
            continue
        name, image_id = parts[0], int(parts[1])
        if image_id == 0:
            problems.add(ID_0, where, repr(name))
        elif image_id > LARGEST_ID:
            problems.add(TOO_LARGE, where, f"id {image_id}")
        elif name in ids:
            problems.add(REPEATED_NAME, where, repr(name))
        elif image_id in names:
            problems.add(REPEATED_ID, where, f"{name!r}, id {image_id}: {names[image_id]!r}")
        else:
            ids[name], names[image_id] = image_id, name
    problems.raise_if_any()
    if not ids:
        raise InputError(f"{path}: names no image; write 'name id' lines")
    return ids


def read_synsets(path: Path) -> Synsets:
    """Read the classes of DET from the devkit's meta_det.mat, or from lines ``wnid id name``.

    Of meta_det.mat the synsets with ids up to 200 are the classes; the rest are their ancestors.

    Raises:
        InputError: If the file is malformed or the ids are not 1, 2, 3, ...
    """
    if path.suffix == ".mat":
        return _synsets(path, _mat_rows(path, "meta_det.mat", r"ILSVRC\d+_DET_ID", NUM_DET_CLASSES))
    return _synsets(path, _text_rows(path))


def read_clsloc_synsets(path: Path) -> Synsets:
    """Read the classes of CLS-LOC from the devkit's meta_clsloc.mat, or from text lines.

    Of meta_clsloc.mat (or meta.mat of 2012) the synsets with ids up to 1000 are the classes; they
    need not come first.

    Raises:
        InputError: As ``read_synsets``.
    """
    if path.suffix == ".mat":
        rows = _mat_rows(path, "meta_clsloc.mat", r"ILSVRC\d+_ID", NUM_CLSLOC_CLASSES)
        return _synsets(path, rows)
    return _synsets(path, _text_rows(path))


def read_blacklist(path: Path, synsets: Synsets) -> frozenset[tuple[int, int]]:
    """Read lines ``image_id wnid``: pairs that are not judged.

    Returns:
        Pairs ``(image_id, label)``, image ids from 1, labels from 0.

    Raises:
        InputError: Names the line that is malformed.
    """
    labels = synsets.label_of()
    problems = Problems(str(path))
    pairs = set()
    for number, line in read_lines(path):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdecimal() or parts[1] not in labels:
            problems.add(NO_BLACKLIST_LINE, f"line {number}", repr(line))
        else:
            pairs.add((int(parts[0]), labels[parts[1]]))
    problems.raise_if_any()
    return frozenset(pairs)


def _text_rows(path: Path) -> list[tuple[int, str, str]]:
    problems = Problems(str(path))
    rows = []
    for number, line in read_lines(path):
        parts = line.strip().split(maxsplit=2)
        if len(parts) != 3 or not parts[1].isdecimal():
            problems.add(NO_CLASS_LINE, f"line {number}", repr(line))
        else:
            rows.append((int(parts[1]), parts[0], parts[2]))
    problems.raise_if_any()
    return rows


def _mat_rows(path: Path, file: str, id_field: str, last: int) -> list[tuple[int, str, str]]:
    """Return id, WordNet id and name of the synsets up to an id."""
    import scipy.io  # takes a fifth of a second, and is for this file alone
    from scipy.io.matlab import MatReadError

    cut_off = NotImplementedError, LookupError, ValueError, TypeError, EOFError, zlib.error
    try:
        synsets = np.atleast_1d(scipy.io.loadmat(str(path), squeeze_me=True)["synsets"])
        fields = synsets.dtype.names or ()
        field = next(name for name in fields if re.fullmatch(id_field, name))
        name = next(name for name in ("name", "words") if name in fields)
        return [
            (int(row[field]), str(row["WNID"]), str(row[name]))
            for row in synsets
            if row[field] <= last
        ]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the devkit's file") from error
    except (MatReadError, StopIteration, *cut_off) as error:
        raise InputError(
            f"{path}: is not the devkit's {file} ({error!r}); copy it again, or give lines "
            "'wnid id name'"
        ) from error


def _synsets(path: Path, rows: list[tuple[int, str, str]]) -> Synsets:
    rows.sort()
    wrong = [row[0] for i, row in enumerate(rows, start=1) if row[0] != i]
    if wrong or not rows:
        raise InputError(
            f"{path}: class ids must be 1, 2, 3, ... once each; found {len(rows)} classes"
            + (f", and {wrong[0]} out of turn; correct the list" if wrong else "; name them")
        )
    synsets = Synsets(tuple(row[1] for row in rows), tuple(row[2] for row in rows))
    if (repeated := first_repeated(synsets.wnids)) is not None:
        raise InputError(f"{path}: lists {repeated!r} twice; keep one of them")
    return synsets
