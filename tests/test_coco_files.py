from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch

from detect.data.coco_entries import EntryKinds
from detect.data.problems import InputError, Kind
from detect.detections import Detections
from detect.results import ImageResult, write_results
from detect.scoring.coco import COCO_DROP, score_coco, score_coco_files
from detect.scoring.coco_files import read_results
from detect.scoring.scores import Scores

NAN, INF = float("nan"), float("inf")
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 9, "name": "emu"}]
PERFECT = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.5}
KINDS = EntryKinds(*(Kind(name, "is wrong", "") for name in EntryKinds._fields))


def one_object() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 50}],
        "categories": [dict(category) for category in CATEGORIES],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400}
        ],
    }


def score_content(tmp_path: Path, results: Any, truth: Any = None, **options: Any) -> Scores:
    """Write both to files, texts as they are, and score these."""
    for name, content in (("results", results), ("truth", truth or one_object())):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / f"{name}.json").write_text(text)
    return score_coco_files(tmp_path / "results.json", tmp_path / "truth.json", **options)


def message_of(tmp_path: Path, *content: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        score_content(tmp_path, *content, **options)
    return str(error.value).replace(f"{tmp_path}/", "")


BAD_ENTRIES = [
    ({"image_id": 2}, "image_id 2 is not in the ground truth; ids are whole", "unknown_image"),
    ({"image_id": None}, "image_id None is not in the ground truth", "unknown_image"),
    ({"image_id": "1"}, "image_id '1' is not in the ground truth", "unknown_image"),
    ({"image_id": 1.0}, "image_id 1.0 is not in the ground truth", "unknown_image"),
    ({"image_id": 2**70}, f"image_id {2**70} is not in the ground truth", "unknown_image"),
    (
        {"category_id": 4},
        "category_id 4 is not in the ground truth; ids are whole numbers, here 3, 7, 9: correct",
        "unknown_category",
    ),
    ({"category_id": "3"}, "category_id '3' is not in the ground truth", "unknown_category"),
    ({"category_id": True}, "category_id True is not in the ground truth", "unknown_category"),
    ({"bbox": [1, 2, 3]}, "bbox [1, 2, 3] is not [x, y, width, height], finite", "bad_box"),
    ({"bbox": [1, 2, 3, NAN]}, "bbox [1.0, 2.0, 3.0, nan] is not [x, y", "bad_box"),
    ({"bbox": [1, 2, 3, INF]}, "bbox [1.0, 2.0, 3.0, inf] is not [x, y", "bad_box"),
    ({"bbox": [1, 2, -3, 4]}, "bbox [1.0, 2.0, -3.0, 4.0] is not [x, y", "bad_box"),
    ({"bbox": [1, 2, 3, True]}, "bbox [1, 2, 3, True] is not [x, y", "bad_box"),
    ({"bbox": [1, 2, 3, 10**400]}, "bbox [1, 2, 3, 1000", "bad_box"),
    ({"bbox": "1234"}, "bbox 1234 is not", "bad_box"),
    ({"bbox": None}, "bbox None is not [x, y", "bad_box"),
    ({"score": NAN}, "score nan is not a finite number", "not_finite"),
    ({"score": INF}, "score inf is not a finite number", "not_finite"),
    ({"score": "0.5"}, "score '0.5' is not a finite number", "not_finite"),
    ({"score": None}, "score None is not a finite number", "not_finite"),
    ({"score": 10**400}, "score 1000", "not_finite"),
    (None, "{'image_id': 1} is not {'image_id': ..., 'category_id'", "malformed"),
    (7, "7 is not {'image_id': ..., 'category_id': ..., 'bbox'", "malformed"),
    ([], "[] is not {'image_id': ..., 'category_id': ..., 'bbox'", "malformed"),
]


@pytest.mark.parametrize(("change", "message", "kind"), BAD_ENTRIES)
def test_a_bad_entry_is_named_and_may_be_dropped(
    tmp_path: Path, change: Any, message: str, kind: str
) -> None:
    bad = {**PERFECT, **change} if isinstance(change, dict) else change
    bad = {"image_id": 1} if change is None else bad
    results = [PERFECT, bad, {**PERFECT, "score": 0.1}]
    found = message_of(tmp_path, results)
    assert found.replace("'1234'", "1234").startswith(f"results.json, entry 1: {message}")
    assert "\n" not in found
    assert f"drop=[{kind}]" in found
    scores = score_content(tmp_path, results, drop=[kind])
    assert (scores.mean_ap, scores.classes[0].detections) == (pytest.approx(1), 2)
    assert f"results.json: 1 left out ({kind}), the first at entry 1: " in scores.notes[0]
    assert score_coco(results, one_object(), drop=[kind]).stats == scores.stats


def test_all_kinds_are_told_together_five_places_each(tmp_path: Path) -> None:
    results = [PERFECT, *[{**PERFECT, "score": NAN}] * 7, *[{**PERFECT, "image_id": 8}] * 2, 5]
    lines = message_of(tmp_path, results).splitlines()
    heads = [line for line in lines if not line.startswith("  ")]
    assert len(heads) == 3
    assert heads[0].startswith("results.json, entry 10: 5 is not {'image_id'")
    assert heads[1].startswith("results.json: 7 entries wrong in the same way; correct it, or")
    assert heads[2].startswith("results.json: 2 entries wrong in the same way; ids are whole")
    places = [line.strip() for line in lines if line.startswith("  ")]
    assert len(places) == 5 + 2
    assert places[0] == "entry 1: score nan is not a finite number"
    assert places[-1] == "entry 9: image_id 8 is not in the ground truth"


def test_what_is_dropped_for_one_reason_is_not_blamed_for_another(tmp_path: Path) -> None:
    bad = {**PERFECT, "score": NAN, "image_id": 8, "bbox": [0, 0, -1, 1]}
    for kind in ("not_finite", "unknown_image", "bad_box"):
        scores = score_content(tmp_path, [PERFECT, bad], drop=[kind])
        assert len(scores.notes) == 1
    message = message_of(tmp_path, [PERFECT, bad], drop=["malformed"])
    assert len(message.splitlines()) == 3
    assert len(score_content(tmp_path, [PERFECT, bad], drop=COCO_DROP).notes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "results.json: is empty (0 bytes); write the file again, or [] if nothing was"),
        (" \n", "results.json: is empty (2 bytes); write the file again"),
        ("{}", "results.json: is no list of COCO results but a dict; write [{'image_id'"),
        ('"text"', "results.json: is no list of COCO results but a str; write"),
        ("null", "results.json: is no list of COCO results but a NoneType; write"),
        ('[{"image_id": 1', "results.json, line 1, column 16: no valid JSON"),
        ("[1]", "results.json, entry 0: 1 is not {'image_id': ..., 'category_id': ..."),
        ("[[]]", "results.json, entry 0: [] is not {'image_id': ..., 'category_id': ..."),
    ],
)
def test_what_is_no_list_of_results_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message_of(tmp_path, text).startswith(message)


def test_an_empty_list_scores_zero_and_says_so(tmp_path: Path) -> None:
    for text in ("[]", " [ ]\n"):
        scores = score_content(tmp_path, text)
        assert (scores.mean_ap, scores.classes[0].detections) == (0, 0)
        assert [note.replace(f"{tmp_path}/", "") for note in scores.notes] == [
            "results.json: nothing was detected"
        ]


def test_unknown_options_list_the_choices(tmp_path: Path) -> None:
    content = ([PERFECT], one_object())
    assert message_of(tmp_path, *content, drop=["xyxy"]) == (
        "drop: no choice 'xyxy'; there are malformed, not_finite, unknown_image, "
        "unknown_category, bad_box"
    )
    message = message_of(tmp_path, *content, repair=["boxes"])
    assert message == "repair: no choice 'boxes'; there are xyxy, annotation_ids"
    assert message_of(tmp_path, *content, engine="c") == (
        "engine=c: choose from numba, pycocotools"
    )
    assert message_of(tmp_path, *content, official=True, drop=COCO_DROP) == (
        "official=true takes files as they are; leave out drop and repair"
    )
    with pytest.raises(InputError, match="no choice"):
        score_coco(*content, repair=["boxes"])


def corner_case(leaving: int, others: int) -> list[dict[str, Any]]:
    """Boxes that leave their image as sizes and fit as corners, and boxes that fit as both."""
    entries = [{**PERFECT, "bbox": [20, 20, 45, 49 - i % 5]} for i in range(leaving)]
    return [{**PERFECT, "bbox": [2, 3, 20, 20]} for _ in range(others)] + entries


def test_corners_instead_of_sizes_are_found(tmp_path: Path) -> None:
    lines = message_of(tmp_path, corner_case(10, 90)).splitlines()
    assert lines[0] == (
        "results.json: 10 entries wrong in the same way; 10 of 100 boxes leave their image as "
        "[x, y, width, height]: write sizes, or let repair=[xyxy] convert all boxes of the file; "
        "the first:"
    )
    assert lines[1] == (
        "  entry 90: [20.0, 20.0, 45.0, 49.0] on 50 x 50 pixels leaves it as "
        "[x, y, width, height] and fits as corners"
    )
    assert len(lines) == 6


def test_corners_are_converted_on_demand(tmp_path: Path) -> None:
    results = [{**PERFECT, "bbox": [5, 5, 25, 25]}, {**PERFECT, "bbox": [9, 9, 50, 49]}]
    scores = score_content(tmp_path, results, repair=["xyxy"])
    assert scores.mean_ap == pytest.approx(1)
    assert scores.notes[0].endswith(
        "results.json: 1 of 2 boxes leave their image as [x, y, width, height]: taken as corners "
        "and converted (xyxy)"
    )
    assert scores.matches.found.corners.tolist() == [[6, 6, 25, 25], [10, 10, 50, 49]]


@pytest.mark.parametrize("results", [corner_case(9, 91), [*corner_case(20, 78), PERFECT, PERFECT]])
def test_boxes_that_leave_their_image_are_only_counted(tmp_path: Path, results: list[Any]) -> None:
    if len(results) == 100 and results[-1] is PERFECT:  # 98 % are no 99 %
        results[-2:] = [{**PERFECT, "bbox": [20, 20, 9, 9]}] * 2
    scores = score_content(tmp_path, results)
    count = 9 if results[90]["bbox"][0] == 2 else 20
    assert scores.notes[0].endswith(
        f"{count} of 100 boxes leave their image as [x, y, width, height] by more than 2 pixels"
    )
    repaired = score_content(tmp_path, results, repair=["xyxy"])
    assert repaired.stats == scores.stats
    assert repaired.notes[1].endswith("boxes are no corners, repair=[xyxy] changed nothing")


def test_boxes_that_stay_in_their_image_or_whose_image_has_no_size_are_not_remarked(
    tmp_path: Path,
) -> None:
    assert score_content(tmp_path, [{**PERFECT, "bbox": [-2, 0, 54, 52]}]).notes == ()
    truth = one_object()
    del truth["images"][0]["width"]
    assert score_content(tmp_path, corner_case(10, 0), truth).notes == ()


BAD_TRUTH = [
    ("images", {"id": "1"}, "truth.json, images[0]: id '1' is not a whole number"),
    ("images", {"file_name": None}, "truth.json, images[0]: file_name None is not a text"),
    ("images", {"width": "50"}, "truth.json, images[0]: width '50' is not a number of pixels"),
    ("categories", {"id": 3}, "truth.json, categories[1]: id 3 occurs before; make ids unique"),
    ("categories", {"name": 4}, "truth.json, categories[0]: name 4 is not a text"),
    ("annotations", {"id": 0}, "truth.json, annotations[0]: id 0 is what pycocotools takes for"),
    ("annotations", {"id": "a"}, "truth.json, annotations[0]: id 'a' is not a whole number"),
    ("annotations", {"image_id": 6}, "truth.json, annotations[0]: image_id 6 is not the id of an"),
    ("annotations", {"image_id": "1"}, "truth.json, annotations[0]: image_id '1' is not the id"),
    ("annotations", {"category_id": 1}, "truth.json, annotations[0]: category_id 1 is not the id"),
    ("annotations", {"bbox": [1]}, "truth.json, annotations[0]: bbox [1] is not [x, y, width"),
    ("annotations", {"bbox": [1, 2, -3, 1]}, "truth.json, annotations[0]: bbox [1.0, 2.0, -3.0,"),
    ("annotations", {"area": NAN}, "truth.json, annotations[0]: area nan is not a finite number"),
    ("annotations", {"area": "9"}, "truth.json, annotations[0]: area '9' is not a finite number"),
    ("annotations", {"iscrowd": 2}, "truth.json, annotations[0]: iscrowd 2 is neither 0 nor 1"),
]


@pytest.mark.parametrize(("key", "change", "message"), BAD_TRUTH)
def test_bad_ground_truth_is_named(
    tmp_path: Path, key: str, change: dict[str, Any], message: str
) -> None:
    truth = one_object()
    truth[key][0] |= change
    assert message in message_of(tmp_path, [PERFECT], truth).splitlines()[0]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_ground_truth_without_a_list_or_with_entries_of_a_wrong_kind_is_named(
    tmp_path: Path, key: str
) -> None:
    truth = one_object()
    truth[key] = [7]
    assert f"truth.json, {key}[0]: " in message_of(tmp_path, [], truth)
    del truth[key]
    message = message_of(tmp_path, [], truth)
    assert message == (f"truth.json: has no list {key!r}; give the instances file of a data set")
    assert message_of(tmp_path, [], "[]").startswith("truth.json: holds a list, not COCO ground")


@pytest.mark.parametrize("ids", [(0, 1), (1, 1), (None, 1), ("1", "2")])
def test_annotation_ids_are_numbered_anew_on_demand(tmp_path: Path, ids: Any) -> None:
    truth = one_object()
    truth["annotations"].append({**truth["annotations"][0], "bbox": [30, 30, 9, 9]})
    for annotation, number in zip(truth["annotations"], ids, strict=True):
        annotation["id"] = number
    assert "repair=[annotation_ids]" in message_of(tmp_path, [PERFECT], truth)
    results = [PERFECT, {**PERFECT, "bbox": [30, 30, 9, 9]}]
    scores = score_content(tmp_path, results, truth, repair=["annotation_ids"])
    assert scores.mean_ap == pytest.approx(1)
    assert "annotations were numbered anew (annotation_ids): " in scores.notes[0]


def test_annotations_without_any_id_are_numbered_silently(tmp_path: Path) -> None:
    truth = one_object()
    del truth["annotations"][0]["id"]
    scores = score_content(tmp_path, [PERFECT], truth, engine="pycocotools")
    assert (scores.mean_ap, scores.notes) == (pytest.approx(1), ())


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
    assert len(scores.matches.found) == 1
    assert "by name" in scores.notes[0]
    assert scores.notes[1].endswith("left out: person")


def test_a_run_with_an_unknown_image_or_no_known_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(one_object()))
    found = Detections(torch.tensor([[5.0, 5.0, 25.0, 25.0]]), torch.ones(1), torch.tensor([0]))
    path = tmp_path / "detections.json"
    write_results(tmp_path, [ImageResult("b.jpg", 50, 50, found)], ("dog",))
    with pytest.raises(InputError, match=r"entry 0: image_id 1 \(b(\.jpg)?\) is not one of images"):
        score_coco_files(path, tmp_path / "truth.json")
    scores = score_coco_files(path, tmp_path / "truth.json", drop=["unknown_image"])
    assert scores.mean_ap == 0
    write_results(tmp_path, [ImageResult("a.jpg", 50, 50, found)], ("unicorn",))
    with pytest.raises(InputError, match=r"categories\.json: none of its classes \(unicorn"):
        score_coco_files(path, tmp_path / "truth.json")


def test_packed_files_read_like_plain_ones(tmp_path: Path) -> None:
    results, truth = json.dumps([PERFECT]).encode(), json.dumps(one_object()).encode()
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(results))
    (tmp_path / "t.json.xz").write_bytes(lzma.compress(truth))
    for official in (False, True):
        files = tmp_path / "r.json.gz", tmp_path / "t.json.xz"
        if official:
            truth_with_crowd = one_object()
            truth_with_crowd["annotations"][0]["iscrowd"] = 0
            packed = lzma.compress(json.dumps(truth_with_crowd).encode())
            (tmp_path / "t.json.xz").write_bytes(packed)
        assert score_coco_files(*files, official=official).mean_ap == pytest.approx(1)
    with pytest.raises(InputError, match="No such file"):
        score_coco_files(tmp_path / "absent.json", tmp_path / "t.json.xz")
    with pytest.raises(InputError, match="No such file"):
        score_coco_files(tmp_path / "r.json.gz", tmp_path / "absent.json")


def test_ground_truth_of_corners_is_refused() -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [29, 29, 60, 60]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [60, 50, 99, 79]},
        ],
    }
    message = r"annotations\[1\]: \[60\.0, 50\.0, 99\.0, 79\.0\] leaves its image as \[x, y, width"
    with pytest.raises(InputError, match=message):
        score_coco([], truth)
    truth["annotations"][1]["bbox"] = [60, 50, 39, 29]
    assert score_coco([], truth).mean_ap == 0


def test_json_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"results\.json: is nested too deeply"):
        read_results(path)


def test_images_and_categories_need_no_names() -> None:
    truth = {
        "images": [{"id": 7}],
        "categories": [{"id": 3}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 9, 9]}],
    }
    found = [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.5}]
    scores = score_coco(found, truth)
    assert (scores.classes[0].name, scores.mean_ap) == ("3", pytest.approx(1))
    assert score_coco(found, truth, engine="pycocotools").mean_ap == pytest.approx(1)
