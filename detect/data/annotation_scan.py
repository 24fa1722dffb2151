"""Find the objects in many plain annotation files at once, in compiled code.

Plain is what VOC's and ILSVRC's own files are: elements without attributes, ASCII text, no
comments, declarations or entities. Whatever else a file holds, and whatever is wrong with it, is
left to an XML parser.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.data.numbers import PARSED, is_blank, parse_number

_MAX_DEPTH = 8  # plain files have 4 levels, or 5 with the parts of a person
_OPEN, _CLOSE, _SLASH, _AND, _BRACKET = b"<>/&]"


class ScannedObjects(NamedTuple):
    """The objects of all plain files, in the order of the files.

    Attributes:
        files: Position of each object's file, ascending, int32 ``[M]``.
        names: Start and end of its class's name in the data, int64 ``[M, 2]``.
        corners: 1-based inclusive ``xmin, ymin, xmax, ymax``, float64 ``[M, 4]``.
        difficult: Whether it is marked difficult, bool ``[M]``.
    """

    files: NDArray[np.int32]
    names: NDArray[np.int64]
    corners: NDArray[np.float64]
    difficult: NDArray[np.bool_]


def _word(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


_OBJECT, _NAME, _DIFFICULT, _BOX = map(_word, ("object", "name", "difficult", "bndbox"))
_XMIN, _YMIN, _XMAX, _YMAX = map(_word, ("xmin", "ymin", "xmax", "ymax"))
_SIZE, _WIDTH, _HEIGHT = map(_word, ("size", "width", "height"))
_ANNOTATION = _word("annotation")


def scan_annotations(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[ScannedObjects, NDArray[np.int64], NDArray[np.bool_]]:
    """Find objects with a proper box, and the sizes of images.

    Args:
        data: Bytes that hold all files.
        starts: Where each file starts, ``[I]``.
        ends: Where it ends, ``[I]``.

    Returns:
        The objects; width and height of each file's image, 0 where it does not tell them, int64
        ``[I, 2]``; and which files are plain and without fault, bool ``[I]``: there is nothing of
        the others among the objects.
    """
    room = _count_objects(data)
    found = ScannedObjects(
        np.empty(room, dtype=np.int32),
        np.empty((room, 2), dtype=np.int64),
        np.empty((room, 4)),
        np.empty(room, dtype=np.bool_),
    )
    sizes = np.zeros((len(starts), 2), dtype=np.int64)
    plain = np.zeros(len(starts), dtype=np.bool_)
    count = _scan_files(data, starts, ends, found, sizes, plain)
    found = ScannedObjects(
        found.files[:count], found.names[:count], found.corners[:count], found.difficult[:count]
    )
    return found, sizes, plain


@njit(cache=True, nogil=True)
def _count_objects(data: NDArray[np.uint8]) -> int:
    """Count the places that look like the start of an object."""
    count = 0
    for i in range(len(data) - 2):
        count += data[i] == _OPEN and data[i + 1] == _OBJECT[0] and data[i + 2] == _OBJECT[1]
    return count


@njit(cache=True, nogil=True)
def _scan_files(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    found: ScannedObjects,
    sizes: NDArray[np.int64],
    plain: NDArray[np.bool_],
) -> int:
    count = 0
    tags = np.empty((_MAX_DEPTH + 1, 2), dtype=np.int64)  # of the open elements; the root's is 1
    texts = np.empty((_MAX_DEPTH + 1, 2), dtype=np.int64)  # text before the first child of each
    for i in range(len(starts)):
        before = count
        count = _scan_file(data, i, starts[i], ends[i], found, count, sizes[i], tags, texts)
        plain[i] = count >= 0
        if count < 0:
            count = before
            sizes[i] = 0
    return count


@njit(cache=True, nogil=True)
def _scan_file(
    data: NDArray[np.uint8],
    file: int,
    start: int,
    end: int,
    found: ScannedObjects,
    count: int,
    size: NDArray[np.int64],
    tags: NDArray[np.int64],
    texts: NDArray[np.int64],
) -> int:
    """Scan one file; return the number of objects so far, -1 if the file is not plain."""
    position, depth, roots = start, 0, 0
    has_name = has_difficult = has_box = False  # of the object that is open
    has_size = has_width = has_height = False  # of the image
    given = 0  # corners of the object's first box, as bits
    while True:
        position, good = _skip_text(data, position, end, depth == 0)
        if not good:
            return -1
        if position == end:
            return count if depth == 0 and roots == 1 else -1
        if depth > 0 and texts[depth, 1] < 0:
            texts[depth, 1] = position
        closing = position + 1 < end and data[position + 1] == _SLASH
        first = position + 1 + closing
        position = _skip_tag(data, first, end)
        if position < 0:
            return -1
        if not closing:
            depth += 1
            roots += depth == 1
            if depth > _MAX_DEPTH or roots > 1:
                return -1
            tags[depth] = first, position
            position += 1
            texts[depth] = position, -1
            if depth == 1 and not _equal(data, tags[1], _ANNOTATION):
                return -1
            if depth == 2 and _equal(data, tags[2], _OBJECT):
                has_name = has_difficult = has_box = False
                given = 0
                found.difficult[count] = False
            continue
        if depth == 0 or not _equal(data, tags[depth], data[first:position]):
            return -1
        position += 1
        text = _strip(data, texts[depth])
        if depth == 2 and _equal(data, tags[2], _OBJECT):
            if not has_name or given != 15 or not _is_box(found.corners[count]):
                return -1
            found.files[count] = file
            count += 1
        elif depth == 2 and _equal(data, tags[2], _SIZE):
            has_size = True
        elif depth == 3 and _equal(data, tags[2], _OBJECT):
            if _equal(data, tags[3], _NAME) and not has_name:
                has_name = text[1] > text[0]
                if not has_name:
                    return -1
                found.names[count] = text
            elif _equal(data, tags[3], _DIFFICULT) and not has_difficult:
                has_difficult = True
                found.difficult[count] = text[1] == text[0] + 1 and data[text[0]] == 49
            elif _equal(data, tags[3], _BOX):
                has_box = True
        elif depth == 3 and _equal(data, tags[2], _SIZE) and not has_size:
            if _equal(data, tags[3], _WIDTH) and not has_width:
                has_width = True
                size[0] = _whole(data, text)
            elif _equal(data, tags[3], _HEIGHT) and not has_height:
                has_height = True
                size[1] = _whole(data, text)
            if size.min() < 0:
                return -1
        elif (
            depth == 4
            and not has_box
            and _equal(data, tags[2], _OBJECT)
            and _equal(data, tags[3], _BOX)
        ):
            given = _take_corner(data, tags[4], text, found.corners[count], given)
            if given < 0:
                return -1
        depth -= 1


@njit(cache=True, nogil=True)
def _skip_text(
    data: NDArray[np.uint8], position: int, end: int, only_blanks: bool
) -> tuple[int, bool]:
    """Return where the next tag or the end is, and whether the text before it is plain."""
    while position < end and data[position] != _OPEN:
        sign = data[position]
        strange = sign >= 127 or sign in (_AND, _BRACKET) or (sign < 32 and sign not in (9, 10, 13))
        if strange or (only_blanks and not is_blank(sign)):
            return position, False
        position += 1
    return position, True


@njit(cache=True, nogil=True)
def _skip_tag(data: NDArray[np.uint8], first: int, end: int) -> int:
    """Return where the ``>`` of a tag without attributes is, -1 if it is another."""
    position = first
    while position < end and data[position] != _CLOSE:
        sign = data[position]
        letter = 65 <= sign <= 90 or 97 <= sign <= 122 or sign == 95
        if not (letter or (position > first and 48 <= sign <= 57)):
            return -1
        position += 1
    return position if first < position < end else -1


@njit(cache=True, nogil=True)
def _take_corner(
    data: NDArray[np.uint8],
    tag: NDArray[np.int64],
    text: tuple[int, int],
    corners: NDArray[np.float64],
    given: int,
) -> int:
    """Store a corner the first time it is given; return the bits of those given, -1 if wrong."""
    column = -1
    for i, word in enumerate((_XMIN, _YMIN, _XMAX, _YMAX)):
        if _equal(data, tag, word):
            column = i
    if column < 0 or given >> column & 1:
        return given
    if text[0] == text[1]:
        return -1
    kind, stop, number = parse_number(data, np.uint64(text[0]), np.uint64(text[1]))
    if kind != PARSED or np.int64(stop) != text[1]:
        return -1
    corners[column] = number
    return given | 1 << column


@njit(cache=True, nogil=True)
def _is_box(corners: NDArray[np.float64]) -> bool:
    return bool(corners[2] - corners[0] + 1 > 0 and corners[3] - corners[1] + 1 > 0)


@njit(cache=True, nogil=True)
def _strip(data: NDArray[np.uint8], text: NDArray[np.int64]) -> tuple[int, int]:
    first, last = text
    while first < last and is_blank(data[first]):
        first += 1
    while first < last and is_blank(data[last - 1]):
        last -= 1
    return first, last


@njit(cache=True, nogil=True)
def _whole(data: NDArray[np.uint8], text: tuple[int, int]) -> np.int64:
    """Return a whole number, 0 of no text, -1 if it is none."""
    number = np.int64(0)
    for i in range(text[0], text[1]):
        if not 48 <= data[i] <= 57 or text[1] - text[0] > 9:
            return np.int64(-1)
        number = 10 * number + np.int64(data[i]) - 48
    return number


@njit(cache=True, nogil=True)
def _equal(data: NDArray[np.uint8], tag: NDArray[np.int64], word: NDArray[np.uint8]) -> bool:
    return _same(data[tag[0] : tag[1]], word)


@njit(cache=True, nogil=True)
def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    if len(one) != len(other):
        return False
    different = 0
    for i in range(len(one)):
        different += one[i] != other[i]
    return different == 0
