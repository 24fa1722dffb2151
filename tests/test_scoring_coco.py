from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.data.sources import InputError
from detect.detections import Detections
from detect.results import ImageResult, write_results
from detect.scoring.coco import STATS, score_coco, score_coco_files
from detect.scoring.scores import format_table, to_json, write_scores

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


def random_case(seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Objects of all three sizes, crowds, ties; class emu has no object."""
    rng = random.Random(seed)
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in rng.sample(range(1, 99), 6)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.randint(0, 5)):
            box = [rng.uniform(0, 200) for _ in range(2)] + [rng.uniform(5, 150) for _ in range(2)]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": rng.choice([3, 7]),
                "bbox": box,
                "area": box[2] * box[3] * rng.uniform(0.5, 1),
                "iscrowd": int(rng.random() < 0.2),
            }
            annotations.append(annotation)
            for _ in range(rng.randint(0, 3)):
                near = [side + rng.uniform(-8, 8) for side in box]
                near[2:] = [max(side, 1) for side in near[2:]]
                category_id = annotation["category_id"] if rng.random() < 0.8 else 9
                score = rng.choice([0.2, 0.4, 0.6, 0.8])
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category_id,
                        "bbox": near,
                        "score": score,
                    }
                )
    truth = {"info": {}, "images": images, "categories": CATEGORIES, "annotations": annotations}
    return results, truth


def pycocotools_direct(
    tmp_path: Path, results: list[dict[str, Any]], truth: dict[str, Any]
) -> COCOeval:
    for name, content in (("truth", truth), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(8))
def test_all_numbers_equal_pycocotools(tmp_path: Path, seed: int) -> None:
    results, truth = random_case(seed)
    direct = pycocotools_direct(tmp_path, results, truth)
    scores = score_coco_files(tmp_path / "results.json", tmp_path / "truth.json")

    expected = [None if value == -1 else value for value in direct.stats]
    assert list(scores.stats) == list(STATS)
    assert list(scores.stats.values()) == expected
    assert scores.mean_ap == pytest.approx(direct.stats[0], abs=1e-12)
    assert [(found.id, found.name) for found in scores.classes] == [
        (3, "dog"),
        (7, "cat"),
        (9, "emu"),
    ]
    for k, found in enumerate(scores.classes):
        if found.name == "emu":
            assert (found.ap, found.ap50, found.recall, found.positives) == (None, None, None, 0)
            assert found.false_positives == found.detections
            continue
        assert found.ap == pytest.approx(direct.eval["precision"][:, :, k, 0, 2].mean())
        assert found.ap50 == pytest.approx(direct.eval["precision"][0, :, k, 0, 2].mean())
        assert found.recall == pytest.approx(direct.eval["recall"][0, k, 0, 2])
        objects = [a for a in truth["annotations"] if a["category_id"] == found.id]
        assert found.positives == sum(not a["iscrowd"] for a in objects)
        assert found.detections == sum(r["category_id"] == found.id for r in results)
        parts = found.true_positives + found.false_positives + found.ignored
        assert found.detections == parts


def test_scoring_prints_nothing_and_leaves_its_inputs_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, truth = random_case(1)
    before = copy.deepcopy((results, truth))
    score_coco(results, truth)
    assert (results, truth) == before
    assert capsys.readouterr() == ("", "")


def test_no_results_score_zero() -> None:
    scores = score_coco([], one_object())
    assert [found.ap for found in scores.classes] == [0, None, None]
    assert (scores.mean_ap, scores.stats["AP"], scores.stats["AP large"]) == (0, 0, None)


@pytest.mark.parametrize("annotation_id", [0, 1, 5])
def test_a_perfect_box_scores_one_whatever_the_annotations_id(annotation_id: int) -> None:
    truth = one_object()
    truth["annotations"][0]["id"] = annotation_id
    assert score_coco([PERFECT], truth).mean_ap == pytest.approx(1)


def test_the_100_best_detections_of_an_image_and_class_are_judged() -> None:
    results = [{**PERFECT, "score": 0.9 - i / 1000} for i in range(120)]
    assert score_coco(results, one_object()).classes[0].detections == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, "image_id 2 is not in the ground truth"),
        ({"image_id": None}, "image_id None is not"),
        ({"category_id": 4}, r"category_id 4 is not one of the ground truth's: \[3, 7, 9\]"),
        ({"category_id": "3"}, "category_id '3' is not one"),
        ({"category_id": True}, "category_id True is not one"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] is not"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox .*nan.* is not"),
        ({"bbox": [1, 2, -3, 4]}, "bbox .*-3.* is not"),
        ({"bbox": "1 2 3 4"}, "bbox '1 2 3 4' is not"),
        ({"score": float("nan")}, "score nan is not a finite number"),
        ({"score": float("inf")}, "score inf is not a finite number"),
        ({"score": "high"}, "score 'high' is not a finite number"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(one_object()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([PERFECT, {**PERFECT, **change}]))
    with pytest.raises(InputError, match=r"results\.json, entry 1: " + message):
        score_coco_files(path, tmp_path / "truth.json")


@pytest.mark.parametrize("content", ["{}", '"text"', "[1]", "[[]]"])
def test_what_is_no_list_of_results_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(one_object()))
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results\.json.*is no .*COCO result"):
        score_coco_files(tmp_path / "results.json", tmp_path / "truth.json")


def test_a_run_is_matched_by_name(tmp_path: Path) -> None:
    truth = one_object()
    truth["images"][0] |= {"id": 41, "file_name": "val/a.jpg"}
    truth["annotations"][0]["image_id"] = 41
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    names = ("person", "emu", "Dog")
    box = torch.tensor([[5.0, 5.0, 25.0, 25.0]])
    found = Detections(box.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([2, 0]), names)
    empty = Detections.empty(names)
    results = [ImageResult("b.jpg", 50, 50, empty), ImageResult("a.jpg", 50, 50, found)]
    write_results(tmp_path / "run", results, names)
    scores = score_coco_files(tmp_path / "run" / "detections.json", tmp_path / "truth.json")
    assert scores.mean_ap == pytest.approx(1)
    assert "by name" in scores.notes[0]
    assert scores.notes[1].endswith("left out: person")


def test_a_run_with_an_unknown_image_or_no_known_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(one_object()))
    found = Detections(torch.tensor([[5.0, 5.0, 25.0, 25.0]]), torch.ones(1), torch.tensor([0]))
    path = tmp_path / "detections.json"
    write_results(tmp_path, [ImageResult("b.jpg", 50, 50, found)], ("dog",))
    with pytest.raises(InputError, match=r"image_id '1 of images\.txt' is not in the ground truth"):
        score_coco_files(path, tmp_path / "truth.json")
    write_results(tmp_path, [ImageResult("a.jpg", 50, 50, found)], ("unicorn",))
    with pytest.raises(InputError, match=r"categories\.json: none of its classes \(unicorn"):
        score_coco_files(path, tmp_path / "truth.json")


def test_the_json_holds_no_nan_and_the_table_a_column_more(tmp_path: Path) -> None:
    scores = score_coco([PERFECT], one_object())
    write_scores(tmp_path / "out" / "scores.json", scores)
    text = (tmp_path / "out" / "scores.json").read_text()
    assert "NaN" not in text
    content = json.loads(text)
    assert content == to_json(scores)
    assert content["stats"]["AP large"] is None
    assert content["classes"][1]["ap"] is None
    assert content["classes"][0]["ap50"] == pytest.approx(1)
    assert content["mean_ap"] == pytest.approx(1)
    assert "AP50" in format_table(scores).splitlines()[0]
    assert np.isclose(content["stats"]["AP75"], 1)
