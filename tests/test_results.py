from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from detect import results
from detect.detections import Detections
from detect.files import write_atomically
from detect.results import ImageResult

CLASSES = ("person", "dining table", "and/or", "Größe ж 猫")

corners = st.floats(-50, 5000, width=32)
boxes = st.tuples(corners, corners, st.floats(0.125, 3000, width=32), st.floats(1, 9, width=32))
scores = st.floats(width=32, allow_nan=False, allow_infinity=False)
Rows = list[tuple[tuple[float, float, float, float], float, int]]
found = st.lists(st.tuples(boxes, scores, st.integers(0, len(CLASSES) - 1)), max_size=6)


def detections(rows: Rows) -> Detections:
    table = [(x, y, x + w, y + h) for (x, y, w, h), _, _ in rows]
    return Detections(
        torch.tensor(table, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
        torch.tensor([label for _, _, label in rows], dtype=torch.int64),
        CLASSES,
    )


FOUR = detections(
    [
        ((0, 0, 1, 1), 0.1, 0),
        ((10.126, 20.5, 30.25, 40.75), 0.7, 1),
        ((99.999, -0.001, 7, 9), 1e-7, 3),
        ((3, 4, 5, 6), 0.7, 2),
    ]
)


def assert_same_to_a_hundredth(read: Detections, written: Detections) -> None:
    assert (read.boxes - written.boxes).abs().max() <= 0.005 + 1e-3  # float32 at 8,000 pixels
    assert torch.equal(read.scores, written.scores)
    assert torch.equal(read.labels, written.labels)


def by_score(found: Detections) -> Detections:
    order = sorted(range(len(found)), key=lambda i: (-found.scores[i], found.labels[i], i))
    return found[torch.tensor(order, dtype=torch.int64)]


@pytest.mark.parametrize("given_detections", [Detections.empty(CLASSES), FOUR])
def test_every_format_round_trips(given_detections: Detections, tmp_path: Path) -> None:
    photos = [ImageResult("a b.jpg", 640, 480, given_detections), ImageResult("c.png", 9, 9, FOUR)]
    results.write_results(tmp_path, photos, CLASSES)
    names = results.read_image_list(tmp_path / "images.txt")
    assert names == {"a b": 1, "c": 2}
    assert results.read_categories(tmp_path / "categories.json") == CLASSES
    for read, sort in [
        (results.read_coco(tmp_path / "detections.json", CLASSES), False),
        (results.read_ilsvrc(tmp_path / "detections.txt", CLASSES), False),
        ({names[k]: v for k, v in results.read_voc(tmp_path / "voc", CLASSES).items()}, True),
    ]:
        assert set(read) == ({1, 2} if len(given_detections) else {2})
        for image_id, found in read.items():
            written = photos[image_id - 1].detections
            assert_same_to_a_hundredth(found, by_score(written) if sort else written)


def test_no_photo_and_no_class_give_empty_files(tmp_path: Path) -> None:
    results.write_results(tmp_path, [], ())
    assert results.read_coco(tmp_path / "detections.json") == {}
    assert results.read_ilsvrc(tmp_path / "detections.txt") == {}
    assert results.read_voc(tmp_path / "voc", ()) == {}
    assert results.read_image_list(tmp_path / "images.txt") == {}
    assert results.read_categories(tmp_path / "categories.json") == ()


@settings(deadline=None, max_examples=40)
@given(found)
def test_a_second_round_trip_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    written = detections(rows)
    path = folder / "x"
    for write, read in (
        (results.write_coco, results.read_coco),
        (results.write_ilsvrc, results.read_ilsvrc),
    ):
        write(path, {7: written})
        first = path.read_bytes()
        again = read(path)
        if rows:
            assert_same_to_a_hundredth(again[7], written)
        write(path, again)
        assert path.read_bytes() == first
    results.write_voc(folder, {"a photo": written}, CLASSES)
    again_voc = results.read_voc(folder, CLASSES)
    if rows:
        assert_same_to_a_hundredth(again_voc["a photo"], by_score(written))


@given(st.lists(scores, max_size=20))
def test_printed_scores_give_the_same_float32_back(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    texts = results.exact_texts(tensor)
    assert torch.equal(torch.tensor([float(text) for text in texts]), tensor)
    assert all(len(text) <= 15 for text in texts)  # -1.2345678e-38


def test_ilsvrc_and_voc_are_one_based_inclusive_and_coco_is_xywh(tmp_path: Path) -> None:
    pixel = detections([((4, 6, 1, 1), 0.5, 2)])  # one pixel: column 4, row 6 from 0
    results.write_results(tmp_path, [ImageResult("p.jpg", 9, 9, pixel)], CLASSES)
    assert (tmp_path / "detections.txt").read_text() == "1 3 0.5 5.00 7.00 5.00 7.00\n"
    voc = tmp_path / "voc" / "comp4_det_test_and%2For.txt"
    assert voc.read_text() == "p 0.5 5.00 7.00 5.00 7.00\n"
    assert json.loads((tmp_path / "detections.json").read_text()) == [
        {"image_id": 1, "category_id": 3, "bbox": [4.0, 6.0, 1.0, 1.0], "score": 0.5}
    ]
    second = json.loads((tmp_path / "categories.json").read_text())[1]
    assert second == {"id": 2, "name": "dining table"}


def test_pycocotools_reads_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write_results(tmp_path, [ImageResult("p.jpg", 640, 480, FOUR)], CLASSES)
    assert "-0.0" not in (tmp_path / "detections.json").read_text()
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 640, "height": 480}],
        "categories": json.loads((tmp_path / "categories.json").read_text()),
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "detections.json"))
    assert len(loaded.getAnnIds(imgIds=[1])) == 4
    assert loaded.anns[2]["bbox"] == [10.13, 20.5, 30.25, 40.75]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["holiday/a b.jpg"], ["holiday/a b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a", "y/a"]),
        (["a.jpg", "a"], ["a.jpg", "a"]),
        (["a.b.jpg", "a.b", "a.c"], ["a.b.jpg", "a.b", "a.c"]),
        (["clip.mp4#000012", "clip.mp4#000013"], ["clip.mp4#000012", "clip.mp4#000013"]),
        (["v1.2/photo", ".hidden"], ["v1.2/photo", ".hidden"]),
        (["two\nlines.jpg"], ["two␊lines"]),
    ],
)
def test_names_lose_their_suffix_only_where_they_stay_unique(
    names: list[str], expected: list[str]
) -> None:
    assert results.list_names(names) == expected


@given(st.lists(st.text("ab./ ", min_size=1, max_size=6), unique=True, max_size=12))
def test_listed_names_are_unique_and_come_back(names: list[str]) -> None:
    listed = results.list_names(names)
    assert len(set(listed)) == len(names)
    assert all(name.startswith(short) for name, short in zip(names, listed, strict=True))


def test_names_with_spaces_and_raw_bytes_come_back(tmp_path: Path) -> None:
    names = ["  two  spaces 7", "caf\udce9", "line\u2028separator", "tab\there"]
    results.write_image_list(tmp_path / "images.txt", names)
    assert list(results.read_image_list(tmp_path / "images.txt")) == names
    results.write_voc(tmp_path, dict.fromkeys(names, FOUR), CLASSES)
    assert set(results.read_voc(tmp_path, CLASSES)) == set(names)


def test_two_photos_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two photos have the name 'a\.jpg'"):
        results.list_names(["a.jpg", "b.jpg", "a.jpg"])


def test_every_class_has_a_voc_file_and_old_ones_go(tmp_path: Path) -> None:
    results.write_voc(tmp_path, {}, ("cat", "dog"))
    assert (tmp_path / "comp4_det_test_dog.txt").read_bytes() == b""
    results.write_voc(tmp_path, {}, ("cat", "bird"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comp4_det_test_bird.txt",
        "comp4_det_test_cat.txt",
    ]
    with pytest.raises(FileNotFoundError, match="dog"):
        results.read_voc(tmp_path, ("cat", "dog"))


def test_awkward_class_names_give_safe_distinct_files(tmp_path: Path) -> None:
    names = [
        "a/b",
        "a%2Fb",
        "..",
        "cat",
        "Cat",
        "CAT",
        "x" * 400,
        "x" * 401,
        "猫" * 200,
        "",
        "nul\0",
        "C:",
    ]
    files = results.voc_file_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    assert not any(set(file) & set('/\\:*?"<>|\0') for file in files)
    results.write_voc(tmp_path / "voc", {}, names)
    assert {path.name for path in (tmp_path / "voc").iterdir()} == set(files)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float, tmp_path: Path) -> None:
    broken = Detections(torch.ones(1, 4), torch.tensor([bad]), torch.tensor([0]))
    with pytest.raises(ValueError, match="not a finite number"):
        results.write_results(tmp_path, [ImageResult("a", 1, 1, broken)], CLASSES)


def test_a_label_without_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: label 3 has no class"):
        results.write_results(tmp_path, [ImageResult("a.jpg", 9, 9, FOUR)], CLASSES[:3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1 0.5 1 1 2 2\n1 1 0.5 1 1 2\n", "line 2"),
        ("1 one 0.5 1 1 2 2\n", "line 1"),
        ("1 0 0.5 1 1 2 2\n", "class ids start at 1, found 0"),
        ("1 9 0.5 1 1 2 2\n", "leave the 4 classes"),
    ],
)
def test_a_broken_ilsvrc_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        results.read_ilsvrc(tmp_path / "d.txt", CLASSES)


def test_other_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_test_a.txt"
    for text, read, message in (
        ('{"a": 1}', results.read_coco, "a list, not a dict"),
        ('[{"bbox": [1, 2, 3, 4]}]', results.read_coco, "entry 0"),
        ('[{"id": 0, "name": "a"}]', results.read_categories, "1, 2, 3"),
        ("a 1\nb\n", results.read_image_list, "line 2"),
        ("name 0.5 1 2 3\n", lambda path: results.read_voc(path.parent, ("a",)), "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read(path)


def test_files_with_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_bytes(b"a 1\r\nb c 2\r\n\r\n")
    assert results.read_image_list(tmp_path / "images.txt") == {"a": 1, "b c": 2}


@pytest.mark.parametrize(
    "rows", [[], [("a, b.jpg", 'it is "broken"\nat byte 7'), ("caf\udce9", "")]]
)
def test_skipped_photos_come_back(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    results.write_skipped(tmp_path / "skipped.csv", rows)
    assert (tmp_path / "skipped.csv").read_bytes().startswith(b"image,reason\n")
    assert results.read_skipped(tmp_path / "skipped.csv") == rows


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 7)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 400, (50, 2))
    many = Detections(
        torch.from_numpy(np.hstack([low, low + rng.uniform(1, 99, (50, 2))])).float(),
        torch.from_numpy(rng.uniform(0, 1, 50)).float(),
        torch.from_numpy(rng.integers(0, 4, 50)),
    )
    for folder in ("first", "second"):
        results.write_results(tmp_path / folder, [ImageResult("a.jpg", 500, 500, many)], CLASSES)
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        other = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert other.read_bytes() == path.read_bytes()
