"""Files that people hand in: plain or compressed text, JSON, folders and archives of XML.

Whatever is wrong with them ends as one ``InputError`` that names the file, the line or entry, the
value and the remedy, so that a tool can print it and stop.
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element
from xml.etree.ElementTree import fromstring as _parse_plainly

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError

from detect.data.problems import InputError, Kind, Problems

_BLOCK = 512  # bytes of a tar archive's header
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
BROKEN_ARCHIVE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)


MISSING_XML = Kind(
    "missing_xml",
    "is not there, and the image list names its image",
    "add the file or take the image off the list",
)
NO_XML = Kind("no_xml", "is no proper XML", "copy the file again")
NO_NAME = Kind("no_name", "has no <name>", "add it")
NO_BOX = Kind(
    "no_box", "is no box of numbers with xmin <= xmax and ymin <= ymax", "correct or remove it"
)
NO_SIZE = Kind("no_size", "is no <size> in whole pixels", "correct or remove it")


class XmlObject(NamedTuple):
    """One ``object`` element of an annotation.

    Attributes:
        name: Class name or WordNet id.
        corners: ``(xmin, ymin, xmax, ymax)`` pixels as in the file: 1-based, inclusive.
        difficult: The object counts neither as found nor as missed.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class XmlAnnotation(NamedTuple):
    """One image's annotation file; sizes are 0 where the file does not tell them."""

    name: str
    width: int
    height: int
    objects: list[XmlObject]


def read_bytes(path: Path) -> bytes:
    """Read a file, plain or compressed as its suffix .gz or .xz says.

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
    return data


def read_text(path: Path) -> str:
    """Read a text file, plain or compressed; what is not UTF-8 stays what it is.

    Raises:
        InputError: As ``read_bytes``.
    """
    return read_bytes(path).decode("utf-8-sig", "surrogateescape")


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


def read_annotations(
    source: Path, names: Sequence[str], *, any_box: bool = False
) -> list[XmlAnnotation]:
    """Read the XML file of every name, in the order of the names.

    Args:
        source: A folder of ``NAME.xml``, or a tar archive of them (.tar, .tar.gz, .tar.xz ...),
            in whatever folder of the archive.
        names: Names of the images, each once.
        any_box: Take boxes without area too.

    Raises:
        InputError: Names the first files that are missing, no proper XML, or hold an object
            without a name or a proper box, and how many there are.
    """
    problems = Problems(str(source))
    read = _folder_reader(source) if source.is_dir() else _archive_reader(source, names)
    annotations = []
    for name in names:
        data = read(name)
        if data is None:
            problems.add(MISSING_XML, f"image {name}", f"{name}.xml")
        else:
            annotations.append(parse_annotation(data, name, problems, any_box=any_box))
    problems.raise_if_any()
    return annotations


def parse_annotation(
    data: bytes, name: str, problems: Problems, *, any_box: bool = False
) -> XmlAnnotation:
    """Parse a VOC or ILSVRC annotation; only tags count, not their order.

    Args:
        data: Content of the XML file.
        name: Name of the image.
        problems: Takes what is wrong with the file.
        any_box: Take boxes without area too.
    """
    try:
        root = _parse_plainly(data) if _is_plain(data) else defusedxml.ElementTree.fromstring(data)
    except (ParseError, DefusedXmlException) as error:
        problems.add(NO_XML, f"{name}.xml", str(error) or type(error).__name__)
        return XmlAnnotation(name, 0, 0, [])
    objects = []
    for element in root.iterfind("object"):
        found = _parse_object(element, name, problems, any_box)
        if found is not None:
            objects.append(found)
    width, height = _parse_size(root, name, problems)
    return XmlAnnotation(name, width, height, objects)


def _is_plain(data: bytes) -> bool:
    """Tell whether XML can do no harm: it is UTF-8 and declares neither types nor entities."""
    head = data[:100]
    return data[:1] == b"<" and (head[1:2] != b"?" or b"tf-8" in head.lower()) and b"<!" not in data


def _parse_size(root: Element, name: str, problems: Problems) -> tuple[int, int]:
    size = root.find("size")
    if size is None:
        return 0, 0
    texts = [size.findtext(side) for side in ("width", "height")]
    try:
        width, height = (int(text or 0) for text in texts)
    except ValueError:
        problems.add(NO_SIZE, f"{name}.xml", texts)
        return 0, 0
    return width, height


def first_repeated(values: Iterable[Any]) -> Any:
    """Return the first value that occurs a second time, ``None`` where all differ."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _parse_object(
    element: Element, name: str, problems: Problems, any_box: bool
) -> XmlObject | None:
    kind = (element.findtext("name") or "").strip()
    box = element.find("bndbox")
    texts = [None] * 4 if box is None else [box.findtext(tag) for tag in _CORNERS]
    try:
        xmin, ymin, xmax, ymax = map(float, texts)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        xmin = ymin = xmax = ymax = math.nan
    proper = any_box or (xmax - xmin + 1 > 0 and ymax - ymin + 1 > 0)
    if not kind:
        problems.add(NO_NAME, f"{name}.xml", "an object")
        return None
    if not (proper and math.isfinite(xmin + ymin + xmax + ymax)):
        problems.add(NO_BOX, f"{name}.xml", f"{kind} at {texts}")
        return None
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return XmlObject(kind, (xmin, ymin, xmax, ymax), difficult)


def _folder_reader(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        try:
            file = os.open(f"{folder}/{name}.xml", os.O_RDONLY)  # a fifth of the time of open()
        except OSError:
            return None
        try:
            return b"".join(iter(lambda: os.read(file, 1 << 20), b""))
        except OSError:
            return None
        finally:
            os.close(file)

    return read


def _archive_reader(archive: Path, names: Sequence[str]) -> Callable[[str], bytes | None]:
    """Read the wanted files in one pass: archives do not offer access by name."""
    wanted = {f"{name}.xml" for name in names}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:  # refuses what is no archive
            members = _plain_members(archive) or _members(tar)
            for path, content in members:
                key = _wanted_tail(path, wanted)
                if key is None:
                    continue
                if key in found:
                    raise InputError(f"{archive}: holds {key} twice; keep one of them")
                found[key] = content()
    except BROKEN_ARCHIVE as error:
        raise InputError(
            f"{archive}: no complete tar archive ({error}); copy it again, or give a folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive}: {error.strerror or error}; give the folder or tar archive of the XML files"
        ) from error

    return lambda name: found.get(f"{name}.xml")


_Member = tuple[str, Callable[[], bytes]]  # path in the archive, and what reads it


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for member in tar:
        content = tar.extractfile(member) if member.isfile() else None
        if content is not None:
            yield member.name, content.read


def _plain_members(archive: Path) -> list[_Member] | None:
    """List the members of a complete archive without extensions; ``None`` if it is another.

    A third of the time of tarfile, which for thousands of small files is most of reading them.
    """
    if archive.suffix not in (".tar", ".gz", ".xz"):
        return None
    data = memoryview(read_bytes(archive))
    members: list[_Member] = []
    start = 0
    while start + _BLOCK <= len(data):
        header = bytes(data[start : start + _BLOCK])
        size = header[124:136].strip(b" \0")
        if not size and header[:1] == b"\0":
            return members  # the end
        kind, prefix = header[156:157], header[345:500].rstrip(b"\0")
        if kind not in b"05\0" or not size.isdigit() or prefix:  # links, long names, ...
            return None
        begin, end = start + _BLOCK, start + _BLOCK + int(size, 8)
        if kind != b"5":
            name = header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
            members.append((name, partial(bytes, data[begin:end])))
        start = begin + -(-(end - begin) // _BLOCK) * _BLOCK
    return None


def _wanted_tail(path: str, wanted: set[str]) -> str | None:
    """Return the tail of an archive path that is a wanted name, with or without folders."""
    parts = path.split("/")
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if tail in wanted), None)
