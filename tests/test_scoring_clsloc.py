from __future__ import annotations

import gzip
import lzma
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.data.ilsvrc import read_clsloc_synsets
from detect.data.problems import InputError
from detect.scoring.clsloc import ClsLocTruth, score_clsloc
from detect.scoring.clsloc_files import (
    read_image_blacklist,
    read_image_labels,
    read_image_names,
    score_clsloc_files,
)
from detect.scoring.clsloc_guesses import NO_GUESS, Guesses, read_guesses
from detect.scoring.clsloc_scores import ClsLocScores, format_table, to_json
from tests.conftest import ROOT

NAMES = ("tench", "goldfish", "white shark")
CLASSES = "n01 1 tench\nn02 2 goldfish\nn03 3 white shark\n"
WNIDS = ("n01", "n02", "n03")

Box = tuple[float, float, float, float]  # 1-based inclusive
Guess = tuple[int, Box]  # class id from 1, box
Object = tuple[int, Box]


def reference_errors(
    guesses: list[list[Guess]],
    labels: list[int],
    objects: list[list[Object]],
    blacklist: set[int],
    limit: int,
) -> tuple[float, float]:
    """The devkit's rules, image after image: errors with the first ``limit`` guesses."""
    classified_wrong = localised_wrong = 0.0
    for i, label in enumerate(labels):
        considered = guesses[i][:limit]
        classified_wrong += min((int(guess != label) for guess, _ in considered), default=1)
        if i + 1 in blacklist:
            continue
        best = 1
        for guess, (x1, y1, x2, y2) in considered:
            for found, (X1, Y1, X2, Y2) in objects[i]:
                if found != label:
                    continue
                overlap = -1.0
                iw, ih = min(x2, X2) - max(x1, X1) + 1, min(y2, Y2) - max(y1, Y1) + 1
                if iw > 0 and ih > 0:
                    union = (x2 - x1 + 1) * (y2 - y1 + 1) + (X2 - X1 + 1) * (Y2 - Y1 + 1) - iw * ih
                    overlap = iw * ih / union
                best = min(best, max(int(overlap < 0.5), int(guess != label)))
        localised_wrong += best
    return classified_wrong / len(labels), localised_wrong / (len(labels) - len(blacklist))


def annotation(objects: list[Object]) -> str:
    entries = "".join(
        f"<object><name>{WNIDS[found - 1]}</name><bndbox><xmin>{x1!r}</xmin><ymin>{y1!r}</ymin>"
        f"<xmax>{x2!r}</xmax><ymax>{y2!r}</ymax></bndbox></object>"
        for found, (x1, y1, x2, y2) in objects
    )
    return f"<annotation>{entries}</annotation>"


def prediction_lines(guesses: list[list[Guess]]) -> str:
    return "".join(
        " ".join(f"{label} " + " ".join(map(repr, box)) for label, box in of_image) + "\n"
        for of_image in guesses
    )


class Case:
    """The files of a case, each of which a test may replace."""

    def __init__(self, folder: Path, labels: list[int], predictions: str) -> None:
        self.folder = folder
        self.predictions = self.write("predictions.txt", predictions)
        self.truth = self.write("truth.txt", "".join(f"{label}\n" for label in labels))
        self.classes = self.write("classes.txt", CLASSES)
        self.images: Path | None = None
        self.blacklist: Path | None = None
        self.annotations: Path | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def annotate(self, objects: list[list[Object]]) -> Case:
        for i, of_image in enumerate(objects, start=1):
            self.write(f"xml/ILSVRC2012_val_{i:08d}.xml", annotation(of_image))
        self.annotations = self.folder / "xml"
        return self

    def score(self, *drop: str, official: bool = False, boxes: bool | None = None) -> ClsLocScores:
        return score_clsloc_files(
            self.predictions,
            self.images,
            self.truth,
            self.annotations,
            self.classes,
            self.blacklist,
            drop=drop,
            official=official,
            boxes=boxes,
        )


Make = Callable[..., Case]


@pytest.fixture
def case(tmp_path: Path) -> Make:
    def make(labels: list[int], predictions: str | list[list[Guess]]) -> Case:
        text = predictions if isinstance(predictions, str) else prediction_lines(predictions)
        return Case(tmp_path, labels, text)

    return make


HERE: Box = (11.0, 11.0, 20.0, 20.0)  # 10 x 10 pixels
AWAY: Box = (111.0, 111.0, 120.0, 120.0)
HALF: Box = (11.0, 11.0, 20.0, 15.0)  # half of HERE: IoU exactly 0.5
LESS: Box = (11.0, 11.0, 20.0, 14.0)
DIAGONAL: Box = (30.0, 30.0, 39.0, 39.0)  # -9 x -9 pixels in common with HERE


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(1, 6), rng.randint(1, 6)
    return float(x), float(y), float(x + rng.randint(0, 9)), float(y + rng.randint(0, 9))


@pytest.mark.parametrize("seed", range(40))
def test_errors_equal_the_devkits_rules_on_random_cases(case: Make, seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(2, 12)
    labels = [rng.randint(1, 3) for _ in range(count)]
    objects = [
        [(label, random_box(rng))]
        + [(rng.randint(1, 3), random_box(rng)) for _ in range(rng.randint(0, 3))]
        for label in labels
    ]
    guesses = [
        [(rng.randint(1, 3), random_box(rng)) for _ in range(rng.randint(0, 7))] for _ in labels
    ]
    blacklist = set(rng.sample(range(1, count + 1), rng.randint(0, count - 1)))
    files = case(labels, guesses).annotate(objects)
    files.blacklist = files.write("blacklist.txt", "".join(f"{i}\n" for i in blacklist))
    scores = files.score(boxes=True)
    expected = [reference_errors(guesses, labels, objects, blacklist, k) for k in range(1, 6)]
    assert scores.classification == tuple(classified for classified, _ in expected)
    assert scores.localisation == tuple(localised for _, localised in expected)
    assert (scores.num_images, scores.num_localised) == (count, count - len(blacklist))


corners = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), *[st.integers(1, 4)] * 2, *[st.integers(0, 4)] * 2
)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.lists(st.tuples(st.integers(1, 3), corners), max_size=6),
            st.lists(corners, min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_errors_from_memory_equal_the_devkits_rules(
    images: list[tuple[int, list[Guess], list[Box]]],
) -> None:
    labels = [label for label, _, _ in images]
    guesses = [of_image for _, of_image, _ in images]
    truth = ClsLocTruth(
        names=tuple(map(str, range(len(images)))),
        labels=np.array(labels, np.int32) - np.int32(1),
        images=np.repeat(
            np.arange(len(images), dtype=np.int32), [len(boxes) for _, _, boxes in images]
        ),
        corners=np.array([box for _, _, boxes in images for box in boxes], np.float64),
    )
    columns = max(map(len, guesses))  # fewer than five, or more
    table = np.full((len(images), columns), NO_GUESS, np.int32)
    found = np.zeros((len(images), columns, 4))
    for i, of_image in enumerate(guesses):
        for j, (label, box) in enumerate(of_image):
            table[i, j], found[i, j] = label - 1, box
    scores = score_clsloc(Guesses(table, found), truth, NAMES)
    objects = [[(label, box) for box in boxes] for label, _, boxes in images]
    expected = [reference_errors(guesses, labels, objects, set(), k) for k in range(1, 6)]
    assert scores.classification == tuple(classified for classified, _ in expected)
    assert scores.localisation == tuple(localised for _, localised in expected)
    assert sorted(scores.classification, reverse=True) == list(scores.classification)


@pytest.mark.parametrize(
    ("guesses", "objects", "classification", "localisation"),
    [
        ([], [(1, HERE)], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ([(1, HERE)], [(1, HERE)], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
        ([(1, HALF)], [(1, HERE)], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),  # exactly 0.5
        ([(1, LESS)], [(1, HERE)], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),
        ([(1, AWAY)], [(1, HERE)], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),
        ([(1, DIAGONAL)], [(1, HERE)], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),
        ([(1, AWAY)], [(1, HERE), (1, AWAY)], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),  # any object
        ([(1, AWAY)], [(1, HERE), (2, AWAY)], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),  # of the class
        ([(2, HERE), (1, HERE)], [(1, HERE)], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
        ([(1, AWAY), (1, LESS), (1, HALF)], [(1, HERE)], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]),
        ([(2, HERE)] * 4 + [(1, HERE)], [(1, HERE)], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]),
        ([(2, HERE)] * 5 + [(1, HERE)], [(1, HERE)], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
    ],
)
def test_one_image_is_judged_by_its_best_guess(
    case: Make,
    guesses: list[Guess],
    objects: list[Object],
    classification: list[int],
    localisation: list[int],
) -> None:
    scores = case([1], [guesses]).annotate([objects]).score(boxes=True)
    assert scores.classification == tuple(classification)
    assert scores.localisation == tuple(localisation)


def test_the_blacklist_does_not_matter_for_classification(case: Make) -> None:
    files = case([1, 2], [[(1, HERE)], [(1, HERE)]]).annotate([[(1, HERE)], [(2, HERE)]])
    files.blacklist = files.write("blacklist.txt", "2\n")
    scores = files.score()
    assert scores.classification == (0.5,) * 5
    assert scores.localisation == (0.0,) * 5
    assert (scores.num_images, scores.num_localised) == (2, 1)


def test_blacklisted_images_need_no_annotation(case: Make) -> None:
    files = case([1, 2], [[(1, HERE)], [(1, HERE)]]).annotate([[(1, HERE)]])
    files.blacklist = files.write("blacklist.txt", "2\n")
    assert files.score().localisation == (0.0,) * 5


def test_errors_are_undefined_if_every_image_is_blacklisted(case: Make) -> None:
    files = case([1], [[(1, HERE)]]).annotate([])
    files.blacklist = files.write("blacklist.txt", "1\n")
    files.folder.joinpath("xml").mkdir()
    scores = files.score()
    assert scores.localisation == (None,) * 5
    assert to_json(scores)["localisation_error"] is None
    assert "-" in format_table(scores)


def test_classes_have_errors_of_their_own(case: Make) -> None:
    guesses = [
        [(1, HERE)],
        [(2, HERE), (1, AWAY)],
        [(1, HERE)],
        [(2, HERE)],
    ]
    files = case([1, 1, 2, 2], guesses)
    files.annotate([[(1, HERE)], [(1, HERE)], [(2, HERE)], [(2, HERE)]])
    files.blacklist = files.write("blacklist.txt", "3\n")
    tench, goldfish, shark = files.score().classes
    assert (tench.id, tench.name, tench.images) == (1, "tench", 2)
    assert (tench.top1_error, tench.top5_error, tench.localisation_error) == (0.5, 0.0, 0.5)
    assert (goldfish.top1_error, goldfish.top5_error) == (0.5, 0.5)
    assert goldfish.localisation_error == 0.0  # of the one image that is left
    assert (shark.images, shark.top1_error, shark.top5_error) == (0, None, None)
    assert shark.localisation_error is None


def empty_truth() -> ClsLocTruth:
    return ClsLocTruth(
        (),
        np.zeros(0, np.int32),
        np.zeros(0, np.bool_),
        np.zeros(0, np.int32),
        np.zeros((0, 4)),
    )


@pytest.mark.parametrize("columns", [0, 1, 5, 7])
def test_no_images_have_no_errors(columns: int) -> None:
    guesses = Guesses(np.zeros((0, columns), np.int32), np.zeros((0, columns, 4)))
    scores = score_clsloc(guesses, empty_truth(), NAMES)
    assert scores.classification == scores.localisation == (None,) * 5
    assert [entry.images for entry in scores.classes] == [0, 0, 0]
    assert "0 images" in format_table(scores)
    assert to_json(scores)["top5_error"] is None
    assert score_clsloc(guesses, empty_truth(), ()).classes == ()


def test_images_without_guesses_are_wrong() -> None:
    truth = ClsLocTruth(
        ("a",), np.array([1], np.int32), None, np.array([0], np.int32), np.array([HERE])
    )
    for columns in (0, 5):
        labels = np.full((1, columns), NO_GUESS, np.int32)
        scores = score_clsloc(Guesses(labels, np.zeros((1, columns, 4))), truth, NAMES)
        assert scores.classification == scores.localisation == (1.0,) * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "labels of the images are|2 labels"),
        ({"labels": [3]}, "labels of the images are 3..3, not within 0..2"),
        ({"guesses": [[3]]}, "labels of the guesses are 3..3, not within -1..2"),
        ({"guesses": [[-2]]}, "labels of the guesses are -2..-2"),
        ({"images": [1]}, "images of the objects are 1..1, not within 0..0"),
        ({"blacklisted": [True, False]}, "2 of a blacklist"),
        ({"corners": [[1, 1, math.nan, 2]]}, "not a finite number"),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(
    change: dict[str, list], message: str
) -> None:
    values = {
        "labels": [0],
        "guesses": [[0]],
        "images": [0],
        "blacklisted": [False],
        "corners": [HERE],
        **change,
    }
    truth = ClsLocTruth(
        ("a",),
        np.array(values["labels"], np.int32),
        np.array(values["blacklisted"]),
        np.array(values["images"], np.int32),
        np.array(values["corners"], np.float64),
    )
    guesses = Guesses(np.array(values["guesses"], np.int32), np.array([[HERE]]))
    with pytest.raises(ValueError, match=message):
        score_clsloc(guesses, truth, NAMES)


def test_json_and_table_show_every_number_of_guesses(case: Make) -> None:
    files = case([1, 2], [[(2, HERE), (1, HERE)], [(2, AWAY)]])
    scores = files.annotate([[(1, HERE)], [(2, HERE)]]).score()
    content = to_json(scores)
    assert set(content) == {
        "format",
        "protocol",
        "rules",
        "top1_error",
        "top5_error",
        "localisation_error",
        "errors",
        "classes",
        "notes",
    }
    assert (content["format"], content["protocol"]) == ("clsloc", "ilsvrc-clsloc")
    assert (content["top1_error"], content["top5_error"]) == (0.5, 0.0)
    assert content["localisation_error"] == 0.5
    assert content["errors"][0] == {"guesses": 1, "classification": 0.5, "localisation": 1.0}
    assert [entry["guesses"] for entry in content["errors"]] == [1, 2, 3, 4, 5]
    assert content["classes"][0] == {
        "id": 1,
        "name": "tench",
        "images": 1,
        "top1_error": 1.0,
        "top5_error": 0.0,
        "localisation_error": 0.0,
    }
    lines = format_table(scores).splitlines()
    assert lines[0] == "# guesses vs clsloc error vs cls-only error"
    assert lines[1].split() == ["1", "1.0000", "0.5000"]
    assert lines[5].split() == ["5", "0.5000", "0.0000"]
    assert lines[-1].startswith("ilsvrc-clsloc: classification over 2 images; localisation over 2,")


def test_localisation_is_left_out_without_annotations(case: Make) -> None:
    scores = case([1], [[(1, HERE)]]).score()
    assert scores.localisation is None
    assert scores.num_localised == 0
    assert any("no annotations" in note for note in scores.notes)
    assert to_json(scores)["errors"][4] == {
        "guesses": 5,
        "classification": 0.0,
        "localisation": None,
    }


def test_localisation_is_left_out_of_bare_labels(case: Make) -> None:
    scores = case([1, 2], "3 1\n2\n").annotate([[(1, HERE)], [(2, HERE)]]).score()
    assert scores.classification == (0.5, 0.0, 0.0, 0.0, 0.0)
    assert scores.localisation is None
    assert any("predictions have no boxes" in note for note in scores.notes)


def test_without_a_class_list_there_are_a_thousand_classes(case: Make) -> None:
    files = case([1000, 7], "1000\n7\n")
    files.classes = None  # type: ignore[assignment]
    scores = files.score()
    assert scores.classification == (0.0,) * 5
    assert len(scores.classes) == 1000
    assert scores.classes[999].name == "1000"


def test_annotations_need_a_class_list(case: Make) -> None:
    files = case([1], [[(1, HERE)]]).annotate([[(1, HERE)]])
    files.classes = None  # type: ignore[assignment]
    with pytest.raises(InputError, match="xml: names classes by WordNet id; give the class list"):
        files.score()


def test_boxes_of_any_finite_size_are_judged(case: Make) -> None:
    guesses: list[list[Guess]] = [[(1, (-1e308, -1e308, 1e308, 1e308)), (1, HERE)]]
    scores = case([1], guesses).annotate([[(1, HERE)]]).score()
    assert scores.localisation == (1.0, 0.0, 0.0, 0.0, 0.0)


# Which form a file has


@pytest.mark.parametrize(
    ("lines", "boxes"),
    [
        (["", "", ""], True),
        (["1", "2", "3"], False),
        (["1 2 3 4 5", "7 5", "9"], False),
        (["9 8 7 6 5", "9 8 7 6 5", "5 6 7 8 9"], False),  # one in three looks like a box
        (["1 2 3 4 5", "2 3 4 5 6", "", "3 4 5 6 7"], True),
        (["1 2.5 3 4 5", "2 3 4 5 6", "3 4 5 6 7"], True),
        (["1 2 3 4 5 6 2 3 4 5", "1 2 3 4 5", ""], True),
        (["1 2 3 4 5"] * 20 + ["1 9 9 3 3"], True),  # one inverted box
        (["1 2 3 4 5"] * 20 + ["1 2 3 4"], True),  # one line that is cut off
        (["1 1 1 1 1"], True),
    ],
)
def test_a_file_tells_whether_it_has_boxes(tmp_path: Path, lines: list[str], boxes: bool) -> None:
    path = tmp_path / "predictions.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    guesses, _ = read_guesses(path, len(lines), 1000, drop=["malformed"])
    assert (guesses.corners is not None) == boxes


@pytest.mark.parametrize(
    "lines",
    [
        ["1 2 3 4 5", "5 4 3 2 1", "6 7 8 9 10"],  # two in three look like boxes
        ["1 9 9 3 3 2 9 9 3 3"],  # long enough for boxes, and all inverted
        ["1 2 3 4 5 6", "7 8 9 10 11 12"],  # six numbers
        ["1 9.5 9 3 3"],  # neither
    ],
)
def test_a_file_that_could_be_either_is_refused(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "predictions.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=r"neither clearly .* with boxes=true or boxes=false"):
        read_guesses(path, len(lines), 1000)


@pytest.mark.parametrize("boxes", [True, False])
def test_the_setting_decides_what_five_numbers_are(case: Make, boxes: bool) -> None:
    files = case([1, 3], "1 1 1 2 2\n2 3 1 2 3\n")
    assert files.score(boxes=boxes).classification[4] == (0.5 if boxes else 0.0)
    assert not [note for note in files.score(boxes=boxes).notes if "boxes=" in note]


def test_a_note_tells_what_five_numbers_were_taken_for(case: Make) -> None:
    for predictions, taken in (
        ("1 1 1 2 2\n", "a label and its box"),
        ("1 3 2 1 2\n", "five labels"),
    ):
        notes = case([1], predictions).score().notes
        assert any(f"taken for {taken}; if it is not, give boxes=" in note for note in notes)


@given(st.lists(st.permutations(range(1, 11)), min_size=60, max_size=80))
@settings(max_examples=20, deadline=None)
def test_labels_in_any_order_are_no_boxes(
    tmp_path_factory: pytest.TempPathFactory, orders: list[list[int]]
) -> None:
    rng = random.Random(str(orders))
    path = tmp_path_factory.mktemp("labels") / "predictions.txt"
    lines = [" ".join(map(str, rng.sample(range(1, 1001), 5))) + "\n" for _ in orders]
    path.write_text("".join(lines))
    assert read_guesses(path, len(lines), 1000)[0].corners is None


# What is wrong with predictions


def refused(files: Case, *parts: str, **settings: bool) -> None:
    with pytest.raises(InputError) as caught:
        files.score(**settings)
    for part in parts:
        assert part in str(caught.value)


BOX = "10 10 20 20"


@pytest.mark.parametrize(
    ("line", "kind", "parts"),
    [
        (f"2 {BOX} 1 {BOX} 7", "malformed", ["is not 'label xmin ymin xmax ymax'"]),
        (f"2 {BOX} one {BOX}", "malformed", [f"'2 {BOX} one {BOX}' is not"]),
        (f"2 {BOX} 1_0 {BOX}", "malformed", ["1_0"]),
        ("2,10,10,20,20", "malformed", ["2,10,10,20,20"]),
        (f"2 {BOX} 0 {BOX}", "unknown_class", ["guess 2: '0 10 10 20 20' has no class id of 1..3"]),
        (f"4 {BOX} 2 {BOX}", "unknown_class", ["guess 1: '4 10 10 20 20'"]),
        (f"-1 {BOX}", "unknown_class", ["guess 1: '-1 "]),
        (f"1.5 {BOX}", "unknown_class", ["guess 1: '1.5 "]),
        (f"2 {BOX} 1 10 nan 20 20", "not_finite", ["guess 2: '1 10 nan 20 20' is not finite"]),
        (f"inf {BOX}", "not_finite", ["guess 1: 'inf 10 10 20 20' is not finite"]),
    ],
)
def test_a_wrong_guess_is_named_and_can_be_counted_as_wrong(
    case: Make, line: str, kind: str, parts: list[str]
) -> None:
    good = f"1 {BOX}\n"
    files = case([1, 1, 1], f"{good}{line}\n{good}").annotate([[(1, (10, 10, 20, 20))]] * 3)
    refused(files, "predictions.txt, line 2", f"drop=[{kind}]", *parts, boxes=True)
    scores = files.score(kind, boxes=True)
    assert scores.classification[4] == scores.localisation[4] == 1 / 3  # type: ignore[index]
    assert scores.num_images == 3
    assert any(f"1 counted as wrong ({kind}), the first at line 2" in n for n in scores.notes)


def test_dropping_a_guess_keeps_the_rank_of_the_next_one(case: Make) -> None:
    scores = case([1], "9 1\n").score("unknown_class")
    assert scores.classification == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_labels_beyond_the_classes_are_named_in_files_of_bare_labels(case: Make) -> None:
    refused(case([1], "1 0 2\n"), "line 1, guess 2: '0' has no class id", "ids start at 1")


def test_only_the_first_five_wrong_lines_are_shown(case: Make) -> None:
    files = case([1] * 9, f"1 {BOX} 2\n" * 9)
    with pytest.raises(InputError) as caught:
        files.score(boxes=True)
    message = str(caught.value)
    assert "9 entries wrong in the same way" in message
    assert message.count("is not 'label") == 5
    assert "line 5" in message
    assert "line 6" not in message


def test_different_mistakes_are_told_together(case: Make) -> None:
    refused(
        case([1] * 3, f"1 {BOX} 2\n0 {BOX}\n1 10 10 inf 20\n"),
        "line 1: ",
        "line 2, guess 1",
        "line 3, guess 1",
        boxes=True,
    )


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("1\n" * 2, "has 2 lines for 3 images, 1 too few"),
        ("1\n" * 5, "has 5 lines for 3 images, 2 too many"),
        ("1\n1\n\n\n1\n", "has 5 lines for 3 images, 2 too many"),
        ("", "predictions.txt: is empty"),
    ],
)
def test_another_number_of_lines_is_refused(case: Make, predictions: str, message: str) -> None:
    refused(case([1] * 3, predictions), message)


@pytest.mark.parametrize("predictions", ["1\n\n1\n", "1\n\n1", "1\r\n \r\n1\r\n", "1\n\n1\n\n \n"])
def test_a_blank_line_is_an_image_without_guesses(case: Make, predictions: str) -> None:
    assert case([1] * 3, predictions).score().classification == (1 / 3,) * 5


def test_a_last_image_without_guesses_has_a_line_too(case: Make) -> None:
    assert case([1, 1], "1\n\n").score().classification == (0.5,) * 5
    refused(case([1, 1], "1\n"), "1 too few")


def test_guesses_after_the_fifth_do_not_count_and_are_noted(case: Make) -> None:
    wrong = f"2 {BOX} "
    scores = case([1, 1], f"{wrong}\n{wrong * 5}1 {BOX}\n").score()
    assert scores.classification == (1.0,) * 5
    assert any(
        "1 lines have more than 5 guesses, the first of them line 2" in n for n in scores.notes
    )
    labels = case([1], "2 2 2 2 2 1\n").score(boxes=False)
    assert labels.classification == (1.0,) * 5
    assert any("more than 5 guesses" in note for note in labels.notes)


def test_inverted_boxes_are_noted_and_find_nothing(case: Make) -> None:
    guesses: list[Guess] = [(1, (20.0, 11.0, 11.0, 20.0)), (1, (11.0, 20.0, 20.0, 11.0))]
    scores = case([1, 1], [[(1, HERE)], guesses]).annotate([[(1, HERE)]] * 2).score(boxes=True)
    assert scores.localisation == (0.5,) * 5
    assert scores.classification == (0.0,) * 5
    assert any("2 boxes have xmax < xmin" in note and "line 2" in note for note in scores.notes)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_compressed_files_are_read(case: Make, suffix: str) -> None:
    files = case([1], [[(1, HERE)]]).annotate([[(1, HERE)]])
    pack = gzip.compress if suffix == ".gz" else lzma.compress
    for name in ("predictions", "truth", "classes"):
        packed = files.folder / f"{name}.txt{suffix}"
        packed.write_bytes(pack(getattr(files, name).read_bytes()))
        setattr(files, name, packed)
    assert files.score().localisation == (0.0,) * 5


# The other files


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["truth.txt: is empty"]),
        ("\n", ["truth.txt: is empty"]),
        ("1\nx\n", ["line 2: 'x' is not a class id, 1..3"]),
        ("1\n0\n", ["line 2: '0' is not"]),
        ("4\n1\n", ["line 1: '4' is not"]),
        ("1\n\n1\n", ["line 2: '' is not"]),
        ("1 2\n1\n", ["line 1: '1 2' is not"]),
        ("1.0\n-1\n", ["2 entries wrong", "line 1: '1.0'", "line 2: '-1'"]),
    ],
)
def test_a_malformed_ground_truth_is_refused(case: Make, text: str, parts: list[str]) -> None:
    files = case([1], "1\n1\n")
    files.write("truth.txt", text)
    refused(files, *parts)


def test_labels_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "truth.txt"
    path.write_text("3\r\n1\n 2 \n\n")
    assert read_image_labels(path, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a 1\nb 2\n", ("a", "b")),
        ("a\nb\n", ("a", "b")),
        ("b 3\na 7\n", ("b", "a")),  # the order of the lines counts
        ("a.JPEG 65\nb.jpg 970\n", ("a", "b")),
        ("my photo 1\n\nb 2\n", ("my photo", "b")),
        ("my photo\nb\n", ("my photo", "b")),
    ],
)
def test_images_are_named_with_and_without_ids(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    path = tmp_path / "images.txt"
    path.write_text(text)
    assert read_image_names(path, 2) == names


def test_images_have_the_validation_images_names_by_default() -> None:
    assert read_image_names(None, 0) == ()
    assert read_image_names(None, 2) == ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "images.txt: names 0 images, and the ground truth has 2"),
        ("a\n", "names 1 images, and the ground truth has 2"),
        ("a\nb\nc\n", "names 3 images"),
        ("a 1\na 2\n", "names 'a' twice"),
    ],
)
def test_an_image_list_that_does_not_belong_is_refused(case: Make, text: str, message: str) -> None:
    files = case([1, 1], "1\n1\n")
    files.images = files.write("images.txt", text)
    refused(files, message)


def test_the_image_list_names_the_annotations(case: Make) -> None:
    files = case([1], [[(1, HERE)]])
    files.write("xml/dog.xml", annotation([(1, HERE)]))
    files.annotations, files.images = files.folder / "xml", files.write("images.txt", "dog.JPEG\n")
    assert files.score().localisation == (0.0,) * 5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0\n", ["line 1: '0' is not the position of an image, 1..2"]),
        ("1\n3\n", ["line 2: '3' is not the position"]),
        ("x\n", ["line 1: 'x' is not"]),
        ("2\n1\n\n2\n", ["line 4: image 2 is blacklisted a second time"]),
    ],
)
def test_a_malformed_blacklist_is_refused(case: Make, text: str, parts: list[str]) -> None:
    files = case([1, 1], "1\n1\n")
    files.blacklist = files.write("blacklist.txt", text)
    refused(files, *parts)


def test_an_empty_blacklist_leaves_nothing_out(tmp_path: Path) -> None:
    path = tmp_path / "blacklist.txt"
    path.write_text("")
    assert read_image_blacklist(path, 2).tolist() == [False, False]
    assert read_image_blacklist(None, 0).tolist() == []


def test_missing_annotations_are_named(case: Make) -> None:
    files = case([1] * 8, [[(1, HERE)]] * 8).annotate([[(1, HERE)]])
    refused(files, "7 entries", "ILSVRC2012_val_00000002.xml", "ILSVRC2012_val_00000006.xml")


def test_an_image_without_a_box_of_its_class_is_named_or_left_out(case: Make) -> None:
    files = case([1, 1, 1], [[(1, HERE)], [(1, HERE)], [(1, AWAY)]])
    files.annotate([[(1, HERE)], [(2, HERE)], [(1, HERE)]])
    refused(
        files,
        "xml, image 2: ILSVRC2012_val_00000002 has no box of its class",
        "drop=[no_boxes]",
    )
    scores = files.score("no_boxes")
    assert scores.localisation == (0.5,) * 5
    assert (scores.num_images, scores.num_localised) == (3, 2)
    assert any("1 left out of localisation (no_boxes)" in note for note in scores.notes)


def test_the_official_number_counts_an_image_without_boxes_where_the_devkit_can(case: Make) -> None:
    files = case([1, 1], [[(1, HERE)], [(2, HERE)]]).annotate([[(1, HERE)], []])
    refused(files, "image 2: ILSVRC2012_val_00000002 has no box")
    assert files.score(official=True).localisation == (0.5,) * 5  # label wrong: nothing to judge
    files = case([1, 1], [[(1, HERE)], [(1, HERE)]])  # label right: the devkit stops
    files.annotations = files.folder / "xml"
    refused(files, "image 2: ILSVRC2012_val_00000002 has no box", official=True)


def test_the_official_number_takes_unknown_classes_for_wrong(case: Make) -> None:
    files = case([1], f"0 {BOX} 1 {BOX}\n")
    refused(files, "guess 1")
    scores = files.score(official=True)
    assert scores.classification == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert any("unknown_class" in note for note in scores.notes)


def test_an_unknown_drop_is_refused(case: Make) -> None:
    with pytest.raises(InputError, match="drop: no choice 'typo'; there are malformed"):
        case([1], "1\n").score("typo")


@pytest.mark.parametrize("what", ["predictions", "truth", "classes", "images", "blacklist"])
def test_a_file_that_is_not_there_is_named(case: Make, what: str) -> None:
    files = case([1], "1\n")
    setattr(files, what, files.folder / "absent.txt")
    refused(files, "absent.txt")


# The class list


def write_mat(path: Path, id_field: str, rows: list[tuple[int, str, str]]) -> Path:
    import scipy.io

    synsets = np.zeros(len(rows), dtype=[(id_field, "O"), ("WNID", "O"), ("words", "O")])
    for i, row in enumerate(rows):
        synsets[i] = row
    scipy.io.savemat(path, {"synsets": synsets})
    return path


@pytest.mark.parametrize("field", ["ILSVRC2014_ID", "ILSVRC2012_ID"])
def test_classes_are_the_synsets_up_to_id_1000(tmp_path: Path, field: str) -> None:
    ancestors = [(1001, "n00001740", "entity"), (1002, "n00001930", "physical entity")]
    classes = [(i, f"n{i:08}", f"class {i}, and its synonym") for i in range(1000, 0, -1)]
    path = write_mat(tmp_path / "meta_clsloc.mat", field, ancestors + classes)
    synsets = read_clsloc_synsets(path)
    assert len(synsets.wnids) == 1000
    assert (synsets.wnids[0], synsets.names[0]) == ("n00000001", "class 1, and its synonym")
    assert synsets.wnids[999] == "n00001000"


def test_a_single_class_is_read(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "meta.mat", "ILSVRC2014_ID", [(1, "n01", "tench")])
    assert read_clsloc_synsets(path).names == ("tench",)


@pytest.mark.parametrize(
    ("field", "ids", "message"),
    [
        ("ILSVRC2014_DET_ID", [1, 2], "not the devkit's meta_clsloc.mat"),
        ("ILSVRC2014_ID", [1, 3], "once each; found . classes, and . out of turn"),
        ("ILSVRC2014_ID", [1, 1], "once each; found . classes, and . out of turn"),
        ("ILSVRC2014_ID", [1001], "once each; found"),
    ],
)
def test_another_mat_file_is_refused(
    tmp_path: Path, field: str, ids: list[int], message: str
) -> None:
    path = write_mat(tmp_path / "meta.mat", field, [(i, f"n{i}", "name") for i in ids])
    with pytest.raises(InputError, match=message):
        read_clsloc_synsets(path)


def test_a_list_whose_ids_contradict_its_order_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("b 7\na 3\n")
    with pytest.raises(InputError, match="image 2: 'a' has id 3 after 7"):
        read_image_names(tmp_path / "list.txt", 2)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file, cut off", b"n01 1 tench\n"])
def test_what_is_no_mat_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meta_clsloc.mat"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"meta_clsloc.mat: is not the devkit's"):
        read_clsloc_synsets(path)
    with pytest.raises(InputError, match=r"absent\.mat"):
        read_clsloc_synsets(tmp_path / "absent.mat")


def test_the_detection_tasks_classes_are_refused(shared_dir: Path) -> None:
    with pytest.raises(InputError, match=r"not the devkit's meta_clsloc\.mat"):
        read_clsloc_synsets(shared_dir / "data/ilsvrc_det/meta_det.mat")


def test_scoring_loads_neither_torch_nor_what_reads_mat_files() -> None:
    code = (
        "import sys, detect.scoring.clsloc; "
        "sys.exit(str({'torch', 'scipy.io', 'cv2', 'matplotlib'} & set(sys.modules) or '') or None)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
