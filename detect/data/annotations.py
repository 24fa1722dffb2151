"""Annotations of VOC and ILSVRC: an XML file an image, in a folder or an archive."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError
from numpy.typing import NDArray

from detect.data.annotation_scan import ScannedObjects, scan_annotations
from detect.data.archives import read_files
from detect.data.problems import Kind, Problems

_CORNERS = ("xmin", "ymin", "xmax", "ymax")

MISSING_XML = Kind(
    "missing_xml",
    "is not there, and the image list names its image",
    "add the file or take the image off the list",
)
NO_XML = Kind("no_xml", "keeps it from being proper XML", "copy the file again")
NO_ANNOTATION = Kind(
    "no_annotation", "is not the root <annotation> of an annotation", "copy the right file"
)
NO_NAME = Kind("no_name", "has no <name>", "add it")
NO_BOX = Kind(
    "no_box", "is no box of numbers with xmin <= xmax and ymin <= ymax", "correct or remove it"
)
NO_SIZE = Kind("no_size", "is no <size> in whole pixels", "correct or remove it")
XML_DROP = tuple(
    kind.name for kind in (MISSING_XML, NO_XML, NO_ANNOTATION, NO_NAME, NO_BOX, NO_SIZE)
)


@dataclass(frozen=True)
class Annotations:
    """The annotated objects of many images.

    Attributes:
        names: Names of the images, ``[I]``.
        sizes: Width and height of each image in pixels, 0 where its file does not tell, ``[I, 2]``.
        images: Position of each object's image, ascending, int32 ``[M]``.
        classes: Class name or WordNet id of each object, ``[M]``.
        corners: ``xmin, ymin, xmax, ymax`` as in the files: 1-based, inclusive, float64 ``[M, 4]``.
        difficult: Objects that count neither as found nor as missed, bool ``[M]``.
        notes: What was left out.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    images: NDArray[np.int32]
    classes: list[str]
    corners: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


class XmlObject(NamedTuple):
    """One ``object`` element of an annotation file, with the corners as they stand there."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


def read_annotations(
    source: Path, names: Sequence[str], *, any_box: bool = False, drop: Collection[str] = ()
) -> Annotations:
    """Read the XML file of every name.

    Args:
        source: A folder of ``NAME.xml``, or a tar archive of them (.tar, .tar.gz, .tar.xz ...),
            in whatever folder of the archive.
        names: Names of the images, each once.
        any_box: Take boxes without area too.
        drop: What is left out where it is wrong in these ways, of ``XML_DROP``: the image whose
            file is missing or no annotation, the object without a name or box, the size.

    Returns:
        The objects of the images that are left.

    Raises:
        InputError: Names the first files that are missing, no proper XML, or hold an object
            without a name or a proper box, and how many there are.
    """
    files = read_files(source, [f"{name}.xml" for name in names])
    contents = [files.get(f"{name}.xml") for name in names]
    lengths = np.array([len(content or b"") for content in contents], dtype=np.int64)
    data = b"".join(content for content in contents if content)
    ends = np.cumsum(lengths)
    found, sizes, plain = scan_annotations(np.frombuffer(data, np.uint8), ends - lengths, ends)
    classes = [data[start:end].decode("ascii") for start, end in found.names.tolist()]

    problems = Problems(str(source), drop)
    others: list[tuple[int, XmlObject]] = []  # with the positions of their images
    usable = np.ones(len(names), dtype=np.bool_)
    for i in np.flatnonzero(~plain).tolist():
        content = contents[i]
        if content is None:
            problems.add(MISSING_XML, f"image {names[i]}", f"{names[i]}.xml")
        root = None if content is None else _parse_root(content, names[i], problems)
        usable[i] = root is not None
        if root is not None:
            objects, sizes[i] = _parse_content(root, names[i], problems, any_box)
            others += [(i, parsed) for parsed in objects]
    problems.raise_if_any()
    merged = _merge(tuple(names), sizes, found, classes, others)
    return replace(_select_images(merged, usable), notes=tuple(problems.notes()))


def parse_annotation(
    data: bytes, name: str, problems: Problems, *, any_box: bool = False
) -> tuple[list[XmlObject], tuple[int, int]]:
    """Parse any VOC or ILSVRC annotation; only tags count, not their order.

    Args:
        data: Content of the XML file.
        name: Name of the image.
        problems: Takes what is wrong with the file.
        any_box: Take boxes without area too.

    Returns:
        The objects, and the image's width and height, 0 where the file does not tell them.
    """
    root = _parse_root(data, name, problems)
    return ([], (0, 0)) if root is None else _parse_content(root, name, problems, any_box)


def read_photo_names(source: Path, names: Sequence[str]) -> dict[str, str]:
    """Read what annotations call their photos, without folders.

    Args:
        source: A folder of ``NAME.xml``, or a tar archive of them.
        names: Names of the images.

    Returns:
        The ``<filename>`` of each image whose file gives one.
    """
    files = read_files(source, [f"{name}.xml" for name in names])
    found = {}
    for name in names:
        root = _parse_root(files.get(f"{name}.xml", b""), name, Problems(str(source)))
        text = "" if root is None else (root.findtext("filename") or "").strip()
        if text:  # some tools write whole paths, those of Windows among them
            found[name] = text.replace("\\", "/").rpartition("/")[2]
    return found


def _parse_root(data: bytes, name: str, problems: Problems) -> Element | None:
    try:
        root: Element = defusedxml.ElementTree.fromstring(data)
    except (ParseError, DefusedXmlException) as error:
        harm = "a declaration of types or entities, which may do harm,"
        problems.add(NO_XML, f"{name}.xml", str(error) if isinstance(error, ParseError) else harm)
        return None
    if root.tag != "annotation":
        problems.add(NO_ANNOTATION, f"{name}.xml", f"<{root.tag}>")
        return None
    return root


def _parse_content(
    root: Element, name: str, problems: Problems, any_box: bool
) -> tuple[list[XmlObject], tuple[int, int]]:
    parsed = [_parse_object(e, name, problems, any_box) for e in root.iterfind("object")]
    return [found for found in parsed if found is not None], _parse_size(root, name, problems)


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


def _merge(
    names: tuple[str, ...],
    sizes: NDArray[np.int64],
    found: ScannedObjects,
    classes: list[str],
    others: Sequence[tuple[int, XmlObject]],
) -> Annotations:
    """Join the objects of plain files and of others in the order of the images."""
    images, corners, difficult = found.files, found.corners, found.difficult
    if others:
        images = np.concatenate([images, np.array([i for i, _ in others], dtype=np.int32)])
        order = np.argsort(images, kind="stable")
        images = images[order]
        corners = np.concatenate([corners, [parsed.corners for _, parsed in others]])[order]
        difficult = np.concatenate([difficult, [parsed.difficult for _, parsed in others]])[order]
        classes = classes + [parsed.name for _, parsed in others]
        classes = [classes[i] for i in order]
    return Annotations(names, sizes, images, classes, corners, difficult)


def _select_images(annotations: Annotations, keep: NDArray[np.bool_]) -> Annotations:
    """Return the annotations of the images of a mask, ``[I]``."""
    if keep.all():
        return annotations
    objects = keep[annotations.images]
    return Annotations(
        tuple(name for name, kept in zip(annotations.names, keep, strict=True) if kept),
        annotations.sizes[keep],
        (np.cumsum(keep) - 1)[annotations.images[objects]].astype(np.int32),
        [name for name, kept in zip(annotations.classes, objects, strict=True) if kept],
        annotations.corners[objects],
        annotations.difficult[objects],
    )
