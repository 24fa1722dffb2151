"""Labelled photos to train with, from VOC, COCO and ILSVRC: what ``data=`` chooses.

Unlike the readers for scoring, these check that the photos are there and leave out what cannot be
trained with; docs/data.md has the rules in one table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from detect.data.annotated import (
    AnnotatedPhotos,
    from_instances,
    from_xml,
    mark_blacklisted,
)
from detect.data.annotations import NO_BOX, XML_DROP, read_annotations
from detect.data.checking import REPEATED_PHOTO, checked_records
from detect.data.coco_instances import ANNOTATION_IDS, INSTANCES_DROP, read_instances
from detect.data.ilsvrc import Synsets, read_blacklist, read_image_list, read_synsets
from detect.data.photos import PhotoFolders, find_photos
from detect.data.problems import InputError, check_choices
from detect.data.records import Record
from detect.data.sources import first_repeated
from detect.data.voc import read_voc_list

VOC_DROP = (*XML_DROP, REPEATED_PHOTO.name)
COCO_DROP = (*INSTANCES_DROP, REPEATED_PHOTO.name)
ILSVRC_DROP = VOC_DROP
_DEVKIT = ("devkit/data/meta_det.mat", "devkit/data/map_det.txt", "meta_det.mat", "map_det.txt")


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos with their annotated objects.

    Attributes:
        records: One a photo, each of another name; every box has area and lies inside its photo.
        class_names: Name of each label, ``[C]``.
        notes: What was left out or changed and why: a sentence on each kind, with the count and
            the first example.
    """

    records: list[Record]
    class_names: tuple[str, ...]
    notes: list[str]


def voc_photos(
    root: str | Path,
    split: str | None = "train",
    class_names: Sequence[str] | None = None,
    *,
    annotations: str | Path | None = None,
    photos: str | Path | None = None,
    drop: Collection[str] = (),
) -> LabelledPhotos:
    """Read photos with an XML file each: a VOC data set, or a folder that labelImg worked on.

    An annotation's photo has its name and any image suffix. Where there is none, or several, the
    one that ``<filename>`` gives is taken, else the first of several.

    Args:
        root: Holds JPEGImages, Annotations and ImageSets/Main, such as VOC2007; or photos and XML
            files side by side.
        split: A list of ImageSets/Main, such as ``train``; the path of a list, with a slash or
            .txt; or ``None`` for every annotation. Without ImageSets ``train`` is every one too.
        class_names: Objects of other classes are left out; ``None`` for those found, sorted.
        annotations: Folder of the XML files, or with a list a tar archive; Annotations by default,
            or else ``root``.
        photos: Their folder; by default JPEGImages, ``root`` or that of the XML files.
        drop: What is left out and not refused, of ``VOC_DROP``.

    Returns:
        One record a photo, in the order of the list or of the names.

    Raises:
        InputError: If a list or annotation is missing or malformed, or nothing is left.
    """
    drop = _check_drop(drop, VOC_DROP)
    asked = None if class_names is None else check_names(class_names)
    root = Path(root)
    inside = root / "Annotations"
    source = Path(annotations) if annotations else inside if inside.is_dir() else root
    names = _voc_names(root, split, source)
    found = read_annotations(source, names, drop=[NO_BOX.name, *drop])
    folders = [Path(photos)] if photos else [root / "JPEGImages", root, source]
    paths = find_photos(found.names, PhotoFolders(folders), source)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    table = from_xml(found, found.classes, str(source), paths, numbers)
    return _check(table, asked, list(found.notes), drop)


def coco_photos(
    root: str | Path,
    split: str = "train2017",
    class_names: Sequence[str] | None = None,
    *,
    annotations: str | Path | None = None,
    photos: str | Path | None = None,
    drop: Collection[str] = (),
) -> LabelledPhotos:
    """Read photos with a COCO ``instances`` file.

    A record is named as the photo's file, without folders and suffix; where two would have the same
    name, all keep their folders, or even their suffixes. Crowds are difficult objects. Categories
    of the same name are one class.

    Args:
        root: Holds annotations/instances_SPLIT.json and a folder SPLIT of photos.
        split: Such as ``train2017``.
        class_names: Objects of other classes are left out; ``None`` for all categories, in the
            order of their ids.
        annotations: An ``instances`` file, in place of the one of the split.
        photos: Folder that file names start from, in place of the split's.
        drop: What is left out and not refused, of ``COCO_DROP``.

    Returns:
        One record a photo, in the order of the file.

    Raises:
        InputError: If the file is missing or malformed, or nothing is left.
    """
    drop = _check_drop(drop, COCO_DROP)
    root = Path(root)
    file = Path(annotations or root / "annotations" / f"instances_{split}.json")
    always = ["unknown_category", "bad_box"]
    found = read_instances(file, repair=[ANNOTATION_IDS], drop=[*always, *drop])
    categories = tuple(dict.fromkeys(found.class_names))
    folders = PhotoFolders([Path(photos or root / str(split))])
    table = from_instances(found, categories, str(file), folders)
    asked = categories if class_names is None else check_names(class_names, categories)
    return _check(table, asked, list(found.notes), drop)


def ilsvrc_photos(
    root: str | Path,
    split: str = "train",
    class_names: Sequence[str] | None = None,
    *,
    annotations: str | Path | None = None,
    photos: str | Path | None = None,
    image_list: str | Path | None = None,
    synsets: str | Path | None = None,
    blacklist: str | Path | None = None,
    drop: Collection[str] = (),
) -> LabelledPhotos:
    """Read photos of ILSVRC DET.

    A class that is blacklisted for an image is ambiguous there. Its annotated objects become
    difficult ones, neither object nor background; regions of it that nobody annotated cannot be
    told from background, and are few: the blacklist of 2014 has 409 pairs for 20,121 images.

    Args:
        root: Holds Annotations/DET, Data/DET and ImageSets/DET as the official archive does.
        split: Such as ``train`` or ``val``.
        class_names: Names or WordNet ids; objects of other classes are left out. ``None`` for all
            classes, in the order of their ids.
        annotations: Folder or tar archive of XML files, in place of Annotations/DET/SPLIT.
        photos: Folder, in place of Data/DET/SPLIT.
        image_list: Lines ``name id``, in place of ImageSets/DET/SPLIT.txt.
        synsets: The devkit's meta_det.mat or map_det.txt; by default looked for in
            devkit/data and in ``root``.
        blacklist: Lines ``id wnid``; the ids are those of the image list.
        drop: What is left out and not refused, of ``ILSVRC_DROP``.

    Returns:
        One record a photo, in the order of the list and with its ids.

    Raises:
        InputError: If a file is missing or malformed, or nothing is left.
    """
    drop = _check_drop(drop, ILSVRC_DROP)
    root = Path(root)
    classes = _read_det_classes(root, synsets)
    ids = read_image_list(Path(image_list or root / "ImageSets" / "DET" / f"{split}.txt"))
    source = Path(annotations or root / "Annotations" / "DET" / str(split))
    found = read_annotations(source, list(ids), drop=[NO_BOX.name, *drop])
    folders = PhotoFolders([Path(photos or root / "Data" / "DET" / str(split))])
    paths = find_photos(found.names, folders)
    name_of = dict(zip(classes.wnids, classes.names, strict=True))
    table = from_xml(found, [name_of.get(c, c) for c in found.classes], str(source), paths, ids)
    notes = list(found.notes)
    if blacklist:
        notes += mark_blacklisted(table, read_blacklist(Path(blacklist), classes), classes.names)
    asked = classes.names
    if class_names is not None:
        asked = check_names([name_of.get(n, n) for n in check_names(class_names)], asked)
    return _check(table, asked, notes, drop)


def _check(
    table: AnnotatedPhotos,
    class_names: Sequence[str] | None,
    notes: list[str],
    drop: Collection[str],
) -> LabelledPhotos:
    records, names, more = checked_records(table, class_names, drop=drop)
    return LabelledPhotos(records, names, notes + more)


def check_names(class_names: Sequence[str], known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Check the classes that someone asks for.

    Args:
        class_names: What is asked for.
        known: The classes of a data set that lists its own.

    Raises:
        InputError: If they are none, repeated, or not among those known.
    """
    names = tuple(str(name) for name in _as_list(class_names))  # numbers in a command line
    if not names:
        raise InputError("class_names: names no class; give some, or null for those of the data")
    if (repeated := first_repeated(names)) is not None:
        raise InputError(f"class_names: names {repeated!r} twice; keep one of them")
    for name in names:
        if known is not None and name not in known:
            near = get_close_matches(name, known) or known[:3]
            raise InputError(
                f"class_names: the data has no class {name!r}; it has {', '.join(near)}, ..."
            )
    return names


def _as_list(given: Collection[str]) -> list[str]:
    """Take one text, as a command line gives it without brackets, for a list of one."""
    return [given] if isinstance(given, str) else list(given)


def _check_drop(drop: Collection[str], choices: Sequence[str]) -> list[str]:
    check_choices("drop", _as_list(drop), choices)
    return _as_list(drop)


def _voc_names(root: Path, split: str | None, source: Path) -> list[str]:
    """Return the names of the images of a split."""
    split = None if split is None else str(split)  # a command line makes a number of 2007
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one of photos and annotations")
    lists = root / "ImageSets" / "Main"
    if split is not None and (split.endswith(".txt") or "/" in split):
        return read_voc_list(Path(split))
    if split is None or (split == "train" and not lists.is_dir()):
        if not source.is_dir():
            raise InputError(f"{source}: no folder; give split= a list of images, or a folder")
        names = sorted(path.stem for path in source.glob("[!.]*.xml"))
        if not names:
            raise InputError(f"{source}: no XML file; give their folder, annotations=")
        return names
    path = lists / f"{split}.txt"
    if not path.exists():
        raise InputError(
            f"{path}: no such list; give the name of another, the path of one, or split=null for "
            "every annotation"
        )
    return read_voc_list(path)


def _read_det_classes(root: Path, synsets: str | Path | None) -> Synsets:
    """Read the devkit's classes from where it is given or found."""
    places = [Path(synsets)] if synsets else [root / place for place in _DEVKIT]
    path = next((path for path in places if path.exists()), places[-1])
    if not synsets and not path.exists():
        raise InputError(f"{root}: no devkit/data/meta_det.mat or map_det.txt there; give synsets=")
    classes = read_synsets(path)
    if (repeated := first_repeated(classes.names)) is not None:
        raise InputError(f"{path}: two classes have the name {repeated!r}; rename one")
    return classes
