"""What compiled code takes for plain, an XML parser must read alike."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.data.annotation_scan import scan_annotations
from detect.data.annotations import XmlObject, parse_annotation
from detect.data.problems import Problems

PLAIN = """<annotation>
	<folder>x</folder><source><database>d</database></source>
	<size><width>480</width><height>364</height><depth>3</depth></size>
	<object>
		<name>dog</name><difficult>1</difficult>
		<bndbox><ymin>2.5</ymin><xmin>1</xmin><xmax> 10 </xmax><ymax>20</ymax></bndbox>
		<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>
	</object>
	<object><name>n02084071</name><bndbox>
		<xmin>1</xmin><xmax>1</xmax><ymin>1</ymin><ymax>1e2</ymax></bndbox></object>
</annotation>
"""

Parsed = tuple[list[XmlObject], tuple[int, int]]


def scan(*texts: bytes) -> list[Parsed | None]:
    """Scan files one behind the other; None of those that are not plain."""
    data = b"".join(texts)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    starts = np.array([0, *ends[:-1]], dtype=np.int64)[: len(texts)]
    found, sizes, plain = scan_annotations(np.frombuffer(data, np.uint8), starts, ends)
    results: list[Parsed | None] = []
    for i in range(len(texts)):
        objects = [
            XmlObject(
                data[slice(*found.names[j].tolist())].decode(),
                tuple(found.corners[j].tolist()),
                bool(found.difficult[j]),
            )
            for j in np.flatnonzero(found.files == i)
        ]
        width, height = sizes[i].tolist()
        results.append((objects, (width, height)) if plain[i] else None)
        assert plain[i] or not (objects or width or height)
    return results


def parse(text: bytes) -> Parsed | None:
    """Let the XML parser read a file; None if anything is wrong with it."""
    problems = Problems("here")
    parsed = parse_annotation(text, "a", problems)
    try:
        problems.raise_if_any()
    except ValueError:
        return None
    return parsed


def check(text: bytes) -> bool:
    """Compare the two; tell whether the file was plain."""
    before, (result, after) = PLAIN.encode(), scan(text, PLAIN.encode())
    assert after == parse(before)  # whatever a file holds, the next one is read as ever
    assert result is None or result == parse(text)
    return result is not None


def test_no_files_hold_nothing() -> None:
    assert scan() == []
    assert scan(b"") == [None]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "<annotation></annotation>",
        " \n<annotation>text</annotation>\n ",
        "<annotation><object><name> a b </name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
        "<ymax>2</ymax><xmin>9</xmin></bndbox><bndbox><xmin>5</xmin></bndbox></object></annotation>",
        "<annotation><size><width>1</width><width>2</width><height></height></size><size>7</size></annotation>",
        "<annotation><b><object><name>no object of the root</name></object></b></annotation>",
        "<annotation><object><name>x<b>y</b>z</name><name>w</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>",
    ],
)
def test_plain_files_are_read_as_the_parser_reads_them(text: str) -> None:
    assert check(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        "<annotation></b>",
        "<annotation/>",
        "<annotation></annotation><b></b>",
        "<annotation></a>x",
        "x<annotation></annotation>",
        "<annotation b='c'></annotation>",
        "<annotation>&amp;</annotation>",
        "<annotation>é</annotation>",
        "<annotation>]]></annotation>",
        "<annotation>\x00</annotation>",
        "<!-- --><annotation></annotation>",
        '<?xml version="1.0"?><annotation></annotation>',
        "<!DOCTYPE annotation><annotation></annotation>",
        "<annotation><object></object></annotation>",
        "<annotation><size><width>wide</width></size></annotation>",
        "<annotation><size><width>-1</width></size></annotation>",
        PLAIN.replace("<xmax>1<", "<xmax>0<").replace("<xmin>1<", "<xmin>2<"),
        PLAIN.replace("2.5", "nan"),
        PLAIN.replace("<name>dog</name>", "<name> </name>"),
        "<annotation>" * 9 + "</annotation>" * 9,
        "<html></html>",
    ],
)
def test_other_files_are_left_to_the_parser(text: str) -> None:
    assert not check(text.encode())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_mutated_files_are_read_as_the_parser_reads_them_or_not_at_all(seed: int) -> None:
    rng = random.Random(seed)
    text = bytearray(PLAIN.encode())
    pieces = (b"<", b">", b"/", b"&", b"x", b"7", b"-", b" ", b"<object>", b"</object>", b"<name>")
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.choice([0, 1, 1, 5, 30]))
        if rng.random() < 0.3:  # move or repeat a piece
            moved = bytes(text[start:end])
            start = end = rng.randrange(len(text))
            text[start:end] = moved
        else:
            text[start:end] = rng.choice(pieces) if rng.random() < 0.7 else b""
    check(bytes(text))
