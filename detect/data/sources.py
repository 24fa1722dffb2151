"""Files that people hand in: plain or compressed text, JSON, folders and archives of XML.

Whatever is wrong with them ends as one ``InputError`` that names the file, the line or entry, the
value and the remedy, so that a tool can print it and stop.
"""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

BROKEN_ARCHIVE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)


class InputError(ValueError):
    """A file or setting that someone handed in is wrong; the message is for that person."""


@dataclass(frozen=True)
class XmlObject:
    """One ``object`` element of an annotation.

    Attributes:
        name: Class name or WordNet id.
        box: Half-open ``(x1, y1, x2, y2)`` pixels.
        difficult: The object counts neither as found nor as missed.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class XmlAnnotation:
    """One image's annotation file; sizes are 0 where the file does not tell them."""

    name: str
    width: int
    height: int
    objects: tuple[XmlObject, ...]


def read_text(path: Path) -> str:
    """Read a text file, plain or compressed as its suffix .gz or .xz says.

    Raises:
        InputError: If the file is missing, a folder, unreadable or cut off.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".xz":
            data = lzma.decompress(data)
    except BROKEN_ARCHIVE as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); pack or copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the path of a file") from error
    return data.decode("utf-8-sig", "surrogateescape")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return a text file's non-blank lines with their numbers from 1.

    Only a line feed ends a line: names of images may hold every other sign.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Read a JSON file, plain or compressed.

    Raises:
        InputError: If the file is missing or no complete JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: no valid JSON ({error.msg}); "
            "the file may be cut off: write or copy it again"
        ) from error


def read_annotations(source: Path, names: Sequence[str]) -> Iterator[XmlAnnotation]:
    """Read the XML file of every name, in the order of the names.

    Args:
        source: A folder of ``NAME.xml``, or a tar archive of them (.tar, .tar.gz, .tar.xz ...),
            in whatever folder of the archive.
        names: Names of the images, each once.

    Raises:
        InputError: If a file is missing or malformed.
    """
    read = _folder_reader(source) if source.is_dir() else _archive_reader(source, names)
    for name in names:
        yield parse_annotation(read(name), name, f"{source}: {name}.xml")


def parse_annotation(data: bytes, name: str, where: str) -> XmlAnnotation:
    """Parse a VOC or ILSVRC annotation; only tags count, not their order.

    Boxes are 1-based inclusive in the file and half-open in the result.

    Args:
        data: Content of the XML file.
        name: Name of the image.
        where: What an error message calls the file.

    Raises:
        InputError: If the XML is malformed, or an object has no name or no proper box.
    """
    try:
        root = fromstring(data)
    except (ParseError, DefusedXmlException) as error:
        raise InputError(f"{where}: no proper XML ({error}); copy the file again") from error
    objects = tuple(_parse_object(element, where) for element in root.findall("object"))
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError as error:
        raise InputError(f"{where}: <size> is wrong ({error}); give whole pixels") from error
    return XmlAnnotation(name, width, height, objects)


def first_repeated(values: Iterable[Any]) -> Any:
    """Return the first value that occurs a second time, ``None`` where all differ."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _parse_object(element: Element, where: str) -> XmlObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{where}: an object has no name; add its <name>")
    texts = [element.findtext(f"bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(text or "") for text in texts)
    except ValueError as error:
        raise InputError(
            f"{where}: the box of {name} is {texts}; give xmin, ymin, xmax, ymax as numbers"
        ) from error
    box = xmin - 1, ymin - 1, xmax, ymax
    if not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
        raise InputError(f"{where}: the box of {name}, {texts}, is empty; correct or remove it")
    return XmlObject(name, box, (element.findtext("difficult") or "").strip() == "1")


def _folder_reader(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return (folder / f"{name}.xml").read_bytes()
        except OSError as error:
            raise InputError(_missing(folder, name)) from error

    return read


def _archive_reader(archive: Path, names: Sequence[str]) -> Callable[[str], bytes]:
    """Read the wanted files in one pass: archives do not offer access by name."""
    wanted = {f"{name}.xml" for name in names}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                key = _wanted_tail(member.name, wanted)
                content = tar.extractfile(member) if key and member.isfile() else None
                if key is None or content is None:
                    continue
                if key in found:
                    raise InputError(f"{archive}: holds {key} twice; keep one of them")
                found[key] = content.read()
    except BROKEN_ARCHIVE as error:
        raise InputError(
            f"{archive}: no complete tar archive ({error}); copy it again, or give a folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive}: {error.strerror or error}; give the folder or tar archive of the XML files"
        ) from error

    def read(name: str) -> bytes:
        try:
            return found[f"{name}.xml"]
        except KeyError as error:
            raise InputError(_missing(archive, name)) from error

    return read


def _wanted_tail(path: str, wanted: set[str]) -> str | None:
    """Return the tail of an archive path that is a wanted name, with or without folders."""
    parts = path.split("/")
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if tail in wanted), None)


def _missing(source: Path, name: str) -> str:
    return (
        f"{source}: holds no {name}.xml, and the image list names {name!r}; "
        "add the file or take the image off the list"
    )
