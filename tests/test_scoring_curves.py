from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, Rule
from detect.scoring.curves import (
    class_curves,
    mean_curve,
    named_curves,
    short_name,
    write_curves,
)
from detect.scoring.matches import Matches
from detect.scoring.scores import Scores, class_scores
from detect.scoring.tables import GroundTruth, ScoredBoxes
from tests.conftest import ROOT

F, T, I = FALSE_POSITIVE, TRUE_POSITIVE, IGNORED  # noqa: E741


def make_scores(
    outcomes: list[list[int]],
    positives: list[int],
    names: list[str] | None = None,
    *,
    rule: Rule = "area",
    thresholds: int = 1,
    **fields: Any,
) -> Scores:
    """Score classes whose detections are given by what became of them, best first.

    Every detection and object has an image of its own, unless ``images`` are named: then all lie
    on the first one. The k-th true positive of a class finds its k-th object.
    """
    counts = [len(of_class) for of_class in outcomes]
    labels = np.repeat(np.arange(len(outcomes)), counts).astype(np.int32)
    object_labels = np.repeat(np.arange(len(positives)), positives).astype(np.int32)
    flat = np.array([outcome for of_class in outcomes for outcome in of_class], dtype=np.int8)
    given_objects = np.full(len(flat), -1, dtype=np.int32)
    for label in range(len(outcomes)):
        true = np.flatnonzero((labels == label) & (flat == TRUE_POSITIVE))
        given_objects[true] = np.flatnonzero(object_labels == label)[: len(true)]
    images = fields.pop("images", None)
    names_of_images = images or [f"image {i}" for i in range(max(len(object_labels), 1))]
    sizes = fields.pop("sizes", None)
    objects = np.zeros if images else np.arange
    found_images = np.zeros(len(flat), dtype=np.int32)
    if not images:
        found_images = np.where(given_objects >= 0, given_objects, 0).astype(np.int32)
    ranks = np.concatenate([np.zeros(0), *(np.arange(n) for n in counts)])
    boxes = 20.0 * np.arange(max(len(flat), len(object_labels)))[:, None] + [1, 1, 16, 11]
    matches = Matches(
        rule=rule,
        class_names=tuple(names or [f"class {i}" for i in range(len(outcomes))]),
        found=ScoredBoxes(found_images, labels, 1 / (2 + ranks), boxes[: len(flat)]),
        truth=GroundTruth(
            names=tuple(names_of_images),
            image_ids=np.arange(1, len(names_of_images) + 1),
            sizes=np.array(sizes or [(0, 0)] * len(names_of_images), dtype=np.int64),
            images=objects(len(object_labels)).astype(np.int32),
            labels=object_labels,
            corners=boxes[: len(object_labels)],
            ignored=np.zeros(len(object_labels), dtype=np.bool_),
        ),
        outcomes=np.tile(flat, (thresholds, 1)),
        objects=np.tile(given_objects, (thresholds, 1)),
        to_find=np.ones(len(object_labels), dtype=np.bool_),
        iou_thresholds=np.full((thresholds, len(object_labels)), 0.5),
    )
    options: dict[str, Any] = {"format": "voc", "protocol": "voc2010-area", **fields}
    return Scores(classes=class_scores(matches), matches=matches, **options)


def load(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / "curves.npz", allow_pickle=False) as archive:
        return dict(archive)


SMALL = [
    ([], []),
    ([[]], [0]),
    ([[F, I]], [1]),
    ([[T, F, I, T], [], [F, T]], [3, 0, 1]),
]


@pytest.mark.parametrize(("outcomes", "positives"), SMALL)
def test_files_are_written_whatever_was_found(
    outcomes: list[list[int]], positives: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    write_curves(folder, make_scores(outcomes, positives))
    assert {path.name for path in folder.iterdir()} == {"curves.npz", "curves.png", "curves.svg"}
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 900
        assert np.asarray(picture.convert("L")).std() > 5
    ElementTree.parse(folder / "curves.svg")
    arrays = load(folder)
    defined = [label for label, count in enumerate(positives) if count]
    assert arrays["version"] == 1
    assert arrays["class_names"].tolist() == [f"class {label}" for label in defined]
    assert arrays["class_ids"].tolist() == [label + 1 for label in defined]
    assert len(arrays["starts"]) == len(defined) + 1
    assert arrays["precision_at_recalls"].shape == (len(defined), 101)
    assert arrays["mean_precision"].shape == arrays["recalls"].shape == (101,)
    assert not any(array.dtype.hasobject for array in arrays.values())


def plain_points(outcomes: list[int], positives: int) -> list[tuple[float, float]]:
    """Return precision and recall after each true positive, one detection after the other."""
    points, true, false = [], 0, 0
    for outcome in outcomes:
        true += outcome == T
        false += outcome == F
        if outcome == T:
            points.append((true / (true + false), true / positives))
    return points


def plain_best(points: list[tuple[float, float]], least: float) -> float:
    return max((precision for precision, recall in points if recall >= least), default=0.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([F, T, I]), max_size=12), st.integers(0, 3)), max_size=4
    )
)
def test_curves_equal_plain_counting(classes: list[tuple[list[int], int]]) -> None:
    positives = [outcomes.count(T) + more for outcomes, more in classes]
    scores = make_scores([outcomes for outcomes, _ in classes], positives)
    curves = class_curves(scores)
    assert [curve.label for curve in curves] == [k for k, count in enumerate(positives) if count]
    for curve in curves:
        points = plain_points(classes[curve.label][0], positives[curve.label])
        assert list(zip(curve.precision, curve.recall, strict=True)) == points
        expected = [plain_best(points, recall) for recall in np.linspace(0, 1, 101)]
        assert curve.best_precision.tolist() == expected
        area = sum(plain_best(points, recall) for _, recall in points) / positives[curve.label]
        assert curve.ap == pytest.approx(area, abs=1e-12)
    rows = [curve.best_precision for curve in curves]
    expected_mean = sum(rows, np.zeros(101)) / max(1, len(rows))
    np.testing.assert_allclose(mean_curve(curves), expected_mean, atol=1e-15)


def test_the_archive_gives_the_average_precision_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = [rng.choice([F, T, I], size=n).tolist() for n in (30, 1, 0, 50)]
    positives = [of_class.count(T) + 2 for of_class in outcomes]
    scores = make_scores(outcomes, positives)
    write_curves(tmp_path, scores)
    arrays = load(tmp_path)
    for k, score in enumerate(scores.classes):
        part = slice(arrays["starts"][k], arrays["starts"][k + 1])
        precision, recall, found = (arrays[name][part] for name in ("precision", "recall", "score"))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        assert np.sum(best * np.diff(recall, prepend=0)) == pytest.approx(score.ap)
        assert arrays["ap"][k] == score.ap
        assert arrays["positives"][k] == score.positives
        assert (np.diff(found) < 0).all()
        assert len(found) == score.true_positives


def test_scores_are_those_of_the_true_positives() -> None:
    (curve,) = class_curves(make_scores([[F, T, I, T]], [2]))
    assert curve.scores.tolist() == [1 / 3, 1 / 5]
    assert curve.precision.tolist() == [1 / 2, 2 / 3]
    assert curve.recall.tolist() == [1 / 2, 1]


def test_the_mean_of_the_mean_curve_is_the_mean_ap_of_101_points() -> None:
    scores = make_scores([[T, F, T], [F, T], []], [3, 1, 4], rule="101 points")
    assert mean_curve(class_curves(scores)).mean() == pytest.approx(scores.mean_ap)


def test_of_several_thresholds_the_first_is_drawn() -> None:
    scores = make_scores([[T, F, T]], [2], rule="101 points", thresholds=3)
    scores.matches.outcomes[1:] = F
    scores = Scores("coco", "coco-bbox", class_scores(scores.matches), scores.matches)
    (curve,) = class_curves(scores)
    assert curve.ap == scores.classes[0].ap50 == pytest.approx(curve.best_precision.mean())
    assert scores.classes[0].ap == pytest.approx(curve.ap / 3)


@pytest.mark.parametrize(("count", "named"), [(0, 0), (1, 1), (8, 8), (9, 8), (200, 8)])
def test_the_best_and_worst_classes_are_named(count: int, named: int) -> None:
    outcomes = [[F] * ((7 * k) % count) + [T] for k in range(count)]  # each AP once
    curves = class_curves(make_scores(outcomes, [1] * count))
    chosen = [curve.ap for curve in named_curves(curves)]
    ranked = sorted((curve.ap for curve in curves), reverse=True)
    assert chosen == (ranked if count <= 8 else ranked[:4] + ranked[-4:])
    assert len(chosen) == named


@pytest.mark.parametrize("count", [20, 200])
def test_pictures_hold_many_classes(count: int, tmp_path: Path) -> None:
    write_curves(tmp_path, make_scores([[T, F, T]] * count, [3] * count))
    assert (tmp_path / "curves.svg").stat().st_size < 600_000
    assert (tmp_path / "curves.png").stat().st_size < 600_000


def test_equal_scores_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_curves(tmp_path / name, make_scores([[T, F], [F, T]], [1, 2]))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    names = [
        "$x_1$",
        "_hidden",
        "<b> & 'x'",
        "two\nlines",
        "\x00\x1b",
        "\udce9",
        "猫 🐈",
        "",
        "x" * 99,
    ]
    write_curves(tmp_path, make_scores([[T]] * 9, [1] * 9, names))
    ElementTree.parse(tmp_path / "curves.svg")
    assert load(tmp_path)["class_names"].tolist()[:4] == names[:4]


@pytest.mark.parametrize(
    ("name", "short"),
    [("", ""), ("cat", "cat"), (" a\tb\n", "a b"), ("a\x00b", "a b"), ("x" * 30, "x" * 25 + "…")],
)
def test_names_are_cut_to_one_short_line(name: str, short: str) -> None:
    assert short_name(name) == short


def test_numbers_need_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys, detect.scoring.curves, detect.scoring_report;"
        "sys.exit(str({'torch', 'matplotlib', 'cv2'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""
