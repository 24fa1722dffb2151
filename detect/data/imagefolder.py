"""Photos with one class each: a folder for every class, or a list of names and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detect.data.imagenet import imagenet_wnids
from detect.data.problems import InputError
from detect.data.sources import read_lines
from detect.images import ImageSource, find_images


@dataclass(frozen=True)
class ClassifiedPhotos:
    """Photos and the class of each.

    Attributes:
        images: The photos.
        labels: Their classes from 0, as many.
        class_names: What the labels mean where the data says so: names of the folders, or empty.
    """

    images: list[ImageSource]
    labels: list[int]
    class_names: tuple[str, ...] = ()


def image_folder(
    root: str | Path, list: str | Path | None = None, *, first_label: int = 0
) -> ClassifiedPhotos:
    """Read photos with one class each.

    Args:
        root: Holds a folder for every class, named by its WordNet id (then the labels are the
            classes of ImageNet) or otherwise (then they are the folders in alphabetical order); or
            the photos of a list; or is the list itself, beside the photos.
        list: Lines ``name label``, a label being a number or a WordNet id; ``root``'s only text
            file by default, where it has no folders.
        first_label: Number of the first class in the list.

    Raises:
        InputError: If there is no photo, or a line makes no sense.
    """
    root = Path(root)
    if root.is_file():
        return _from_list(root, root.parent, first_label)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give that of the photos, data.root=")
    if list is not None:
        return _from_list(Path(list), root, first_label)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        lists = sorted(root.glob("*.txt"))
        if len(lists) == 1:
            return _from_list(lists[0], root, first_label)
        raise InputError(f"{root}: has no folder for each class; give a list, data.list=")
    return _from_folders(folders)


def _from_folders(folders: Sequence[Path]) -> ClassifiedPhotos:
    names = [folder.name for folder in folders]
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    known = [name for name in names if name in wnids]
    if known and len(known) < len(names):
        other = next(name for name in names if name not in wnids)
        raise InputError(
            f"{folders[0].parent}: {other} is none of ImageNet's 1000 classes, {known[0]} is one; "
            "leave only folders of one kind"
        )
    images, labels = [], []
    for label, folder in enumerate(folders):
        for image in find_images(folder):
            images.append(ImageSource(image.path, f"{folder.name}/{image.name}"))
            labels.append(wnids[folder.name] if known else label)
    if not images:
        raise InputError(f"{folders[0].parent}: no photo in any of its {len(folders)} folders")
    return ClassifiedPhotos(images, labels, () if known else tuple(names))


def _from_list(path: Path, folder: Path, first_label: int) -> ClassifiedPhotos:
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    images, labels = [], []
    for number, line in read_lines(path):
        name, _, text = line.strip().rpartition(" ")
        if text in wnids:
            label = wnids[text]
        elif text.isdecimal() and int(text) >= first_label and name:
            label = int(text) - first_label
        else:
            raise InputError(
                f"{path}:{number}: {line.strip()[:80]!r} is no 'name label', a label being a "
                f"number from {first_label} or one of ImageNet's WordNet ids"
            )
        images.append(ImageSource(_find(folder, name.strip()), name.strip()))
        labels.append(label)
    if not images:
        raise InputError(f"{path}: names no photo")
    return ClassifiedPhotos(images, labels)


def _find(folder: Path, name: str) -> Path:
    """Return where a listed photo lies; ImageNet's lists leave the suffix out now and then."""
    path = folder / name
    if path.exists() or path.suffix:
        return path
    return next((p for p in map(path.with_suffix, (".JPEG", ".jpg", ".png")) if p.exists()), path)
