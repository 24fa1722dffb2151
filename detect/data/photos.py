"""Where the photos of a data set lie, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detect.data.annotations import read_photo_names
from detect.data.problems import InputError
from detect.decoding import UndecodableError, read_upright_size
from detect.images import IMAGE_SUFFIXES, ImageError, open_regular


class PhotoFolders:
    """The photos in folders; each folder is listed once, which asks less of a disk than files do.

    Args:
        folders: Are searched in this order.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._listed: dict[str, Mapping[str, list[str]]] = {}

    def with_name(self, file_name: str) -> Path | None:
        """Find a file by its path in one of the folders, with suffix."""
        inside, _, last = file_name.rpartition("/")
        for folder in self.folders:
            if last in self._files(folder, inside).get(_stem(last), ()):
                return folder / file_name
        return None

    def with_stem(self, name: str) -> list[Path]:
        """Find the photos of a name, whatever their suffixes, in the first folder that has any.

        Args:
            name: Path in the folder, without suffix.
        """
        inside, _, last = name.rpartition("/")
        for folder in self.folders:
            files = self._files(folder, inside).get(last, ())
            photos = [f for f in files if os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES]
            if photos:
                return [Path(folder, inside, photo) for photo in sorted(photos)]
        return []

    def _files(self, folder: Path, inside: str) -> Mapping[str, list[str]]:
        """List a folder: the names of its files by their stems."""
        path = os.path.join(folder, inside)
        if path not in self._listed:
            files: dict[str, list[str]] = {}
            try:
                with os.scandir(path) as entries:
                    names = [entry.name for entry in entries if entry.is_file()]
            except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
                names = []  # so the photos in it are missing, which the reader reports
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}; make the folder readable") from error
            for name in names:
                files.setdefault(_stem(name), []).append(name)
            self._listed[path] = files
        return self._listed[path]


def find_photos(
    names: Sequence[str], folders: PhotoFolders, source: Path | None = None
) -> list[Path | None]:
    """Find each image's photo, ``None`` where it is missing.

    Args:
        names: Of the images.
        folders: Where to look.
        source: The XML files whose ``<filename>`` helps where a name is not enough.
    """
    photos = {name: folders.with_stem(name) for name in names}
    unsure = [name for name, found in photos.items() if len(found) != 1]
    for name, file_name in (read_photo_names(source, unsure) if source and unsure else {}).items():
        named = folders.with_name(file_name)
        if named is not None and (not photos[name] or named in photos[name]):
            photos[name] = [named]
    return [photos[name][0] if photos[name] else None for name in names]


def read_photo_size(path: Path) -> tuple[int, int] | str:
    """Return a photo's width and height as its header gives them, or why it does not."""
    try:
        with open_regular(path) as file:
            return read_upright_size(file)
    except ImageError as error:
        return error.reason
    except UndecodableError as error:
        return str(error)


def _stem(file_name: str) -> str:
    return os.path.splitext(file_name)[0]
