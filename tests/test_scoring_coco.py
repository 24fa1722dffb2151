from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.data.coco_instances import check_instances
from detect.data.problems import InputError
from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from detect.scoring.coco import ENGINES, Engine, score_coco, score_coco_files
from detect.scoring.coco_files import check_results, ids_of_truth
from detect.scoring.coco_matching import match_coco
from detect.scoring.scores import COCO_STATS, Scores, describe_rules
from detect.scoring.tables import ScoredBoxes
from tests.conftest import ROOT

Entries = list[dict[str, Any]]

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 9, "name": "emu"}]
PERFECT = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.5}


def one_object() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 50}],
        "categories": copy.deepcopy(CATEGORIES),
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400}
        ],
    }


def random_case(seed: int) -> tuple[Entries, dict[str, Any]]:
    """Objects of all three sizes, crowds, ties, empty images; class emu has no object."""
    rng = random.Random(seed)
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in rng.sample(range(1, 99), 6)]
    annotations: Entries = []
    results: Entries = []
    for image in images:
        for _ in range(rng.randint(0, 5)):
            box = [rng.uniform(0, 200) for _ in range(2)] + [rng.uniform(5, 150) for _ in range(2)]
            annotation = {
                "id": rng.randrange(1, 10**9),
                "image_id": image["id"],
                "category_id": rng.choice([3, 7]),
                "bbox": box,
                "area": box[2] * box[3] * rng.uniform(0.5, 1),
                "iscrowd": int(rng.random() < 0.2),
                "ignore": int(rng.random() < 0.2),
            }
            annotations.append(annotation)
            for _ in range(rng.randint(0, 3)):
                near = [side + rng.uniform(-8, 8) for side in box]
                near[2:] = [max(side, 1) for side in near[2:]]
                category_id = annotation["category_id"] if rng.random() < 0.8 else 9
                entry = {"image_id": image["id"], "category_id": category_id, "bbox": near}
                results.append({**entry, "score": rng.choice([0.2, 0.4, 0.6, 0.8])})
    rng.shuffle(annotations)
    rng.shuffle(results)
    truth = {"info": {}, "images": images, "categories": CATEGORIES, "annotations": annotations}
    return results, truth


def pycocotools_direct(results: Entries, truth: dict[str, Any]) -> COCOeval:
    """Let pycocotools score a copy, with what it cannot do without filled in."""
    results, truth = copy.deepcopy((results, truth))
    for i, annotation in enumerate(truth["annotations"], start=1):
        annotation.setdefault("id", i)
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal_to(direct: COCOeval, scores: Scores) -> None:
    """Compare the twelve numbers and every class's."""
    expected = [None if value == -1 else pytest.approx(value, abs=1e-12) for value in direct.stats]
    assert list(scores.stats) == expected
    assert [score.id for score in scores.classes] == list(direct.params.catIds)
    for k, score in enumerate(scores.classes):
        precision = direct.eval["precision"][:, :, k, 0, 2]
        if precision[0, 0] == -1:
            assert (score.ap, score.ap50, score.recall, score.positives) == (None, None, None, 0)
            continue
        assert score.ap == pytest.approx(precision.mean(), abs=1e-12)
        assert score.ap50 == pytest.approx(precision[0].mean(), abs=1e-12)
        assert score.recall == pytest.approx(direct.eval["recall"][0, k, 0, 2], abs=1e-12)


def iou(box: list[float], other: list[float], crowd: bool) -> float:
    sides = [
        min(box[i] + box[i + 2], other[i] + other[i + 2]) - max(box[i], other[i]) for i in (0, 1)
    ]
    if min(sides) <= 0:
        return 0.0
    area = box[2] * box[3]
    both = sides[0] * sides[1]
    return both / (area if crowd else area + other[2] * other[3] - both)


def reference_flags(
    results: Entries, truth: dict[str, Any], threshold: float
) -> dict[tuple[Any, ...], list[tuple[int, int | None]]]:
    """Match literally as evaluateImg, over all areas: outcome and annotation index by group."""
    flags: dict[tuple[Any, ...], list[tuple[int, int | None]]] = {}
    for image in truth["images"]:
        for category in truth["categories"]:
            group = (image["id"], category["id"])

            def of_group(entry: dict[str, Any], group: tuple[Any, ...] = group) -> bool:
                return (entry["image_id"], entry["category_id"]) == group

            objects = [i for i, a in enumerate(truth["annotations"]) if of_group(a)]
            crowd = {i: bool(truth["annotations"][i].get("iscrowd")) for i in objects}
            objects.sort(key=lambda i, crowd=crowd: crowd[i])  # type: ignore[misc]
            found = sorted(filter(of_group, results), key=lambda entry: -entry["score"])[:100]
            taken: set[int] = set()
            flags[group] = []
            for entry in found:
                best, overlap = None, min(threshold, 1 - 1e-10)
                for i in objects:
                    if i in taken and not crowd[i]:
                        continue
                    if best is not None and not crowd[best] and crowd[i]:
                        break
                    value = iou(entry["bbox"], truth["annotations"][i]["bbox"], crowd[i])
                    if value < overlap:
                        continue
                    best, overlap = i, value
                if best is None:
                    flags[group].append((FALSE_POSITIVE, None))
                    continue
                taken.add(best)
                flags[group].append((IGNORED if crowd[best] else TRUE_POSITIVE, best))
    return flags


def assert_flags_are_literal(results: Entries, truth: dict[str, Any], scores: Scores) -> None:
    matches = scores.matches
    image_of = {number: i for i, number in enumerate(matches.truth.image_ids.tolist())}
    rows = sorted(  # of the annotations in the table of objects
        range(len(truth["annotations"])),
        key=lambda i: image_of[truth["annotations"][i]["image_id"]],
    )
    for t, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
        for (image_id, category_id), flags in reference_flags(results, truth, threshold).items():
            label = sorted(c["id"] for c in truth["categories"]).index(category_id)
            own = np.flatnonzero(
                (matches.found.images == image_of[image_id]) & (matches.found.labels == label)
            )
            objects = [None if i < 0 else rows[i] for i in matches.objects[t, own]]
            assert list(zip(matches.outcomes[t, own], objects, strict=True)) == flags


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(8))
def test_all_numbers_equal_pycocotools(seed: int, engine: Engine) -> None:
    results, truth = random_case(seed)
    scores = score_coco(results, truth, engine=engine)
    assert_equal_to(pycocotools_direct(results, truth), scores)
    assert scores.mean_ap == pytest.approx(scores.stats[0], abs=1e-12)
    assert len(scores.stats) == len(COCO_STATS)
    for found in scores.classes:
        objects = [a for a in truth["annotations"] if a["category_id"] == found.id]
        assert found.positives == sum(not a["iscrowd"] for a in objects)
        assert found.detections == sum(r["category_id"] == found.id for r in results)
        parts = found.true_positives + found.false_positives + found.ignored
        assert found.detections == parts
    assert_flags_are_literal(results, truth, scores)


SIDES = st.integers(0, 6)
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 1.1, 16, 40])).map(
    lambda t: [side * t[4] for side in t[:4]]
)
PAIRS = {"image_id": st.integers(1, 3), "category_id": st.sampled_from([3, 7]), "bbox": BOXES}
OBJECTS = st.fixed_dictionaries(
    PAIRS,
    optional={
        "iscrowd": st.sampled_from([0, 1]),
        "area": st.sampled_from([0, 10.5, 1024, 9216, 1e11]),
        "ignore": st.sampled_from([0, 1]),
    },
)
SCORES = st.sampled_from([0.0, 0.25, 0.5, 1])
RESULTS = st.fixed_dictionaries({**PAIRS, "score": SCORES})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RESULTS, max_size=12), st.lists(OBJECTS, max_size=10))
def test_ties_crowds_and_sizes_are_judged_as_pycocotools_does(
    results: Entries, annotations: Entries
) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (3, 1, 2, 4)]
    truth = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    scores = score_coco(results, truth)
    assert_equal_to(pycocotools_direct(results, truth), scores)
    if all(a.get("area", 0) < 1e10 for a in annotations):
        assert_flags_are_literal(results, truth, scores)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dense", [0, 101, 250])
def test_the_100_best_detections_of_an_image_and_class_are_judged(
    dense: int, engine: Engine
) -> None:
    rng = random.Random(dense)
    truth = one_object()
    results = [
        {**PERFECT, "bbox": [rng.choice([5, 6, 9]), 5, 20, 20], "score": rng.choice([0.5, 0.6])}
        for _ in range(dense)
    ]
    scores = score_coco(results, truth, engine=engine)
    assert scores.classes[0].detections == min(dense, 100)
    assert_equal_to(pycocotools_direct(results, truth), scores)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_threads_gives_the_same(workers: int) -> None:
    results, truth = random_case(3)
    instances = check_instances(truth, "truth")
    checked = check_results(results, instances, ids_of_truth(instances), "results")
    one, stats = match_coco(checked.found, checked.boxes, instances, workers=1)
    other, same = match_coco(checked.found, checked.boxes, instances, workers=workers)
    assert stats == same
    assert (one.outcomes == other.outcomes).all()
    assert (one.objects == other.objects).all()


def test_matches_say_what_became_of_every_detection() -> None:
    truth = one_object()
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "category_id": 7})
    truth["annotations"][1] |= {"iscrowd": 1, "bbox": [0, 0, 50, 50]}
    results = [
        {**PERFECT, "category_id": 7, "score": 0.1},
        {**PERFECT, "bbox": [5, 5, 20, 14]},  # IoU 0.7
        {**PERFECT, "bbox": [30, 30, 9, 9], "score": 0.9},
    ]
    matches = score_coco(results, truth).matches
    assert matches.found.labels.tolist() == [0, 0, 1]
    assert matches.found.scores.tolist() == [0.9, 0.5, 0.1]
    assert matches.found.corners.tolist() == [[31, 31, 39, 39], [6, 6, 25, 19], [6, 6, 25, 25]]
    assert matches.truth.corners.tolist() == [[6, 6, 25, 25], [1, 1, 50, 50]]
    assert matches.truth.names == ("a.jpg",)
    assert matches.truth.sizes.tolist() == [[50, 50]]
    assert matches.truth.ignored.tolist() == [False, True]
    assert matches.to_find.tolist() == [True, False]
    assert matches.iou_thresholds.shape == (10, 2)
    assert matches.iou_thresholds[:, 1].tolist() == np.linspace(0.5, 0.95, 10).tolist()
    true = [FALSE_POSITIVE, TRUE_POSITIVE, IGNORED]
    assert matches.outcomes[:5].tolist() == [true] * 5  # up to IoU 0.7
    assert matches.outcomes[5:].tolist() == [[FALSE_POSITIVE, FALSE_POSITIVE, IGNORED]] * 5
    assert matches.objects[[0, 9]].tolist() == [[-1, 0, 1], [-1, -1, 1]]
    assert matches.rule == "101 points"


def test_boxes_too_small_for_float64_match_as_in_pycocotools() -> None:
    truth = one_object()
    truth["annotations"][0] |= {"bbox": [0, 0, 1e-170, 1e-170], "area": 1, "iscrowd": 0}
    results = [{**PERFECT, "bbox": [0, 0, 1e-170, 1e-170]}]
    assert_equal_to(pycocotools_direct(results, truth), score_coco(results, truth))


def test_columns_score_like_their_dicts() -> None:
    results, truth = random_case(5)
    positions = {image["id"]: i for i, image in enumerate(truth["images"])}
    boxes = np.array([entry["bbox"] for entry in results])
    columns = ScoredBoxes.from_boxes(
        np.array([positions[entry["image_id"]] for entry in results]),
        np.array([[3, 7, 9].index(entry["category_id"]) for entry in results]),
        np.array([entry["score"] for entry in results]),
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    )
    for engine in ENGINES:
        assert score_coco(columns, truth, engine=engine).stats == pytest.approx(
            score_coco(results, truth).stats, abs=1e-9
        )


def test_columns_of_no_image_class_or_box_are_refused() -> None:
    column = np.zeros(1, dtype=np.int32)
    box = np.array([[1.0, 1, 5, 5]])
    for images, labels, corners in (
        (column + 1, column, box),
        (column, column + 3, box),
        (column, column, box * np.nan),
        (column, column, box[:, [2, 1, 0, 3]]),
    ):
        with pytest.raises(ValueError):
            score_coco(ScoredBoxes(images, labels, np.ones(1), corners), one_object())


def test_scoring_prints_nothing_and_leaves_its_inputs_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, truth = random_case(1)
    before = copy.deepcopy((results, truth))
    for engine in ENGINES:
        score_coco(results, truth, engine=engine)
    assert (results, truth) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_results_score_zero(engine: Engine) -> None:
    empty = np.zeros(0, dtype=np.int32)
    columns = ScoredBoxes(empty, empty, np.zeros(0), np.zeros((0, 4)))
    both: tuple[Any, ...] = ([], columns)
    for predictions in both:
        scores = score_coco(predictions, one_object(), engine=engine)
        assert [found.ap for found in scores.classes] == [0, None, None]
        assert (scores.mean_ap, scores.stats[0], scores.stats[5]) == (0, 0, None)
        assert scores.notes == ("predictions: nothing was detected",)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("missing", ["images", "annotations", "categories"])
def test_an_empty_ground_truth_scores_nothing(missing: str, engine: Engine) -> None:
    truth = {**one_object(), "annotations": [], missing: []}
    scores = score_coco([], truth, engine=engine)
    assert scores.stats == (None,) * 12
    assert scores.mean_ap is None
    assert len(scores.classes) == len(truth["categories"])


def test_the_field_ignore_has_no_effect_and_a_note_says_so() -> None:
    truth = one_object()
    truth["annotations"][0]["ignore"] = 1
    scores = score_coco([PERFECT], truth)
    assert scores.mean_ap == pytest.approx(1)
    assert "'ignore' of 1 annotations has no effect, as in pycocotools" in scores.notes[0]


def test_the_rules_say_what_the_numbers_rest_on() -> None:
    rules = describe_rules(score_coco([PERFECT], one_object()))
    assert "mean over 1 of 3 classes" in rules
    assert "1 images" in rules
    by_other = score_coco([PERFECT], one_object(), engine="pycocotools").rules
    assert "computed by pycocotools 2." in by_other


def write_files(tmp_path: Path, results: Any, truth: Any) -> tuple[Path, Path]:
    for name, content in (("results", results), ("truth", truth)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path / "results.json", tmp_path / "truth.json"


@pytest.mark.parametrize("seed", range(4))
def test_official_numbers_and_matches_are_those_of_the_engine(tmp_path: Path, seed: int) -> None:
    results, truth = random_case(seed)
    files = write_files(tmp_path, results, truth)
    official, ours = score_coco_files(*files, official=True), score_coco_files(*files)
    assert official.stats == pytest.approx(ours.stats, abs=1e-12)
    for one, other in zip(official.classes, ours.classes, strict=True):
        assert (one.id, one.name, one.positives) == (other.id, other.name, other.positives)
        assert one.true_positives == other.true_positives
        assert one.ap == pytest.approx(other.ap, abs=1e-12)
    for column in ("outcomes", "objects", "to_find", "iou_thresholds"):
        assert np.array_equal(getattr(official.matches, column), getattr(ours.matches, column))
    for column in ("images", "labels", "scores", "corners"):
        assert np.array_equal(
            getattr(official.matches.found, column), getattr(ours.matches.found, column)
        )
    for column in ("names", "image_ids", "sizes", "images", "labels", "corners", "ignored"):
        assert np.array_equal(
            getattr(official.matches.truth, column), getattr(ours.matches.truth, column)
        )


@pytest.mark.parametrize(
    ("result", "annotation", "ap"),
    [
        ({}, {}, 1),
        ({}, {"id": 0}, 0),
        ({"category_id": "3"}, {}, 0),
        ({"category_id": 4}, {}, 0),
        ({"score": float("nan")}, {}, 1),
    ],
)
def test_official_gives_what_pycocotools_makes_of_bad_files(
    tmp_path: Path, result: dict[str, Any], annotation: dict[str, Any], ap: float
) -> None:
    truth = one_object()
    truth["annotations"][0] |= {"iscrowd": 0, **annotation}
    scores = score_coco_files(*write_files(tmp_path, [PERFECT | result], truth), official=True)
    assert scores.stats[0] == pytest.approx(ap)
    assert scores.classes[0].ap == pytest.approx(ap)
    assert scores.notes == ("The files were handed to pycocotools unchecked.",)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "pycocotools stops: IndexError: list index out of range"),
        ([PERFECT | {"image_id": 2}], "pycocotools stops: AssertionError: Results do not corr"),
        ({}, "pycocotools stops: AssertionError: results in not an array of objects"),
        ([{"image_id": 1}], "pycocotools stops: "),
    ],
)
def test_official_says_in_one_line_where_pycocotools_stops(
    tmp_path: Path, results: Any, message: str
) -> None:
    with pytest.raises(InputError) as error:
        score_coco_files(*write_files(tmp_path, results, one_object()), official=True)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_official_takes_ids_that_are_no_numbers(tmp_path: Path) -> None:
    truth = one_object()
    truth["categories"] = [{"id": "x", "name": "dog"}]
    truth["annotations"][0] |= {"category_id": "x", "iscrowd": 0}
    files = write_files(tmp_path, [PERFECT | {"category_id": "x"}], truth)
    scores = score_coco_files(*files, official=True)
    assert [(found.id, found.name) for found in scores.classes] == [(1, "dog")]
    assert scores.stats[0] == pytest.approx(1)


def test_scoring_loads_neither_torch_nor_pycocotools(tmp_path: Path) -> None:
    files = write_files(tmp_path, [PERFECT], one_object())
    code = (
        "import sys; from pathlib import Path; from detect.scoring.coco import score_coco_files; "
        f"score_coco_files(Path({str(files[0])!r}), Path({str(files[1])!r})); "
        "print([name for name in ('torch', 'pycocotools', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
