from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detect.data.records import Record
from detect.detections import Detections
from detect.training_curves import (
    CHART_HEIGHT,
    CHART_WIDTH,
    POINTS,
    best_validation,
    describe_panels,
    find_ticks,
    running_mean,
)
from detect.training_report import (
    EXAMPLES_SHOWN,
    TrainingExample,
    choose_examples,
    write_training_report,
)
from tests.test_scoring_curves import F, T, make_scores
from tests.test_scoring_report import EVIL, Page

CLASSES = ("cat", "dog", "cow")
Row = dict[str, Any]


def step(number: int, **values: float | None) -> Row:
    defaults = {
        "learning_rate": 0.01,
        "class_loss": 1.0,
        "box_loss": 0.5,
        "foreground_accuracy": 0.25,
        "background_accuracy": 0.75,
        "seconds": 0.1,
    }
    return {"kind": "step", "step": number, **defaults, **values}


def validation(number: int, mean_ap: float | None, **aps: float | None) -> Row:
    named = {f"AP {name}": ap for name, ap in aps.items()}
    return {"kind": "validation", "step": number, "mAP": mean_ap, **named}


def record(*objects: tuple[float, float, float, float, int], difficult: bool = False) -> Record:
    table = torch.tensor(objects).reshape(-1, 5)
    return Record(
        name="photo",
        path=None,
        width=80,
        height=60,
        boxes=table[:, :4],
        labels=table[:, 4].long(),
        difficult=torch.full((len(table),), difficult),
    )


def example(
    truth: Record, *found: tuple[float, float, float, float, float, int], name: str = "photo.jpg"
) -> TrainingExample:
    table = torch.tensor(found).reshape(-1, 6)
    detections = Detections(table[:, :4], table[:, 4], table[:, 5].long(), CLASSES)
    image = torch.full((3, 60, 80), 128, dtype=torch.uint8)
    return TrainingExample(name, image, truth, detections)


def make(tmp_path: Path, **given_fields: Any) -> Page:
    fields: dict[str, Any] = {"title": "A training", "rows": [], "scores": None, "examples": []}
    fields |= {"facts": {}, "notes": [], "recipe": {}} | given_fields
    write_training_report(tmp_path / "training.html", **fields)
    assert [entry.name for entry in tmp_path.iterdir()] == ["training.html"]
    page = Page(tmp_path / "training.html")
    links = [link.removeprefix("#") for link in page.attributes("a", "href")]
    assert set(links) <= {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    return page


def boxes_of(page: Page) -> list[str]:
    """Return kind and tag of every box, without the side of its tag."""
    pattern = r'<span class="box (\w+)[ a-z]*"[^>]*>(?:<span>([^<]*)</span>)?</span>'
    return [f"{kind} {tag}".strip() for kind, tag in re.findall(pattern, page.source)]


@pytest.mark.parametrize(
    ("rows", "charts", "best"),
    [
        ([], 0, "-"),
        ([step(1)], 4, "-"),
        ([step(1), validation(1, None, cat=None)], 4, "-"),
        ([step(1), validation(1, math.nan)], 4, "-"),
        ([step(1), validation(1, 0.0, cat=0.0)], 5, "0.000"),
        ([step(1, class_loss=None, box_loss=math.nan, learning_rate=math.inf)], 1, "-"),
        ([step(1, class_loss=0.0, box_loss=1e30), step(2)], 4, "-"),
        ([validation(5, 1.0)], 1, "1.000"),
    ],
)
def test_a_page_is_written_whatever_was_logged(
    rows: list[Row], charts: int, best: str, tmp_path: Path
) -> None:
    page = make(tmp_path, rows=rows)
    assert len(page.attributes("figure", "class")) == charts
    assert page.texts[page.texts.index("A training") :].count(best) == 1
    assert not re.search(r"\b(nan|inf|None)\b", page.source)
    assert any("Nothing was validated" in text for text in page.texts)
    assert "No validation photo is shown." in page.texts


def test_scores_of_nothing_are_shown(tmp_path: Path) -> None:
    page = make(tmp_path, rows=[step(1)], scores=make_scores([], []))
    assert any("mean AP -" in text for text in page.texts)
    page = make(tmp_path, scores=make_scores([[F]], [0], ["cat"]))
    assert any("1 class without objects on the validation photos: cat." in t for t in page.texts)


def test_the_head_names_the_first_of_the_best_validations(tmp_path: Path) -> None:
    values = [(1000, 0.25), (2000, None), (3000, 0.625), (4000, 0.625), (5000, math.nan), (6000, 0)]
    rows = [validation(number, value) for number, value in values]
    assert best_validation(rows) == (3000, 0.625)
    facts = {"machine": "two cores", "time": "3 h"}
    page = make(tmp_path, rows=[*rows, step(7000)], facts=facts)
    texts = [text for text in page.texts if text.strip()]
    start = texts.index("best mAP")
    assert texts[start : start + 3] == ["best mAP", "0.625", "after step 3,000"]
    assert texts[texts.index("steps") + 1] == "7,000"
    assert texts[texts.index("validations") + 1] == "6"
    assert page.row("machine") == ["machine", "two cores"]
    assert page.row("time") == ["time", "3 h"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=30),
    st.integers(1, 12),
)
def test_running_means_equal_plain_means(values: list[float], window: int) -> None:
    means = running_mean(np.array(values), window)
    assert len(means) == len(values)
    for i, mean in enumerate(means.tolist()):
        around = [
            value
            for j, value in enumerate(values)
            if i - window // 2 <= j < i - window // 2 + window and not math.isnan(value)
        ]
        if around:
            assert mean == pytest.approx(sum(around) / len(around), abs=1e-9)
        else:
            assert math.isnan(mean)


def test_a_spike_spoils_no_running_mean_beyond_its_window() -> None:
    values = np.full(50, 0.1)
    values[10] = 1e30
    assert running_mean(values, 5)[13:].tolist() == pytest.approx([0.1] * 37)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-9, 1e9), st.integers(1, 8), st.booleans())
def test_ticks_are_few_round_and_just_reach_the_end(
    highest: float, parts: int, whole: bool
) -> None:
    ticks = find_ticks(highest, parts, whole=whole)
    digits = f"{ticks[1]:e}".partition("e")[0].rstrip("0").rstrip(".")
    assert digits in ("1", "2", "5")
    assert ticks == [i * ticks[1] for i in range(len(ticks))]
    assert 2 <= len(ticks) <= parts + 1
    assert ticks[-2] < highest <= ticks[-1] * (1 + 1e-5)
    assert not whole or ticks[1] == round(ticks[1])


@pytest.mark.parametrize(
    ("highest", "ticks"), [(1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.61, [0, 0.2, 0.4, 0.6, 0.8])]
)
def test_ticks_of_accuracies_are_fifths(highest: float, ticks: list[float]) -> None:
    assert find_ticks(highest, 5) == pytest.approx(ticks)


def test_lines_lie_where_their_values_are() -> None:
    rows = [validation(4, 0.25, cat=0.125), validation(6, None), validation(8, 0.5, cat=None)]
    (chart,) = describe_panels(rows)
    assert chart["x_ticks"] == [("0", 0), ("2", 140), ("4", 280), ("6", 420), ("8", 560)]
    assert chart["y_ticks"][0] == ("0", CHART_HEIGHT)
    assert chart["y_ticks"][-1] == ("0.5", 0)
    (line,) = chart["lines"]
    assert line["points"] == f"280.0,{CHART_HEIGHT / 2:.1f} 560.0,0.0"  # 0.25 and 0.5
    assert [dot["title"] for dot in line["dots"]] == ["step 4: 0.25", "step 8: 0.5"]
    assert line["last"] == "0.5"
    assert chart["thin"] == [{"name": "AP cat", "points": f"280.0,{CHART_HEIGHT * 0.75:.1f}"}]
    assert chart["best"] == CHART_WIDTH


def pairs(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_long_logs_become_few_points_that_keep_the_extremes() -> None:
    rng = np.random.default_rng(0)
    losses = rng.uniform(2, 4, 10_007)
    losses[7_000] = 0.5
    rows = [step(i + 1, class_loss=loss) for i, loss in enumerate(losses.tolist())]
    chart = next(chart for chart in describe_panels(rows) if chart["title"] == "Class loss")
    (line,) = chart["lines"]
    assert chart["window"] == 250
    assert len(pairs(line["points"])) == POINTS
    assert line["dots"] == []
    top = float(chart["y_ticks"][-1][0])
    values = [top * (1 - y / CHART_HEIGHT) for _, y in pairs(line["points"])]
    assert values == pytest.approx([3.0] * POINTS, abs=0.2)
    band = pairs(line["band"])
    assert len(band) == 2 * POINTS
    x, y = max(band, key=lambda pair: pair[1])  # SVG counts from the top
    assert top * (1 - y / CHART_HEIGHT) == pytest.approx(0.5, abs=0.02)
    assert x == pytest.approx(7_001 / 10_007 * CHART_WIDTH, abs=CHART_WIDTH / POINTS)
    assert pairs(line["points"])[-1][0] == CHART_WIDTH


def test_a_spike_is_cut_at_the_edge_of_its_chart() -> None:
    rows = [step(i + 1, box_loss=1e6 if i == 500 else 0.5) for i in range(8000)]
    rows[0]["box_loss"] = math.inf  # undefined as NaN is
    chart = next(chart for chart in describe_panels(rows) if chart["title"] == "Box loss")
    heights = [y for _, y in pairs(chart["lines"][0]["band"])]
    assert min(heights) >= 0
    # The mean over 200 steps is what the axis must hold.
    assert 1e6 / 200 <= float(chart["y_ticks"][-1][0]) <= 2 * 1e6 / 200


def test_what_is_undefined_for_long_leaves_a_gap() -> None:
    rows = [step(i + 1, box_loss=None if 200 <= i < 800 else 0.5) for i in range(1000)]
    chart = next(chart for chart in describe_panels(rows) if chart["title"] == "Box loss")
    (line,) = chart["lines"]
    band = [x for x, _ in pairs(line["band"])]
    assert len(band) == 2 * 120  # two fifths of the bins, there and back
    for x in (*band, *(x for x, _ in pairs(line["points"]))):
        number = x / CHART_WIDTH * 1000
        assert number <= 215 or number >= 785  # means over 25 steps reach a little further


def test_auxiliary_losses_are_drawn_where_there_are_any() -> None:
    rows = [step(1), step(2)]
    names = [line["name"] for line in describe_panels(rows)[0]["lines"]]
    assert names == ["regions"]
    with_auxiliary = [row | {"auxiliary_loss": 2.0} for row in rows]
    names = [line["name"] for line in describe_panels(with_auxiliary)[0]["lines"]]
    assert names == ["regions", "auxiliary"]


def test_classes_are_sorted_and_those_without_objects_named(tmp_path: Path) -> None:
    scores = make_scores([[F], [F, T], [], [T]], [3, 1, 0, 2], ["bus", "cat", "cow", "dog"])
    page = make(tmp_path, scores=scores)
    start = next(i for i, row in enumerate(page.rows) if row[0] == "Class")
    assert page.rows[start + 1 :] == [
        ["cat", "0.500", "", "1", "1", "1.000", "2", "0.333"],
        ["dog", "0.500", "", "2", "1", "0.500", "1", "0.500"],
        ["bus", "0.000", "", "3", "0", "0.000", "1", "-"],
    ]
    joined = "".join(page.texts)
    assert "1 class without objects on the validation photos: cow." in joined
    assert "mean AP 0.333" in joined
    assert "width:50.0%" in page.attributes("span", "style")


def test_examples_tell_found_missed_and_false_apart(tmp_path: Path) -> None:
    truth = record((0, 20, 20, 40, 0), (40, 20, 60, 40, 0), (40, 45, 60, 55, 1))
    found = [
        (0, 20, 20, 38, 0.9, 0),
        (0, 20, 20, 40, 0.8, 0),  # a second one on the same object
        (40, 20, 60, 40, 0.7, 1),  # another class
        (42, 45, 60, 55, 0.6, 1),
        (40, 20, 60, 40, 0.4, 0),  # below the threshold
    ]
    page = make(tmp_path, examples=[example(truth, *found)])
    assert boxes_of(page) == [
        *("object", "object cat", "object"),
        *("hit dog 0.60", "wrong dog 0.70", "wrong cat 0.80", "hit cat 0.90"),
    ]
    assert "2 of 3 objects found, 2 false detections" in page.texts
    # 0, 20, 20, 40 of 80 x 60 pixels
    assert "left:0.0%;top:33.33%;width:25.0%;height:33.34%" in page.attributes("span", "style")
    (source,) = page.attributes("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as photo:
        assert (photo.format, photo.size) == ("JPEG", (80, 60))


def test_difficult_objects_are_neither_missed_nor_mistakes(tmp_path: Path) -> None:
    truth = record((0, 20, 20, 40, 0), (40, 20, 60, 40, 0), difficult=True)
    page = make(tmp_path, examples=[example(truth, (0, 20, 20, 40, 0.9, 0))])
    assert boxes_of(page) == ["object", "object", "hit cat 0.90"]
    assert "0 of 0 objects found, 0 false detections" in page.texts


def test_photos_without_boxes_are_examples_too(tmp_path: Path) -> None:
    page = make(tmp_path, examples=[example(record())])
    assert boxes_of(page) == []
    assert "0 of 0 objects found, 0 false detections" in page.texts


def test_each_class_has_its_own_threshold(tmp_path: Path) -> None:
    # Of the cats the best F1 takes the first score, 1/2; of the dogs both, 1/2 and 1/3.
    scores = make_scores([[T, F], [T, T], [F]], [1, 2, 1], list(CLASSES))
    rows = [(score, label) for label in range(3) for score in (0.51, 0.49, 1 / 3, 0.3)]
    found = [(9.0 * i, 20.0, 9.0 * i + 5, 40.0, *row) for i, row in enumerate(rows)]
    page = make(tmp_path, scores=scores, examples=[example(record(), *found)])
    shown = {"cat 0.51", "dog 0.51", "dog 0.49", "cow 0.51"}
    assert {box.removeprefix("wrong ") for box in boxes_of(page)} == shown | {"dog 0.33"}


def test_a_detection_at_its_threshold_is_shown(tmp_path: Path) -> None:
    value = float(np.float32(0.7))  # below 0.7
    scores = make_scores([[T]], [1], ["cat"])
    scores = replace(scores, classes=(replace(scores.classes[0], best_threshold=value),))
    page = make(tmp_path, scores=scores, examples=[example(record(), (0, 0, 9, 9, 0.7, 0))])
    assert boxes_of(page) == ["wrong cat 0.70"]


def test_without_names_classes_are_numbers(tmp_path: Path) -> None:
    named = example(record((0, 20, 20, 40, 2)), (40, 20, 60, 40, 0.9, 1))
    page = make(
        tmp_path, examples=[replace(named, detections=replace(named.detections, class_names=()))]
    )
    assert boxes_of(page) == ["object 2", "wrong 1 0.90"]


def test_tags_stay_inside_the_photo(tmp_path: Path) -> None:
    found = [(0, 0, 9, 9, 0.9, 0), (70, 30, 80, 50, 0.8, 0), (70, 0, 200, 9, 0.7, 0)]
    page = make(tmp_path, examples=[example(record(), *found)])
    classes = [name for name in page.attributes("span", "class") if name.startswith("box")]
    assert classes == ["box wrong low right", "box wrong right", "box wrong low"]
    places = [style for style in page.attributes("span", "style") if style.startswith("left")]
    assert places[0] == "left:87.5%;top:0.0%;width:12.5%;height:15.0%"


def test_at_most_a_dozen_examples_are_shown(tmp_path: Path) -> None:
    examples = [example(record(), name=f"{i}.jpg") for i in range(EXAMPLES_SHOWN + 3)]
    page = make(tmp_path, examples=examples)
    assert page.attributes("img", "alt") == [f"{i}.jpg" for i in range(EXAMPLES_SHOWN)]
    assert "The first 12 of 15 photos." in "".join(page.texts)


def test_large_photos_are_shrunk(tmp_path: Path) -> None:
    large = TrainingExample("a", torch.zeros(3, 900, 1800).byte(), record(), Detections.empty())
    page = make(tmp_path, examples=[large])
    (source,) = page.attributes("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as photo:
        assert photo.size == (640, 320)


def test_notes_and_the_recipe_are_shown(tmp_path: Path) -> None:
    recipe = {
        "data": {"split": "train", "names": ["a", "b"], "empty": {}},
        "training": {"trunk": {"steps": 10, "rate": 0.1}, "patience": None},
        "text": "two\nlines",
        "path": Path("a/b"),
    }
    page = make(tmp_path, notes=["3 photos left out", "no box"], recipe=recipe)
    start = page.texts.index("3 photos left out")
    assert "no box" in page.texts[start:]
    outline = next(text for text in page.texts if "split" in text)
    assert outline.splitlines() == [
        "data:",
        "  split: train",
        '  names: ["a", "b"]',
        "  empty: {}",
        "training:",
        "  trunk:",
        "    steps: 10",
        "    rate: 0.1",
        "  patience: null",
        'text: "two\\nlines"',
        'path: "a/b"',
    ]
    (details,) = [attributes for tag, attributes in page.tags if tag == "details"]
    assert "open" not in details


def test_names_with_html_are_shown_as_they_are(tmp_path: Path) -> None:
    def page(name: str) -> Page:
        truth = record((0, 20, 20, 40, 0))
        evil = example(truth, (40, 20, 60, 40, 0.9, 0), name=name)
        evil = replace(evil, detections=replace(evil.detections, class_names=(name,)))
        return make(
            tmp_path,
            title=name,
            rows=[validation(1, 0.5, **{name: 0.5})],
            scores=make_scores([[T], []], [1, 0], [name, name], notes=(name,), rules=name),
            examples=[evil],
            facts={name: name},
            notes=[name],
            recipe={name: {name: name}},
        )

    plain, evil = page("a"), page(EVIL)
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    assert [set(a) for _, a in evil.tags] == [set(a) for _, a in plain.tags]
    assert sum(text.count(EVIL) for text in evil.texts) >= 14
    assert page("\udce9 \x00").source.count("? ") >= 14


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    page = make(
        tmp_path,
        rows=[step(1), validation(1, 0.5)],
        scores=make_scores([[T]], [1], ["cat"]),
        examples=[example(record((0, 20, 20, 40, 0)))],
        notes=["a"],
        recipe={"a": 1},
    )
    assert not {"link", "script", "button", "input"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", page.source)
    assert all(source.startswith("data:") for source in page.attributes("img", "src"))


def test_a_page_of_a_long_training_is_small_and_repeatable(tmp_path: Path) -> None:
    rows = [step(i + 1, class_loss=math.sin(i) + 2) for i in range(20_000)]
    aps = {f"class {i}": 0.5 for i in range(200)}
    rows += [validation(2000 * (i + 1), 0.5, **aps) for i in range(10)]
    scores = make_scores([[T]] * 200, [1] * 200)
    page = make(tmp_path, rows=rows, scores=scores)
    assert len(page.source) < 300_000
    assert "means over 500 steps" in page.source
    assert make(tmp_path, rows=rows, scores=scores).source == page.source


def some_records(labels: list[list[int]]) -> list[Record]:
    return [record(*[(0, 0, 9, 9, label) for label in of_photo]) for of_photo in labels]


photos_labels = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=12)


@settings(max_examples=100, deadline=None)
@given(photos_labels, st.integers(0, 14), st.integers(0, 3))
def test_chosen_examples_are_distinct_and_show_every_class_if_they_can(
    labels: list[list[int]], count: int, seed: int
) -> None:
    records = some_records(labels)
    chosen = choose_examples(records, count, seed)
    assert len({id(each) for each in chosen}) == len(chosen) == min(count, len(records))
    assert {id(each) for each in chosen} <= {id(each) for each in records}
    assert list(map(id, choose_examples(records, count, seed))) == list(map(id, chosen))
    shown = {label for each in chosen for label in each.labels.tolist()}
    present = {label for of_photo in labels for label in of_photo}
    assert len(shown) >= min(count, len(present))
    if chosen:
        assert len(chosen[0].labels.unique()) == max(len(set(of_photo)) for of_photo in labels)
    with_objects = [len(each.labels) > 0 for each in chosen]
    assert with_objects == sorted(with_objects, reverse=True)  # photos without come last


def test_classes_begin_anew_once_all_are_shown() -> None:
    records = some_records([[0], [0], [0], [0], [1], [1]])
    chosen = choose_examples(records, 4, seed=0)
    assert sorted(int(each.labels[0]) for each in chosen[:2]) == [0, 1]
    assert sorted(int(each.labels[0]) for each in chosen[2:]) == [0, 1]


def test_other_seeds_choose_other_examples() -> None:
    records = some_records([[0]] * 20)
    first = {id(choose_examples(records, 1, seed)[0]) for seed in range(10)}
    assert len(first) > 1
