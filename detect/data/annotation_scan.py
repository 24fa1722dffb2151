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
_OPEN, _CLOSE, _SLASH = b"<>/"
_LETTER, _BLANK, _TAG, _STRANGE = range(4)  # what a byte is in the text between tags
_TEXT = np.full(256, _STRANGE, dtype=np.uint8)
_TEXT[32:127] = _LETTER
_TEXT[list(b" \t\r\n")] = _BLANK
_TEXT[_OPEN] = _TAG
_TEXT[list(b"&]")] = _STRANGE


_Int = int | np.int64


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


# The tags that count, as numbers; 0 is any other.
_WORDS: tuple[str, ...] = (
    *("", "annotation", "object", "name", "difficult", "bndbox", "size", "width", "height"),
    *("xmin", "ymin", "xmax", "ymax"),
)
_ANNOTATION, _OBJECT, _NAME, _DIFFICULT, _BOX, _SIZE, _WIDTH, _HEIGHT, _XMIN = range(1, 10)
_LETTERS = np.zeros((len(_WORDS), 10), dtype=np.uint8)
_LENGTHS = np.array([len(word) for word in _WORDS])
for _row, _text in zip(_LETTERS, _WORDS, strict=True):
    _row[: len(_text)] = list(_text.encode())


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
        count += data[i] == _OPEN and data[i + 1] == 111 and data[i + 2] == 98  # <ob
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
    words = np.zeros(_MAX_DEPTH + 1, dtype=np.int64)  # the same, as numbers
    texts = np.empty((_MAX_DEPTH + 1, 2), dtype=np.int64)  # text before the first child of each
    for i in range(len(starts)):
        before = count
        count = _scan_file(data, i, starts[i], ends[i], found, count, sizes[i], tags, words, texts)
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
    words: NDArray[np.int64],
    texts: NDArray[np.int64],
) -> int:
    """Scan one file; return the number of objects so far, -1 if the file is not plain."""
    position, depth, roots = np.int64(start), 0, 0
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
            tags[depth, 0], tags[depth, 1] = first, position
            words[depth] = _find_word(data, first, position)
            position += 1
            texts[depth, 0], texts[depth, 1] = position, -1
            if depth == 1 and words[1] != _ANNOTATION:
                return -1
            if depth == 2 and words[2] == _OBJECT:
                has_name = has_difficult = has_box = False
                given = 0
                found.difficult[count] = False
            continue
        if depth == 0 or not _equal(data, tags[depth, 0], tags[depth, 1], first, position):
            return -1
        position += 1
        text = _strip(data, texts[depth, 0], texts[depth, 1])
        if depth == 2 and words[2] == _OBJECT:
            if not has_name or given != 15 or not _is_box(found.corners[count]):
                return -1
            found.files[count] = file
            count += 1
        elif depth == 2 and words[2] == _SIZE:
            has_size = True
        elif depth == 3 and words[2] == _OBJECT:
            if words[3] == _NAME and not has_name:
                has_name = bool(text[1] > text[0])
                if not has_name:
                    return -1
                found.names[count, 0], found.names[count, 1] = text
            elif words[3] == _DIFFICULT and not has_difficult:
                has_difficult = True
                found.difficult[count] = text[1] == text[0] + 1 and data[text[0]] == 49
            elif words[3] == _BOX:
                has_box = True
        elif depth == 3 and words[2] == _SIZE and not has_size:
            if words[3] == _WIDTH and not has_width:
                has_width = True
                size[0] = _whole(data, text)
            elif words[3] == _HEIGHT and not has_height:
                has_height = True
                size[1] = _whole(data, text)
            if size.min() < 0:
                return -1
        elif depth == 4 and not has_box and words[2] == _OBJECT and words[3] == _BOX:
            given = _take_corner(data, words[4] - _XMIN, text, found.corners[count], given)
            if given < 0:
                return -1
        depth -= 1


@njit(cache=True, nogil=True)
def _skip_text(
    data: NDArray[np.uint8], position: _Int, end: _Int, only_blanks: bool
) -> tuple[np.int64, bool]:
    """Return where the next tag or the end is, and whether the text before it is plain."""
    place, stop, one = np.uint64(position), np.uint64(end), np.uint64(1)  # no negative indices
    while place < stop:
        kind = _TEXT[data[place]]
        if kind == _TAG:
            break
        if kind == _STRANGE or (only_blanks and kind != _BLANK):
            return np.int64(position), False
        place += one
    return np.int64(place), True


@njit(cache=True, nogil=True)
def _skip_tag(data: NDArray[np.uint8], first: _Int, end: _Int) -> np.int64:
    """Return where the ``>`` of a tag without attributes is, -1 if it is another."""
    place, stop, one = np.uint64(first), np.uint64(end), np.uint64(1)
    while place < stop and data[place] != _CLOSE:
        sign = data[place]
        letter = 65 <= sign <= 90 or 97 <= sign <= 122 or sign == 95
        if not (letter or (place > np.uint64(first) and 48 <= sign <= 57)):
            return np.int64(-1)
        place += one
    return np.int64(place) if np.uint64(first) < place < stop else np.int64(-1)


@njit(cache=True, nogil=True)
def _take_corner(
    data: NDArray[np.uint8],
    column: int,
    text: tuple[_Int, _Int],
    corners: NDArray[np.float64],
    given: int,
) -> int:
    """Store a corner the first time it is given; return the bits of those given, -1 if wrong."""
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
def _strip(data: NDArray[np.uint8], first: _Int, last: _Int) -> tuple[_Int, _Int]:
    while first < last and is_blank(data[first]):
        first += 1
    while first < last and is_blank(data[last - 1]):
        last -= 1
    return first, last


@njit(cache=True, nogil=True)
def _whole(data: NDArray[np.uint8], text: tuple[_Int, _Int]) -> np.int64:
    """Return a whole number, 0 of no text, -1 if it is none."""
    number = np.int64(0)
    for i in range(text[0], text[1]):
        if not 48 <= data[i] <= 57 or text[1] - text[0] > 9:
            return np.int64(-1)
        number = 10 * number + np.int64(data[i]) - 48
    return number


@njit(cache=True, nogil=True)
def _find_word(data: NDArray[np.uint8], first: _Int, end: _Int) -> int:
    """Return the number of a tag, 0 if it does not count."""
    for word in range(1, len(_LENGTHS)):
        if end - first == _LENGTHS[word] and data[first] == _LETTERS[word, 0]:
            place = 1
            while place < end - first and data[first + place] == _LETTERS[word, place]:
                place += 1
            if place == end - first:
                return word
    return 0


@njit(cache=True, nogil=True)
def _equal(data: NDArray[np.uint8], first: _Int, end: _Int, other: _Int, other_end: _Int) -> bool:
    """Tell whether two tags are the same."""
    if end - first != other_end - other:
        return False
    different = 0
    for i in range(end - first):
        different += data[first + i] != data[other + i]
    return different == 0
