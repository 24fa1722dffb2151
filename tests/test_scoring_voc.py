from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
import torch

from detect.data.problems import InputError
from detect.data.records import Record
from detect.data.voc import VOC_CLASSES, read_voc, voc_file_names
from detect.detections import Detections
from detect.results import ImageResult, write_results
from detect.scoring.files import score_voc_files
from detect.scoring.scores import Scores, format_table
from detect.scoring.tables import GroundTruth
from detect.scoring.voc import score_voc
from detect.scoring.voc_predictions import found_classes, read_voc_predictions

NAMES = ("cat", "dog")

Box = tuple[float, float, float, float]  # 1-based inclusive
Object = tuple[int, Box, bool]  # label, box, difficult
Found = tuple[int, float, Box]  # label, score, box


def half_open(boxes: list[Box]) -> torch.Tensor:
    rows = [[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in boxes]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def record(name: str, objects: list[Object]) -> Record:
    return Record(
        name=name,
        path=None,
        width=100,
        height=100,
        boxes=half_open([box for _, box, _ in objects]),
        labels=torch.tensor([label for label, _, _ in objects], dtype=torch.int64),
        difficult=torch.tensor([difficult for *_, difficult in objects], dtype=torch.bool),
    )


def detections(found: list[Found]) -> Detections:
    return Detections(
        half_open([box for *_, box in found]),
        torch.tensor([score for _, score, _ in found], dtype=torch.float32),
        torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        NAMES,
    )


def reference(
    found: list[list[Found]], truth: list[list[Object]], label: int, threshold: float, metric: str
) -> tuple[float | None, list[str]]:
    """The devkit's rules for one class, one detection after the other."""
    ranked = [(i, s, b) for i, of in enumerate(found) for lab, s, b in of if lab == label]
    ranked.sort(key=lambda detection: -detection[1])
    outcomes, taken = [], set()
    for image, _, (x1, y1, x2, y2) in ranked:
        best, best_overlap = None, -1.0
        for j, (object_label, (X1, Y1, X2, Y2), _) in enumerate(truth[image]):
            iw, ih = min(x2, X2) - max(x1, X1) + 1, min(y2, Y2) - max(y1, Y1) + 1
            if object_label != label or iw <= 0 or ih <= 0:
                continue
            areas = (x2 - x1 + 1) * (y2 - y1 + 1) + (X2 - X1 + 1) * (Y2 - Y1 + 1)
            overlap = iw * ih / (areas - iw * ih)
            if overlap > best_overlap:
                best, best_overlap = j, overlap
        if best is None or best_overlap < threshold:
            outcomes.append("false")
        elif truth[image][best][2]:
            outcomes.append("ignored")
        elif (image, best) in taken:
            outcomes.append("false")
        else:
            taken.add((image, best))
            outcomes.append("true")
    positives = sum(lab == label and not diff for of in truth for lab, _, diff in of)
    if positives == 0:
        return None, outcomes
    counted = [outcome == "true" for outcome in outcomes if outcome != "ignored"]
    curve = [
        (sum(counted[: i + 1]) / positives, sum(counted[: i + 1]) / (i + 1))
        for i in range(len(counted))
    ]
    if metric == "2007":
        best_at = [max([p for r, p in curve if r >= i * 0.1], default=0) for i in range(11)]
        return sum(best_at) / 11, outcomes
    hits = [i for i, hit in enumerate(counted) if hit]
    return sum(max(p for _, p in curve[i:]) for i in hits) / positives, outcomes


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(1, 10), rng.randint(1, 10)
    return float(x), float(y), float(x + rng.randint(0, 20)), float(y + rng.randint(0, 20))


def random_case(rng: random.Random) -> tuple[list[list[Found]], list[list[Object]]]:
    truth = [
        [(rng.randrange(2), random_box(rng), rng.random() < 0.3) for _ in range(rng.randint(0, 5))]
        for _ in range(4)
    ]
    found: list[list[Found]] = [[] for _ in truth]
    for _ in range(rng.randint(0, 40)):
        image, label, box = rng.randrange(4), rng.randrange(2), random_box(rng)
        if truth[image] and rng.random() < 0.6:
            label, near, _ = rng.choice(truth[image])
            box = tuple(side + rng.randint(-1, 1) for side in near)  # type: ignore[assignment]
        found[image].append((label, rng.choice([0.25, 0.5, 0.75]), box))
    return found, truth


@pytest.mark.parametrize("metric", ["2007", "2010"])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(60))
def test_scores_equal_the_devkits_rules_on_random_cases(
    seed: int, threshold: float, metric: str
) -> None:
    found, truth = random_case(random.Random(seed))
    scores = score_voc(
        [detections(of_image) for of_image in found],
        [record(str(i), objects) for i, objects in enumerate(truth)],
        NAMES,
        threshold,
        metric,
    )
    for label, of_class in enumerate(scores.classes):
        ap, outcomes = reference(found, truth, label, threshold, metric)
        assert of_class.ap == (None if ap is None else pytest.approx(ap, abs=1e-12))
        assert of_class.true_positives == outcomes.count("true")
        assert of_class.false_positives == outcomes.count("false")
        assert of_class.ignored == outcomes.count("ignored")
        assert of_class.detections == len(outcomes)


def test_no_detections_score_zero_and_no_truth_scores_nothing() -> None:
    records = [record("a", [(0, (1, 1, 9, 9), False)])]
    scores = score_voc([Detections.empty(NAMES)], records, NAMES)
    assert [found.ap for found in scores.classes] == [0, None]
    assert scores.mean_ap == 0
    nothing: Scores = score_voc([], [], NAMES)
    assert nothing.mean_ap is None and nothing.median_ap is None
    assert "left out of the mean: cat, dog" in format_table(nothing)


def test_a_class_with_difficult_objects_alone_is_left_out_of_the_mean() -> None:
    box = (1.0, 1.0, 9.0, 9.0)
    records = [record("a", [(0, box, False), (1, box, True)])]
    scores = score_voc([detections([(0, 0.9, box), (1, 0.8, box)])], records, NAMES)
    assert [found.ap for found in scores.classes] == [1, None]
    assert (scores.classes[1].ignored, scores.mean_ap) == (1, 1)


def test_an_overlap_of_exactly_the_threshold_finds_the_object() -> None:
    records = [record("a", [(0, (1, 1, 20, 10), False)])]
    for box, found in [((1, 1, 10, 10), 1), ((1, 1, 9, 10), 0)]:
        scores = score_voc([detections([(0, 0.5, box)])], records, NAMES)
        assert scores.classes[0].true_positives == found


def test_two_on_one_object_are_one_true_and_one_false_positive() -> None:
    box = (1.0, 1.0, 9.0, 9.0)
    # The second object is free, but the taken one overlaps more: VOC counts a duplicate.
    records = [record("a", [(0, box, False), (0, (1, 1, 9, 12), False)])]
    scores = score_voc([detections([(0, 0.9, box), (0, 0.8, box)])], records, NAMES)
    assert (scores.classes[0].true_positives, scores.classes[0].false_positives) == (1, 1)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match=r"2012.*2007, 2010"):
        score_voc([], [], NAMES, metric="2012")


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ("a b", "c=d", "dir/e f", "0 1")])
def test_files_of_a_run_score_like_the_detections_in_memory(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    found, truth = random_case(random.Random(5))
    records = [record(name, objects) for name, objects in zip(names, truth, strict=True)]
    in_memory = [detections(of_image) for of_image in found]
    results = [ImageResult(f"{n}.jpg", 40, 40, d) for n, d in zip(names, in_memory, strict=True)]
    write_results(tmp_path, results, NAMES)
    truth_columns = GroundTruth.from_records(records)
    from_files, _ = read_voc_predictions(tmp_path / "voc", truth_columns, NAMES)
    scores = score_voc(in_memory, records, NAMES)
    assert score_voc(from_files, records, NAMES) == scores
    assert scores.mean_ap


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 0.5 1 1 9", "is not 'name score xmin ymin xmax ymax'"),
        ("a high 1 1 9 9", "is not 'name score xmin ymin xmax ymax'"),
        ("a nan 1 1 9 9", "holds a number that is not finite"),
        ("a 0.5 1 1 9 -inf", "holds a number that is not finite"),
        ("0.5 1 1 9 9", "is not 'name score xmin ymin xmax ymax'"),
        ("b 0.5 1 1 9 9", "image 'b' is not in the image list"),
        ("a 7 0.5 1 1 9 9", "image 'a 7' is not in the image list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    for file in voc_file_names(NAMES):
        (tmp_path / file).write_text(f"a 0.5 1 1 9 9\n{line}\n")
    truth = GroundTruth.from_records([record("a", [])])
    with pytest.raises(InputError, match=r"comp4_det_test_cat\.txt, line 2") as error:
        read_voc_predictions(tmp_path, truth, NAMES)
    assert message in str(error.value) and "comp4_det_test_dog.txt, line 2" in str(error.value)
    kind = str(error.value).partition("drop=[")[2].partition("]")[0]
    found, notes = read_voc_predictions(tmp_path, truth, NAMES, drop=[kind])
    assert (found.labels.tolist(), len(notes)) == ([0, 1], 2)


def test_a_missing_class_file_is_named(tmp_path: Path) -> None:
    truth = GroundTruth.from_records([])
    with pytest.raises(InputError, match=r"holds no comp4_det_test_cat\.txt nor one of 1 other"):
        read_voc_predictions(tmp_path, truth, NAMES)
    with pytest.raises(InputError, match="holds no comp4"):  # not one file: not the right folder
        read_voc_predictions(tmp_path, truth, NAMES, missing=True)
    (tmp_path / "f").touch()
    for wrong, message in ((tmp_path / "x", "is no folder"), (tmp_path / "f", "is a file; give")):
        with pytest.raises(InputError, match=message):
            read_voc_predictions(wrong, truth, NAMES, missing=True)
    (tmp_path / "voc").mkdir()
    with pytest.raises(InputError, match="a run's files lie in its folder voc"):
        read_voc_predictions(tmp_path, truth, NAMES, missing=True)
    (tmp_path / "comp4_det_test_cat.txt").touch()
    found, notes = read_voc_predictions(tmp_path, truth, NAMES, missing=True)
    assert (len(found), notes[1]) == (0, f"{tmp_path}: no file of dog: taken as nothing detected")


@pytest.mark.parametrize("pattern", ["res_*_v1.txt", "res_%s_v1.txt", "res_{}_v1.txt"])
def test_results_may_have_names_of_another_pattern(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "res_cat_v1.txt").write_text("a 0.5 1 1 9 9\n")
    (tmp_path / "res_dog_v1.txt.gz").write_bytes(gzip.compress(b"a 0.25 1 1 9 9\n"))
    (tmp_path / "res_dog_v2.txt").write_text("not this one\n")
    source = tmp_path / pattern
    assert found_classes(source) == ["cat", "dog"]
    truth = GroundTruth.from_records([record("a", [])])
    found, _ = read_voc_predictions(source, truth, NAMES)
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 1], [0.5, 0.25])


def test_classes_are_by_default_those_annotated_or_found(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        "<annotation><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "list.txt").write_text("a\n")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "comp4_det_test_cat.txt").write_text("a 0.5 1 1 9 9\n")
    scores = score_voc_files(tmp_path / "voc", tmp_path, tmp_path / "list.txt")
    assert [(c.name, c.ap, c.detections) for c in scores.classes] == [
        ("cat", None, 1),
        ("dog", 0, 0),
    ]
    assert "no file of dog" in scores.notes[0]
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"no object of any class \(cat\)"):
        score_voc_files(tmp_path / "voc", tmp_path, tmp_path / "list.txt", tmp_path / "names.txt")


@pytest.mark.parametrize(("metric", "aps"), [("2007", [1, 0, 0]), ("2010", [1, None, 0])])
def test_official_gives_classes_without_objects_what_the_devkit_gives(
    metric: str, aps: list[float | None]
) -> None:
    box = (1.0, 1.0, 9.0, 9.0)
    names = ("cat", "dog", "owl")
    found = [detections([(0, 0.9, box), (1, 0.8, box)])]
    scores = score_voc(found, [record("a", [(0, box, False)])], names, metric=metric, official=True)
    assert [c.ap for c in scores.classes] == aps
    assert scores.mean_ap == (pytest.approx(1 / 3) if metric == "2007" else None)


def test_the_truth_itself_scores_one_on_real_annotations(shared_dir: Path, tmp_path: Path) -> None:
    root = shared_dir / "data" / "voc2007"
    records = read_voc(root, "val")
    results = [
        ImageResult(
            r.name, r.width, r.height, Detections(r.boxes, torch.ones(len(r.labels)), r.labels)
        )
        for r in records
    ]
    write_results(tmp_path, results, VOC_CLASSES)
    scores = score_voc_files(
        tmp_path / "voc", root / "Annotations", root / "ImageSets/Main/val.txt", VOC_CLASSES
    )
    assert sum(found.positives for found in scores.classes) == 3484 - 179
    assert sum(found.ignored for found in scores.classes) == 179
    assert scores.mean_ap == pytest.approx(1, abs=0.01)  # a few objects are annotated twice
