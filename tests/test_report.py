from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from detect import report
from detect.detections import Detections
from detect.report import write_report
from detect.results import ImageResult
from tests.html_page import HtmlPage

CLASSES = ("cat", "dog", "<b>bold</b> & 'co'", "never")


def result(name: str, *rows: tuple[float, float, float, float, float, int]) -> ImageResult:
    table = torch.tensor(rows).reshape(-1, 6)
    found = Detections(table[:, :4], table[:, 4], table[:, 5].long(), CLASSES)
    return ImageResult(name, 451, 300, found)


def some_results(count: int, boxes: int = 5) -> list[ImageResult]:
    rng = np.random.default_rng(0)
    results = []
    for i in range(count):
        low = rng.uniform(0, 200, (boxes, 2))
        corners = np.hstack([low, low + rng.uniform(1, 99, (boxes, 2))])
        rest = np.stack([rng.uniform(0, 1, boxes), rng.integers(0, 3, boxes)], axis=1)
        results.append(result(f"photo {i}.jpg", *np.hstack([corners, rest]).tolist()))
    return results


def grey(name: str) -> Tensor:
    return torch.full((3, 300, 451), 128, dtype=torch.uint8)


class Page(HtmlPage):
    """The page and the data inside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.data: dict[str, Any] = json.loads(
            next(text for text in self.texts if text.startswith('{"classes"'))
        )


def make(tmp_path: Path, results: list[ImageResult], **options: Any) -> Page:
    path = tmp_path / "report.html"
    load: Callable[[str], Tensor] = options.pop("load_photo", grey)
    write_report(path, results, CLASSES, load_photo=load, **options)
    return Page(path)


@pytest.mark.parametrize(
    ("results", "photos"),
    [([], 0), ([result("a.jpg")], 1), ([result("a.jpg", (1, 2, 30, 40, 0.9, 1))], 1)],
)
def test_a_page_shows_few_or_no_photos(
    results: list[ImageResult], photos: int, tmp_path: Path
) -> None:
    page = make(tmp_path, results)
    assert f"Detections in {photos} photo{'' if photos == 1 else 's'}" in page.texts
    assert len(page.attributes("img", "src")) == photos
    assert len(page.data["photos"]) == photos
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_the_page_carries_the_photo_and_its_boxes(tmp_path: Path) -> None:
    photo = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)
    page = make(
        tmp_path,
        [result("c.jpg", (1, 2, 30, 40, 0.3, 0), (5.06, 6, 700, 80, 0.9, 1))],
        load_photo=lambda name: photo,
    )
    (source,) = page.attributes("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as thumbnail:
        assert thumbnail.size == (451, 300)
        difference = np.asarray(thumbnail).astype(float) - skimage.data.chelsea()
    assert np.abs(difference).mean() < 5
    dog, cat = page.data["classes"]  # the dog first: at the threshold there is no cat
    assert (dog["name"], cat["name"]) == ("dog", "cat")
    assert page.data["photos"] == [
        {
            "name": "c.jpg",
            "boxes": [[0.9, 0, 5.1, 6.0, 700.0, 80.0], [0.3, 1, 1.0, 2.0, 30.0, 40.0]],
        }
    ]


def test_large_photos_are_shrunk_in_proportion(tmp_path: Path) -> None:
    page = make(tmp_path, [result("a")], load_photo=lambda name: torch.zeros(3, 2000, 1000).byte())
    (source,) = page.attributes("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as thumbnail:
        assert thumbnail.size == (320, 640)


def test_counts_of_every_score_equal_plain_counting(tmp_path: Path) -> None:
    results = some_results(20)
    page = make(tmp_path, results)
    assert page.data["edges"] == [round(k / 100, 2) for k in range(101)]
    for described in page.data["classes"]:
        label = CLASSES.index(described["name"])
        for k, edge in enumerate(page.data["edges"]):
            found = [
                [
                    round(s, 3) >= edge
                    for s in r.detections.scores[r.detections.labels == label].tolist()
                ]
                for r in results
            ]
            assert described["objects"][k] == sum(map(sum, found))
            assert described["photos"][k] == sum(map(any, found))
    assert sum(d["objects"][0] for d in page.data["classes"]) == 100
    assert "1 more class never found." in page.source


def test_boxes_and_counts_of_the_page_agree(tmp_path: Path) -> None:
    edge_cases = [0.0, 0.01, 0.29, 0.57, 0.5796, 0.58, 0.4996, 1.0]  # 0.29 * 100 < 29
    page = make(tmp_path, [result("a", *[(0, 0, 9, 9, score, 0) for score in edge_cases])])
    boxes = page.data["photos"][0]["boxes"]
    for k, edge in enumerate(page.data["edges"]):
        drawn = sum(score >= edge for score, *_ in boxes)  # as the page's script does
        assert page.data["classes"][0]["objects"][k] == drawn


@pytest.mark.parametrize(
    ("scores", "edges"),
    [([], (0, 1)), ([0.2, 0.7], (0, 1)), ([-1.3, 2.2], (-2, 3)), ([5.0], (0, 5))],
)
def test_the_slider_covers_all_scores(
    scores: list[float], edges: tuple[int, int], tmp_path: Path
) -> None:
    page = make(tmp_path, [result("a", *[(0, 0, 9, 9, score, 0) for score in scores])])
    assert (page.data["edges"][0], page.data["edges"][-1]) == edges
    assert sum(c["objects"][0] for c in page.data["classes"]) == len(scores)


@pytest.mark.parametrize(
    ("threshold", "step"), [(-1.0, 0), (0.0, 0), (0.5, 50), (0.503, 51), (7, 100)]
)
def test_the_slider_starts_at_the_threshold(threshold: float, step: int, tmp_path: Path) -> None:
    page = make(tmp_path, some_results(1), score_threshold=threshold)
    assert page.data["start"] == step
    (slider,) = [a for t, a in page.tags if t == "input" and a.get("id") == "score"]
    assert slider["value"] == str(step)


def test_a_thousand_photos_are_shown_in_part_and_counted_in_full(tmp_path: Path) -> None:
    results = some_results(1000)
    asked = []

    def load(name: str) -> Tensor:
        asked.append(name)
        return grey(name)

    page = make(tmp_path, results, load_photo=load)
    assert asked == [r.name for r in results[:200]]
    assert len(page.attributes("img", "src")) == 200
    assert len(page.data["photos"]) == 1000
    assert [len(box) for box in page.data["photos"][199]["boxes"]] == [6] * 5
    assert [len(box) for box in page.data["photos"][200]["boxes"]] == [2] * 5
    assert sum(c["objects"][0] for c in page.data["classes"]) == 5000
    assert "Counts cover all 1,000 photos. The first 200 are shown" in page.source
    assert len(page.source) < 3_000_000


def test_photos_beyond_the_list_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "PHOTOS_SHOWN", 2)
    monkeypatch.setattr(report, "PHOTOS_LISTED", 5)
    monkeypatch.setattr(report, "BOXES_A_PHOTO", 3)
    page = make(tmp_path, some_results(12))
    assert len(page.data["photos"]) == 5
    assert "the next 3 are listed" in page.source
    assert "7 more photos: see the results files" in page.source
    assert [len(photo["boxes"]) for photo in page.data["photos"]] == [3] * 5
    assert sum(c["objects"][0] for c in page.data["classes"]) == 60
    for photo, given in zip(page.data["photos"], some_results(5), strict=True):
        best = given.detections.scores.sort(descending=True).values[:3].tolist()
        assert [box[0] for box in photo["boxes"]] == pytest.approx(best, abs=5e-4)


def test_names_with_html_are_shown_as_they_are(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(1)>.jpg'
    plain = make(
        tmp_path,
        [result("a.jpg", (0, 0, 9, 9, 0.9, 0))] * 2,
        skipped=[("b", "c")],
        summary={"d": 1},
        settings={"e": 2},
        links={"a.jpg": "f"},
    )
    page = make(
        tmp_path,
        [result(evil, (0, 0, 9, 9, 0.9, 2)), result("</script>", (0, 0, 9, 9, 0.9, 2))],
        skipped=[(evil, evil)],
        summary={evil: evil},
        settings={evil: evil},
        links={evil: evil, "</script>": '"><b>'},
    )
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in page.tags] == [
        set(attributes) for _, attributes in plain.tags
    ]
    assert page.texts.count(evil) == 7  # caption, skipped and its reason, fact twice, setting twice
    assert page.data["photos"][0]["name"] == evil
    assert CLASSES[2] in page.texts


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = make(tmp_path, some_results(3), links={"photo 1.jpg": "drawn/ä b#1?.jpg"})
    assert page.attributes("a", "href") == ["drawn/%C3%A4%20b%231%3F.jpg"]
    assert all(
        source.startswith("data:image/jpeg;base64,") for source in page.attributes("img", "src")
    )
    assert not page.attributes("script", "src")
    assert "link" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", page.source)
    (policy,) = [
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")


def test_a_link_cannot_run_a_script(tmp_path: Path) -> None:
    page = make(tmp_path, [result("a")], links={"a": "javascript:alert(1)"})
    assert page.attributes("a", "href") == ["javascript%3Aalert%281%29"]


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ValueError("not an image")])
def test_a_photo_that_is_gone_leaves_a_blank(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str) -> Tensor:
        raise error

    page = make(tmp_path, some_results(1), load_photo=load)
    assert page.attributes("img", "src") == []
    assert "photo not at hand" in page.texts
    assert len(page.data["photos"][0]["boxes"]) == 5
    assert "photo 0.jpg is missing in the report" in caplog.text


def test_settings_are_listed_with_their_full_names(tmp_path: Path) -> None:
    page = make(
        tmp_path, [], settings={"merge": {"iou": 0.3, "names": ["a"]}, "seed": None, "x": {}}
    )
    joined = "|".join(text for text in page.texts if text.strip())
    assert 'merge.iou|0.3|merge.names|["a"]|seed|null|x|{}' in joined


def test_names_that_are_no_text_and_photos_of_one_pixel_work(tmp_path: Path) -> None:
    empty = Detections.empty(CLASSES)
    page = make(
        tmp_path,
        [ImageResult("caf\udce9.jpg", 1, 1, empty), ImageResult("b", 0, 0, empty)],
        load_photo=lambda name: torch.zeros(3, 1, 1).byte(),
        links={"caf\udce9.jpg": "drawn/caf\udce9.jpg"},
        skipped=[("\udcff", "bad")],
    )
    assert page.data["photos"][0]["name"] == "caf?.jpg"
    assert page.attributes("a", "href") == ["drawn/caf%E9.jpg"]


def test_every_control_has_a_name(tmp_path: Path) -> None:
    page = make(tmp_path, some_results(2))
    labels = page.attributes("button", "aria-label")
    assert "Enlarge photo 0.jpg" in labels
    assert {"score", "search", "only"} <= set(page.attributes("input", "id"))
    assert page.source.count("<label") == page.source.count("<input")


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    options = {"settings": {"b": 1, "a": 2}, "summary": {"z": 1, "y": 2}}
    first = make(tmp_path, some_results(3), **options).source
    assert make(tmp_path, some_results(3), **options).source == first
