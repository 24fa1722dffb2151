"""Find images among files, folders, globs and lists, and read any of them safely."""

from __future__ import annotations

import functools
import glob
import itertools
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detect.decoding import UndecodableError, convert_to_rgb, decode_image

# In a folder, these are taken for images; those that cannot be read are there to be reported.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif"}
IMAGE_SUFFIXES |= {".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
IMAGE_SUFFIXES |= {".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl", ".svg"}
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"}
VIDEO_SUFFIXES |= {".mts", ".m2ts", ".3gp", ".ogv"}  # not .ts, which is mostly TypeScript
_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


class ImageError(ValueError):
    """An image or a video that cannot be read.

    Args:
        path: The file, or a word for an image that never was one.
        reason: What is wrong with it, one line.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str | Path, str]]:
        # Exceptions are rebuilt from their one message otherwise; loader processes send them.
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class ImageSource:
    """One image or video to read.

    Attributes:
        path: Where it lies.
        name: A name that no other source of the same list has: the path from the given folder, with
            ``/`` between its parts and never ``..``, or the file name of a file given by itself.
    """

    path: Path
    name: str


def is_video(path: str | Path) -> bool:
    """Tell by its suffix whether a file is a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def printable(path: str | Path) -> str:
    r"""Write a path in valid Unicode; bytes that are not UTF-8 become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_images(
    inputs: Iterable[str | Path] | str | Path, stdin: TextIO | None = None
) -> list[ImageSource]:
    r"""List the images and videos that the inputs name, in their order, folders sorted.

    A folder is searched to its depths, through symbolic links too. Hidden entries and ``__MACOSX``
    are left out, and so is what has neither an image's nor a video's suffix. Whatever has such a
    suffix is listed, broken or not, so that it is reported and not forgotten; a folder that cannot
    be opened likewise. Files given by themselves are always listed, and so are the matches of a
    glob whose last part holds a dot (``*.dat``); those of other globs (``photos/*``) are treated
    like a folder's content. A file that several inputs reach appears once, where it came first.

    Where two files would have the same name, the first one keeps it, and the later one has the
    names of its parent folders put before it, as many as it takes: ``a.jpg``, then ``other/a.jpg``.

    Args:
        inputs: Files, folders, globs (where no file of that very name exists; ``**`` stands for any
            depth), or ``-`` for a list of files and folders on standard input.
        stdin: The text of that list, one path a line or separated by ``\0``; standard input by
            default.

    Returns:
        The sources, each path and each name once.

    Raises:
        FileNotFoundError: If a path does not exist or a glob matches nothing.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    sources: dict[str, ImageSource] = {}  # by the path with links among its folders resolved
    names: set[str] = set()
    real_path = functools.lru_cache(os.path.realpath)
    for path, name in _expand_inputs(inputs, stdin):
        identity = os.path.join(real_path(path.parent), path.name)
        if identity not in sources:
            unique = _make_unique(name, identity, names)
            names.add(unique)
            sources[identity] = ImageSource(path, unique)
    return list(sources.values())


def _make_unique(name: str, identity: str, taken: set[str]) -> str:
    """Put parent folders, and where none helps a number, before a name that is taken."""
    if name not in taken:
        return name
    parts = Path(printable(identity)).parts[1:]  # without the root
    endings = ("/".join(parts[start:]) for start in reversed(range(len(parts))))
    longer = (ending for ending in endings if len(ending) > len(name))
    numbered = (f"{number}/{name}" for number in itertools.count(2))
    return next(c for c in itertools.chain(longer, numbered) if c not in taken)


def _expand_inputs(
    inputs: Iterable[str | Path], stdin: TextIO | None
) -> Iterator[tuple[Path, str]]:
    """Yield path and wished name of everything that the inputs name."""
    seen: set[str] = set()
    for argument in inputs:
        if str(argument) == "-":
            # Undecoded, since a file name need not be valid UTF-8.
            text = os.fsdecode(sys.stdin.buffer.read()) if stdin is None else stdin.read()
            for line in text.split("\0") if "\0" in text else text.splitlines():
                if line.strip():
                    yield from _expand_path(line, seen)
        elif os.path.lexists(argument):
            yield from _expand_path(argument, seen)
        else:
            yield from _expand_glob(str(argument), seen)


def _expand_path(argument: str | Path, seen: set[str]) -> Iterator[tuple[Path, str]]:
    """Yield a file, or what a folder holds."""
    path = Path(argument)
    if not str(argument) or not os.path.lexists(path):
        raise FileNotFoundError(f"no such file or folder: {printable(argument) or repr('')}")
    if os.path.isdir(path):
        yield from _walk(path, "", seen)
    else:
        yield path, printable(path.name)


def _expand_glob(pattern: str, seen: set[str]) -> Iterator[tuple[Path, str]]:
    """Yield what matches a glob, named from its last folder without a wildcard."""
    matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
    if not matches:
        raise FileNotFoundError(
            f"no such file or folder, and no match: {printable(pattern) or repr('')}"
        )
    parts = Path(pattern).parts
    first_magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:first_magic])
    takes_all = "." in parts[-1]
    for match in map(Path, matches):
        name = printable(match.relative_to(base).as_posix())
        if os.path.isdir(match) and match.suffix.lower() not in _SUFFIXES:
            yield from _walk(match, "" if name == "." else name + "/", seen)
        elif takes_all or match.suffix.lower() in _SUFFIXES:
            yield match, name


def _walk(folder: Path, prefix: str, seen: set[str]) -> Iterator[tuple[Path, str]]:
    """Yield what a folder holds, sorted by name; a folder that was ``seen`` holds nothing new."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # listed itself, so that its reader reports it
        yield folder, prefix.rstrip("/") or printable(folder.name) or "folder"
        return
    for entry in entries:
        path, name = folder / entry.name, prefix + printable(entry.name)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if path.suffix.lower() in _SUFFIXES:
            yield path, name
        elif os.path.isdir(path):
            yield from _walk(path, name + "/", seen)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file that may be no file, without ever waiting for a pipe or a device.

    Raises:
        ImageError: If it does not exist, is a folder, empty or anything but a file, or may not be
            read.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()
            raise ImageError(path, "a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size == 0:
            raise ImageError(path, "an empty file")
        return open(path, "rb")
    except FileNotFoundError:
        dangling = os.path.islink(path)
        reason = "a symbolic link to nothing" if dangling else "no such file"
        raise ImageError(path, reason) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, getattr(error, "strerror", None) or str(error)) from None


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB, by its content and not by its suffix.

    JPEG, PNG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000 and AVIF; of animations the first frame, of
    several pages the first. The EXIF orientation is applied, transparency is laid over white, 16
    bits a channel become 8. See ``detect.decoding`` for the details.

    Args:
        path: The file.

    Returns:
        RGB uint8 ``[3, H, W]``. Its memory is laid out as ``[H, W, 3]``, which OpenCV shares
        without a copy.

    Raises:
        ImageError: If it is not an image, is damaged, cut off, empty, larger than
            ``detect.decoding.MAX_PIXELS``, of an unsupported kind, or cannot be opened.
    """
    with open_regular(path) as file:
        try:
            return _to_tensor(np.array(decode_image(file)))
        except UndecodableError as error:
            raise ImageError(path, str(error)) from error


def as_image(image: str | Path | np.ndarray | Tensor | Image.Image) -> Tensor:
    """Take an image in any of the usual forms.

    Args:
        image: A path; a uint8 array, RGB ``[H, W, 3]`` or grey ``[H, W]``; a uint8 RGB tensor
            ``[3, H, W]``; or a Pillow image, whose EXIF orientation is applied.

    Returns:
        RGB uint8 ``[3, H, W]``; a tensor is returned as it is.

    Raises:
        ImageError: If a path or a Pillow image cannot be read.
        ValueError: If an array or a tensor has another shape or type, or no pixels.
        TypeError: If it is none of these.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        try:
            return _to_tensor(np.array(convert_to_rgb(image)))
        except (UndecodableError, OSError, SyntaxError) as error:
            raise ImageError(
                getattr(image, "filename", "") or "Pillow image", str(error)
            ) from error
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(
            f"an image must be a path, an array, a tensor or a Pillow image: got {type(image)}"
        )
    shape = tuple(image.shape)
    if isinstance(image, Tensor):
        if image.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3 and image.numel():
            return image
        raise ValueError(f"a tensor must be uint8 RGB [3, H, W]: got {image.dtype} {list(shape)}")
    if image.dtype != np.uint8 or not image.size or not (len(shape) == 2 or shape[2:] == (3,)):
        raise ValueError(
            f"an array must be uint8 RGB [H, W, 3] or grey [H, W]: got {image.dtype} {list(shape)}"
        )
    if len(shape) == 2:
        return _to_tensor(np.repeat(image[..., None], 3, axis=2))
    return _to_tensor(np.array(image, order="C"))  # a copy: torch takes no negative strides


def _to_tensor(array: np.ndarray) -> Tensor:
    """View a writable array ``[H, W, 3]`` as a tensor ``[3, H, W]``."""
    return torch.from_numpy(array).permute(2, 0, 1)
