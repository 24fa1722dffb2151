from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defusedxml.ElementTree import parse
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detect.scoring.bootstrap import Difference, Interval, Intervals
from detect.scoring.errors import ERRORS, ErrorAnalysis
from detect.scoring.groups import GroupScore
from detect.scoring.scores import Scores
from detect.scoring.tables import GroundTruth
from detect.scoring_examples import Example, crop_region, cut_crops, find_photos, worst_errors
from detect.scoring_report import write_report
from tests.html_page import HtmlPage
from tests.test_scoring_curves import F, I, T, make_scores

EVIL = """<script>alert("1")</script><img src=x onerror='a&b'>"""


class Page(HtmlPage):
    """The page and the cells of its tables."""

    def __init__(self, path: Path) -> None:
        self.rows: list[list[str]] = []
        super().__init__(path)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return the only row that starts with this cell."""
        (row,) = [row for row in self.rows if row and row[0] == first]
        return row


def analysis(scores: Scores, **kinds: list[int]) -> ErrorAnalysis:
    """Analyse by hand: positions of the detections of each kind, of the objects if missed."""
    matches = scores.matches
    num_objects = len(matches.truth.labels)
    codes = np.full(len(matches.found), -1, dtype=np.int8)
    targets = np.full(len(matches.found), -1, dtype=np.int32)
    missed = np.zeros(num_objects, dtype=np.bool_)
    for kind, positions in kinds.items():
        if kind == "missed":
            missed[positions] = True
            continue
        codes[positions] = ERRORS.index(kind)
        if kind != "background":
            targets[positions] = np.arange(len(positions)) % max(1, num_objects)
    sums = {"false positives": 0.25, "false negatives": 0.5}
    return ErrorAnalysis(
        kinds=codes,
        targets=targets,
        overlaps=np.where(targets >= 0, 0.625, 0.0),
        missed=missed,
        unfound=missed,
        counts={kind: len(kinds.get(kind, [])) for kind in ERRORS},
        gains={kind: 0.01 * i for i, kind in enumerate(ERRORS)} | sums,
        confusion=np.zeros((matches.num_classes,) * 2, dtype=np.int64),
    )


def some_groups() -> dict[str, tuple[GroupScore, ...]]:
    size = GroupScore("small", None, 0, 0), GroupScore("medium", 0.25, 8, 3)
    return {"size": size, "crowding": (GroupScore("alone", 0.5, 4, 3),)}


def make(tmp_path: Path, scores: Scores, **options: Any) -> Page:
    options = {"errors": analysis(scores), "groups": some_groups()} | options
    path = write_report(tmp_path, scores, **options)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [path.name]
    return Page(path)


def intervals_of(scores: Scores) -> Intervals:
    rows = [Interval(0.125, 0.75) if score.ap is not None else None for score in scores.classes]
    mean = Interval(0.25, 0.5) if any(rows) else None
    return Intervals(0.95, 1000, 0, mean, tuple(rows))


@pytest.mark.parametrize(
    ("outcomes", "positives"),
    [([], []), ([[]], [0]), ([[]], [2]), ([[F, F]], [0]), ([[F, I], [T]], [1, 1])],
)
def test_a_page_is_written_whatever_was_found(
    outcomes: list[list[int]], positives: list[int], tmp_path: Path
) -> None:
    scores = make_scores(outcomes, positives)
    differences = [None] * len(outcomes)
    page = make(tmp_path, scores, intervals=intervals_of(scores), difference=(None, differences))
    assert "PASCAL VOC scores" in page.texts
    assert len([a for t, a in page.tags if t == "tr" and "data-class" in a]) == len(outcomes)
    assert "There are none." in page.texts


def test_the_table_of_classes_holds_the_scores(tmp_path: Path) -> None:
    scores = make_scores([[T, F, I, T], [F], []], [4, 2, 0], ["cat", "dog", "cow"])
    page = make(tmp_path, scores)
    assert page.row("cat") == ["cat", "0.417", "", "4", "4", "2", "1", "1", "0.500", "0.571", "0.2"]
    assert page.row("dog") == ["dog", "0.000", "", "2", "1", "0", "1", "0", "0.000", "0.000", "-"]
    assert page.row("cow") == ["cow", "-", "", "0", "0", "0", "0", "0", "-", "-", "-"]
    joined = "".join(page.texts)
    assert "1 class without objects to be found, left out of the mean: cow." in joined
    assert "mean AP|0.208|median AP|0.208|classes|2|" in "|".join(
        text for text in page.texts if text.strip()
    )


def test_intervals_and_differences_stand_beside_the_scores(tmp_path: Path) -> None:
    scores = make_scores([[T], [F]], [1, 0], ["cat", "dog"])
    difference = Difference(-0.0125, Interval(-0.03, 0.01), 0.2)
    page = make(
        tmp_path,
        scores,
        intervals=intervals_of(scores),
        difference=(difference, [difference, None]),
        other="last year's",
    )
    assert page.row("cat")[:5] == ["cat", "1.000", "", "0.125 to 0.750", "-0.013"]
    assert page.row("dog")[:5] == ["dog", "-", "", "-", "-"]
    assert "left:12.5%;width:62.5%" in page.attributes("span", "style")
    joined = "".join(page.texts)
    assert "0.250 to 0.500" in joined
    assert "95% intervals over 1,000 draws of the images" in joined
    assert "Mean AP minus that of last year's: -0.013, 95% interval -0.030 to +0.010; " in joined
    assert "above it in 20.0% of the draws" in joined


def test_coco_shows_its_twelve_numbers(tmp_path: Path) -> None:
    scores = make_scores([[T, F]], [1], thresholds=10, rule="101 points")
    stats = (0.5, 0.75, 0.25, None, *([0.125] * 8))
    page = make(tmp_path, replace(scores, format="coco", protocol="coco-bbox", stats=stats))
    assert page.row("AP50")[:2] == ["AP50", "0.750"]
    assert page.row("AP small")[:2] == ["AP small", "-"]
    assert page.row("AR large")[:2] == ["AR large", "0.125"]
    assert page.row("Class")[:4] == ["Class", "AP", "", "AP50"]
    assert any("at IoU 0.5, coco-bbox" in text for text in page.texts)


def test_errors_and_groups_stand_in_tables(tmp_path: Path) -> None:
    scores = make_scores([[F, F, T, F]], [3])
    page = make(tmp_path, scores, errors=analysis(scores, background=[0, 1], missed=[1, 2]))
    assert page.row("background")[:3] == ["background", "2", "+0.040"]
    assert page.row("missed")[:3] == ["missed", "2", "+0.050"]
    assert page.row("false positives")[:3] == ["false positives", "2", "+0.250"]
    assert page.row("false negatives")[:3] == ["false negatives", "2", "+0.500"]
    assert page.row("small") == ["small", "-", "", "0", "0", "-"]
    assert page.row("medium") == ["medium", "0.250", "", "3", "8", "0.375"]
    assert "width:100.0%" in page.attributes("span", "style")


@pytest.mark.parametrize(("num_classes", "columns"), [(1, 1), (3, 3), (30, 30), (31, 3)])
def test_confusions_are_listed_and_put_in_a_matrix(
    num_classes: int, columns: int, tmp_path: Path
) -> None:
    scores = make_scores([[T]] * num_classes, [1] * num_classes)
    errors = analysis(scores)
    np.fill_diagonal(errors.confusion, 50)
    last = num_classes - 1
    errors.confusion[0, last] = 7 if num_classes > 1 else 50
    if num_classes > 2:
        errors.confusion[last, 1] = 9
    page = make(tmp_path, scores, errors=errors)
    if num_classes == 1:
        assert "No detection lies on an object of another class." in page.texts
        return
    start = page.rows.index(["Object", "Detected as", "Count", ""])
    assert page.rows[start + 1] == [f"class {last}", "class 1", "9", ""]
    assert page.rows[start + 2] == ["class 0", f"class {last}", "7", ""]
    head = page.row("object \\ detected as")
    others = num_classes > 30
    assert len(head) == columns + 1 + others
    row = page.rows[page.rows.index(head) + 1]
    assert row == ["class 0", "50", *[""] * (columns - 2), "7", *[""] * others]


def test_the_rest_of_a_large_matrix_is_summed_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = make_scores([[T]] * 40, [1] * 40)
    errors = replace(analysis(scores), confusion=rng.integers(1, 9, (40, 40)))
    page = make(tmp_path, scores, errors=errors)
    head = page.row("object \\ detected as")
    start = page.rows.index(head) + 1
    assert len(head) == 32
    for row in page.rows[start : start + 30]:
        assert sum(map(int, row[1:])) == errors.confusion[int(row[0].split()[1])].sum()


def test_names_with_html_are_shown_as_they_are(tmp_path: Path) -> None:
    def page(name: str, folder: Path) -> Page:
        folder.mkdir()
        scores = make_scores(
            [[F, T], [F]], [2, 1], [name, "b"], images=[name], notes=(name,), rules=name
        )
        errors = analysis(scores, classification=[0], missed=[1])
        errors.confusion[0, 1] = 1
        difference = Difference(0, Interval(0, 0), 0), [None, None]
        photos = folder / "photos"
        photos.mkdir()
        options = {"photos": photos, "difference": difference, "other": name}
        return make(folder, scores, errors=errors, **options)

    plain, evil = page("a", tmp_path / "1"), page(EVIL, tmp_path / "2")
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    assert [set(a) for _, a in evil.tags] == [set(a) for _, a in plain.tags]
    assert sum(EVIL in text for text in evil.texts) >= 10
    assert page("\udce9 \x00", tmp_path / "3").source.count("? ") >= 10


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = make(tmp_path, make_scores([[T, F]], [2]))
    assert not page.attributes("script", "src")
    assert "link" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", page.source)
    (policy,) = [
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    links = [link.removeprefix("#") for link in page.attributes("a", "href")]
    assert set(links) <= {a["id"] for _, a in page.tags if a.get("id")}


def test_a_page_of_200_classes_is_small_and_repeatable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = [rng.choice([F, T, I], 100).tolist() for _ in range(200)]
    scores = make_scores(outcomes, [60] * 200)
    errors = replace(
        analysis(scores, background=list(range(500)), missed=list(range(99))),
        confusion=rng.integers(0, 9, (200, 200)),
    )
    first = make(tmp_path, scores, errors=errors, intervals=intervals_of(scores)).source
    assert len(first) < 1_000_000
    assert first.count('<polyline class="curve') == 201
    assert make(tmp_path, scores, errors=errors, intervals=intervals_of(scores)).source == first


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(ERRORS), max_size=12), st.integers(0, 4), st.data())
def test_the_worst_errors_equal_plain_sorting(
    kinds: list[str], count: int, data: st.DataObject
) -> None:
    scores = make_scores([[F] * len(kinds)], [len(kinds)])
    found, truth = scores.matches.found, scores.matches.truth
    for i in range(len(kinds)):
        found.scores[i] = data.draw(st.integers(0, 3)) / 4  # with equals
        truth.corners[i, 2] += data.draw(st.integers(0, 2))
    members = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in ERRORS}
    worst = worst_errors(scores.matches, analysis(scores, **members), count)
    assert tuple(worst) == ERRORS
    for kind, examples in worst.items():
        areas = np.prod(truth.corners[:, 2:] - truth.corners[:, :2] + 1, axis=1)
        values = areas if kind == "missed" else found.scores
        ranked = sorted(members[kind], key=lambda i: -values[i])[:count]
        corners = (truth if kind == "missed" else found).corners[ranked] - [1, 1, 0, 0]
        shown = [e.target_box if kind == "missed" else e.box for e in examples]
        assert shown == [tuple(box) for box in corners.tolist()]
        assert all(example.kind == kind for example in examples)


boxes = st.tuples(*[st.floats(-50, 400)] * 2, *[st.floats(0.5, 300)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=2), st.integers(1, 300), st.integers(1, 300))
def test_a_crop_lies_in_the_photo_and_holds_the_boxes(
    given_boxes: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    x1, y1, x2, y2 = crop_region(given_boxes, width, height)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    for box in given_boxes:
        for low, high, start, end, side in ((0, 2, x1, x2, width), (1, 3, y1, y2, height)):
            if box[high] > 0 and box[low] < side:
                assert start <= max(box[low], 0) and min(box[high], side) <= end


def test_a_crop_of_an_unknown_photo_is_a_square() -> None:
    assert crop_region([(100, 100, 200, 140)]) == (75, 45, 225, 195)
    assert crop_region([(-9, -9, -1, -1)]) == (0, 0, 64, 64)


def write_photo(path: Path, size: tuple[int, int] = (320, 240)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).save(path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a", "a.png"),
        ("a.png", "a.png"),
        ("a.jpg", "a.png"),  # converted since
        ("b", "deep/er/b.PNG"),
        ("val/b.png", "deep/er/b.PNG"),
        ("deep/er/b", "deep/er/b.PNG"),
        ("c.d", "c.d.png"),
        ("c", None),
        ("e", "e.png"),  # and not deep/e.png
        ("deep/e", "deep/e.png"),
        ("f", None),  # x/f.png or y/f.png
        ("x/f", "x/f.png"),
        ("../a", "a.png"),
        ("", None),
        ("notes", None),
    ],
)
def test_photos_are_found_by_name(name: str, file: str | None, tmp_path: Path) -> None:
    for path in ("a.png", "deep/er/b.PNG", "c.d.png", "e.png", "deep/e.png", "x/f.png", "y/f.png"):
        write_photo(tmp_path / path, (4, 3))
    (tmp_path / "notes.txt").write_text("no photo")
    found = find_photos(tmp_path, [name])[name]
    if file is None:
        assert isinstance(found, str)
    else:
        assert found == tmp_path / file
    assert find_photos(tmp_path, []) == {}


def test_errors_are_shown_on_their_photos(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "sub" / "one.png")
    scores = make_scores([[F, F, F]], [2], ["cat"], images=["one"], sizes=[(320, 240)])
    errors = analysis(scores, localisation=[0], background=[1, 2], missed=[0, 1])
    calls: list[int] = []
    page = make(
        tmp_path,
        scores,
        errors=errors,
        photos=tmp_path / "photos",
        on_progress=lambda: calls.append(1),
    )
    assert len(calls) == 1  # one photo, five crops
    sources = page.attributes("img", "src")
    assert len(sources) == 5
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as crop:
            assert crop.format == "JPEG"
            assert max(crop.size) <= 240
    assert page.attributes("span", "class").count("box object") == 1 + 2
    assert page.attributes("span", "class").count("box detected") == 1 + 2
    texts = [text for text in page.texts if text.strip()]
    start = texts.index("cat 0.500")
    assert texts[start : start + 3] == ["cat 0.500", "IoU 0.62 with cat", "one"]
    assert "not found, 16 x 11 pixels" in texts
    assert "on no object" in texts
    # The box of 16 x 11 pixels at the corner lies in a crop of 64 x 64.
    assert "left:0.0%;top:0.0%;width:25.0%;height:17.19%" in page.attributes("span", "style")


def test_photos_that_are_not_at_hand_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["gone", "broken", "other size", "good"]
    photos = tmp_path / "photos"
    write_photo(photos / "good.png")
    write_photo(photos / "other size.png", (100, 100))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    scores = make_scores([[]], [4], ["cat"], images=names, sizes=[(320, 240)] * 4)
    scores.matches.truth.images[:] = range(4)
    page = make(tmp_path, scores, errors=analysis(scores, missed=[0, 1, 2, 3]), photos=photos)
    assert len(page.attributes("img", "src")) == 1
    assert page.texts.count("photo not at hand") == 3
    assert page.row("gone") == ["gone", "no such photo in the folder"]
    assert page.row("broken")[1]
    assert page.row("other size")[1] == "is 100 x 100 pixels, and 320 x 240 in the annotations"
    assert "3 photos not shown" in page.texts
    assert "gone is missing in the report" in caplog.text


def test_without_photos_the_errors_stand_in_tables(tmp_path: Path) -> None:
    scores = make_scores([[F, F, F]], [2], ["cat"], images=["one"])
    errors = analysis(scores, localisation=[0], background=[1], missed=[0])
    page = make(tmp_path, scores, errors=errors)
    assert not page.attributes("img", "src")
    assert ["cat", "0.500", "16 x 11 pixels", "cat", "0.62", "one"] in page.rows
    assert ["cat", "0.333", "16 x 11 pixels", "-", "-", "one"] in page.rows
    assert ["cat", "16 x 11 pixels", "one"] in page.rows


def test_a_folder_of_photos_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    scores = make_scores([[F]], [1])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(tmp_path, scores, photos=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_no_examples_need_no_photos(tmp_path: Path) -> None:
    assert cut_crops([], tmp_path) == ([], {})


def test_crops_show_the_pixels_of_real_photos(shared_dir: Path) -> None:
    root = shared_dir / "data" / "voc2007"
    names = [path.stem for path in sorted((root / "JPEGImages").iterdir())[:3]]
    examples, boxes_of = [], []
    for name in names:
        tree = parse(root / "Annotations" / f"{name}.xml")
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        corners = [float(part.text) for part in tree.find("object/bndbox")]
        box = (corners[0] - 1, corners[1] - 1, corners[2], corners[3])
        examples.append(
            Example("missed", name, (width, height), None, None, None, "object", box, 0.0)
        )
        boxes_of.append(box)
    crops, problems = cut_crops(examples, root)
    assert problems == {}
    for name, crop, box in zip(names, crops, boxes_of, strict=True):
        assert crop.address is not None
        x1, y1, x2, y2 = crop.region
        assert x1 <= box[0] < box[2] <= x2
        assert y1 <= box[1] < box[3] <= y2
        data = base64.b64decode(crop.address.split(",")[1])
        with (
            Image.open(io.BytesIO(data)) as cut,
            Image.open(root / "JPEGImages" / f"{name}.jpg") as photo,
        ):
            expected = photo.crop((int(x1), int(y1), int(x2), int(y2))).resize(cut.size)
            difference = np.asarray(cut, float) - np.asarray(expected.convert("RGB"), float)
        assert np.abs(difference).mean() < 8


def test_truth_of_images_alone_is_no_error(tmp_path: Path) -> None:
    scores = make_scores([], [])
    matches = scores.matches
    nothing: GroundTruth = replace(
        matches.truth, names=(), image_ids=np.zeros(0, np.int64), sizes=np.zeros((0, 2), np.int64)
    )
    page = make(tmp_path, replace(scores, matches=replace(matches, truth=nothing)))
    assert "images|0|" in "|".join(text for text in page.texts if text.strip())
