from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.data.problems import InputError, Problems
from detect.scoring import lines
from detect.scoring.lines import NumberLines, read_number_lines

FORM, NAMED = "a b c", "name b c"


def read(path: Path, content: str | bytes, form: str = FORM, **options: bool) -> NumberLines:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems = Problems(str(path))
    found = read_number_lines(path, 3 if form == FORM else 2, form, problems, **options)
    problems.raise_if_any()
    return found


def reference(content: str, columns: int, named: bool) -> list[tuple[int, str, list[float]]] | None:
    """Split every line in Python; None if one is wrong."""
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        numbers = words[-columns:]
        name = line.strip()
        for word in reversed(numbers):
            name = name[: name.rindex(word)].rstrip()
        try:
            values = [float(word) for word in numbers]
        except ValueError:
            return None
        wrong = len(values) != columns or bool(name) != named or "_" in "".join(numbers)
        if wrong or not np.isfinite(values).all():
            return None
        rows.append((number, name, values))
    return rows


@pytest.mark.parametrize("content", ["", "\n", " \t\r\n\n"])
@pytest.mark.parametrize("form", [FORM, NAMED])
def test_an_empty_file_holds_no_lines(tmp_path: Path, content: str, form: str) -> None:
    found = read(tmp_path / "x", content, form)
    assert found.values.shape == (0, 3 if form == FORM else 2)
    assert (len(found), found.names, found.numbers.tolist()) == (0, [], [])


words = st.sampled_from(
    ["1", "-2.5", "1e3", "0.1", "123456789012345678901", "nan", "x", "1_0", "é"]
)
blanks = st.sampled_from([" ", "\t", "  ", " \t "])
texts = st.lists(
    st.lists(st.tuples(words, blanks).map("".join), max_size=4).map("".join), max_size=8
).map("\n".join)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_equal_those_split_in_python(
    tmp_path: Path, content: str, named: bool, end: str, closed: bool
) -> None:
    expected = reference(content, 2 if named else 3, named)
    packed = content.replace("\n", end) + (end if closed else "")
    if expected is None:
        with pytest.raises(InputError):
            read(tmp_path / "x", packed, NAMED if named else FORM)
        return
    found = read(tmp_path / "x", packed, NAMED if named else FORM)
    assert found.numbers.tolist() == [number for number, _, _ in expected]
    assert found.values.tolist() == [values for _, _, values in expected]
    if named:
        assert found.names == [name for _, name, _ in expected]


def test_every_part_of_a_long_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "".join(f"{i} {i / 7} -{i}\n" for i in range(1000))
    whole = read(tmp_path / "x", content)
    assert whole.values[:, 0].tolist() == list(range(1000))
    assert whole.numbers.tolist() == list(range(1, 1001))
    for parts in (1, 3, 64, 5000):
        monkeypatch.setattr(lines, "_PARTS", parts)
        assert np.array_equal(read(tmp_path / "x", content).values, whole.values)


def test_a_byte_order_mark_and_packing_make_no_difference(tmp_path: Path) -> None:
    assert read(tmp_path / "x", b"\xef\xbb\xbf1 2 3\n").values.tolist() == [[1, 2, 3]]
    assert read(tmp_path / "x", b"\xef\xbb\xbfnan 2 3", any_number=True).values[0, 1] == 2
    assert read(tmp_path / "x.gz", gzip.compress(b"1 2 3")).values.tolist() == [[1, 2, 3]]


def test_names_may_hold_blanks_and_any_bytes(tmp_path: Path) -> None:
    found = read(tmp_path / "x", b" a  b\t1 2 \n\xff 3 4\n7 5 6", NAMED)
    assert found.names == ["a  b", "\udcff", "7"]
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_bad_lines_are_named_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("1 2 3\n1 2\n\nnan 1 1\n1 2 3 4\n4 5 6\n")
    problems = Problems(str(path), accepted=("malformed", "not_finite"))
    found = read_number_lines(path, 3, FORM, problems)
    assert found.values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.numbers.tolist() == [1, 6]
    assert [note.split(": ", 1)[1] for note in problems.notes()] == [
        "2 left out (malformed), the first at line 2: '1 2' is not 'a b c'",
        "1 left out (not_finite), the first at line 4: 'nan 1 1' holds a number that is not finite",
    ]
    with pytest.raises(InputError, match="2 entries wrong in the same way; write the line again"):
        read(path, path.read_text())
    assert np.isnan(read(path, "nan 1 1", any_number=True).values[0, 0])
