from __future__ import annotations

import gzip
import lzma
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detect.data.ilsvrc import Synsets
from detect.data.problems import InputError
from detect.data.records import Record
from detect.detections import Detections
from detect.results import ImageResult, write_results
from detect.scoring.average_precision import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from detect.scoring.files import score_ilsvrc_files
from detect.scoring.ilsvrc import score_ilsvrc
from detect.scoring.predictions import form_notes, read_ilsvrc_predictions
from detect.scoring.scores import Scores, format_table, to_json
from detect.scoring.tables import GroundTruth

NAMES = ("ant", "bee", "wasp")
SYNSETS = Synsets(("n01", "n02", "n03"), NAMES)

Box = tuple[float, float, float, float]  # 1-based inclusive
Object = tuple[int, Box]  # label, box
Line = tuple[int, int, float, Box]  # image id, label, score, box


def record(image_id: int, objects: list[Object]) -> Record:
    boxes = [[x1 - 1, y1 - 1, x2, y2] for _, (x1, y1, x2, y2) in objects]
    return Record(
        name=f"image_{image_id:03}",
        path=None,
        width=0,
        height=0,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([label for label, _ in objects], dtype=torch.int64),
        difficult=torch.zeros(len(objects), dtype=torch.bool),
        image_id=image_id,
    )


def write_lines(path: Path, lines: list[Line]) -> Path:
    text = "".join(
        f"{image_id} {label + 1} {score!r} {x1!r} {y1!r} {x2!r} {y2!r}\n"
        for image_id, label, score, (x1, y1, x2, y2) in lines
    )
    path.write_text(text)
    return path


def score_lines(
    tmp_path: Path, lines: list[Line], records: list[Record], blacklist: set[tuple[int, int]]
) -> Scores:
    path = write_lines(tmp_path / "predictions.txt", lines)
    truth = GroundTruth.from_records(records)
    found, _ = read_ilsvrc_predictions(path, truth, SYNSETS)
    return score_ilsvrc(found, truth, NAMES, blacklist)


def reference_ap(
    lines: list[Line],
    truth: dict[int, list[Object]],
    blacklist: set[tuple[int, int]],
    label: int,
) -> tuple[float | None, list[str]]:
    """The devkit's rules for one class, one detection after the other."""
    ranked = sorted(
        (line for line in lines if line[1] == label), key=lambda line: (-line[2], line[0])
    )  # sorted() is stable: file order comes last
    positives = sum(
        1
        for image_id, objects in truth.items()
        for object_label, _ in objects
        if object_label == label and (image_id, label) not in blacklist
    )
    taken: set[tuple[int, int]] = set()
    outcomes = []
    for image_id, _, _, (x1, y1, x2, y2) in ranked:
        if (image_id, label) in blacklist:
            outcomes.append("ignored")
            continue
        best, best_overlap = None, 0.0
        for j, (object_label, (X1, Y1, X2, Y2)) in enumerate(truth[image_id]):
            if object_label != label or (image_id, j) in taken:
                continue
            iw, ih = min(x2, X2) - max(x1, X1) + 1, min(y2, Y2) - max(y1, Y1) + 1
            if iw <= 0 or ih <= 0:
                continue
            w, h = X2 - X1 + 1, Y2 - Y1 + 1
            overlap = iw * ih / ((x2 - x1 + 1) * (y2 - y1 + 1) + w * h - iw * ih)
            if overlap >= min(0.5, w * h / ((w + 10) * (h + 10))) and overlap > best_overlap:
                best, best_overlap = j, overlap
        if best is None:
            outcomes.append("false")
        else:
            taken.add((image_id, best))
            outcomes.append("true")
    if positives == 0:
        return None, outcomes
    counted = [outcome == "true" for outcome in outcomes if outcome != "ignored"]
    precisions = [sum(counted[: i + 1]) / (i + 1) for i in range(len(counted))]
    hits = [i for i, hit in enumerate(counted) if hit]
    return sum(max(precisions[i:]) for i in hits) / positives, outcomes


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(1, 14), rng.randint(1, 14)
    return float(x), float(y), float(x + rng.randint(0, 40)), float(y + rng.randint(0, 40))


@pytest.mark.parametrize("seed", range(150))
def test_scores_equal_the_devkits_rules_on_random_cases(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    image_ids = rng.sample(range(1, 50), 4)  # not in ascending order
    truth = {
        i: [(rng.randrange(3), random_box(rng)) for _ in range(rng.randint(0, 5))]
        for i in image_ids
    }
    objects = [(i, *found) for i, of_image in truth.items() for found in of_image]
    blacklist = {(rng.choice(image_ids), rng.randrange(3)) for _ in range(2)}
    lines: list[Line] = []
    for _ in range(rng.randint(0, 40)):  # half of them on objects, with few different scores
        image_id, label, box = rng.choice(image_ids), rng.randrange(3), random_box(rng)
        if objects and rng.random() < 0.5:
            image_id, label, near = rng.choice(objects)
            box = tuple(side + rng.randint(-2, 2) for side in near)  # type: ignore[assignment]
        lines.append((image_id, label, rng.choice([0.1, 0.5, 0.9, 0.9]), box))

    records = [record(image_id, truth[image_id]) for image_id in image_ids]
    scores = score_lines(tmp_path, lines, records, blacklist)

    for label, found in enumerate(scores.classes):
        ap, outcomes = reference_ap(lines, truth, blacklist, label)
        assert found.ap == (None if ap is None else pytest.approx(ap, abs=1e-12))
        assert found.detections == len(outcomes)
        assert found.true_positives == outcomes.count("true")
        assert found.false_positives == outcomes.count("false")
        assert found.ignored == outcomes.count("ignored")
        start, end = scores.matches.class_starts[label : label + 2]
        flags = {"true": TRUE_POSITIVE, "false": FALSE_POSITIVE, "ignored": IGNORED}
        given = scores.matches.outcomes[0, start:end].tolist()
        assert given == [flags[outcome] for outcome in outcomes]
        # What a true positive was given is an object of its image and class, given once.
        objects = scores.matches.objects[0, start:end]
        hits = objects[scores.matches.outcomes[0, start:end] == TRUE_POSITIVE]
        assert len(set(hits.tolist())) == len(hits)
        assert (scores.matches.truth.labels[hits] == label).all()
        assert (objects[scores.matches.outcomes[0, start:end] == FALSE_POSITIVE] == -1).all()


def test_no_predictions_score_zero_and_no_truth_scores_nothing(tmp_path: Path) -> None:
    records = [record(7, [(0, (1, 1, 10, 10))])]
    scores = score_lines(tmp_path, [], records, set())
    assert [found.ap for found in scores.classes] == [0, None, None]
    assert scores.mean_ap == scores.median_ap == 0
    assert score_ilsvrc([], [], NAMES).mean_ap is None


def test_five_boxes_equal_the_curve_drawn_by_hand(tmp_path: Path) -> None:
    objects = [(0, (100.0 * i, 1.0, 100.0 * i + 49, 50.0)) for i in range(1, 5)]
    far = (900.0, 1.0, 949.0, 50.0)
    boxes = [objects[0][1], far, objects[1][1], objects[1][1], objects[2][1]]
    lines = [
        (1, 0, 0.9 - 0.1 * i, box) for i, box in enumerate(boxes)
    ]  # true false true false true
    scores = score_lines(tmp_path, lines, [record(1, objects)], set())
    assert scores.classes[0].ap == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert scores.classes[0].recall == 0.75


def test_equal_scores_come_by_image_id_not_by_place_in_list_or_file(tmp_path: Path) -> None:
    box = (1.0, 1.0, 50.0, 50.0)
    records = [record(9, [(0, box)]), record(2, [])]
    lines = [(9, 0, 0.5, box), (2, 0, 0.5, box)]  # image 2 comes first, and is wrong
    assert score_lines(tmp_path, lines, records, set()).classes[0].ap == 0.5


@pytest.mark.parametrize(
    ("side", "found"),
    # A 10 x 10 object needs 100 / 400: a centred box of 20 x 20 hits exactly, 21 x 20 does not.
    [(20, 1), (21, 0)],
)
def test_small_objects_have_a_lower_threshold(tmp_path: Path, side: int, found: int) -> None:
    records = [record(1, [(0, (6, 6, 15, 15))])]
    lines = [(1, 0, 0.5, (1.0, 1.0, float(side), 20.0))]
    assert score_lines(tmp_path, lines, records, set()).classes[0].true_positives == found


def test_detections_in_memory_score_like_their_file(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(3)
    corners = torch.randint(0, 30, (40, 2), generator=rng).float()
    boxes = torch.cat([corners, corners + 20], dim=1)
    labels = torch.arange(40) % 3
    truth = Detections(boxes, torch.ones(40), labels, NAMES)
    records = [
        Record(name, None, 50, 50, t.boxes, t.labels, torch.zeros(10, dtype=torch.bool), i + 1)
        for i, (name, t) in enumerate((str(i), truth[10 * i : 10 * i + 10]) for i in range(4))
    ]
    found = [
        Detections(t.boxes.roll(1, 0) + 1, torch.rand(10, generator=rng), t.labels, NAMES)
        for t in (truth[10 * i : 10 * i + 10] for i in range(4))
    ]
    results = [ImageResult(f"{i}.jpg", 50, 50, f) for i, f in enumerate(found)]
    write_results(tmp_path, results, NAMES)
    columns = GroundTruth.from_records(records)
    from_file, notes = read_ilsvrc_predictions(tmp_path / "detections.txt", columns, SYNSETS)
    assert len(notes) == 1 and "by name" in notes[0]
    in_memory = score_ilsvrc(found, records, NAMES)
    for one, other in zip(
        in_memory.classes, score_ilsvrc(from_file, records, NAMES).classes, strict=True
    ):  # files hold the shortest text of a float32, in float64 another number
        assert one.best_threshold == pytest.approx(other.best_threshold, abs=1e-6)
        assert replace(one, best_threshold=None) == replace(other, best_threshold=None)
    assert in_memory.mean_ap


def test_a_run_on_other_photos_and_classes_is_matched_by_name(tmp_path: Path) -> None:
    box = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
    names = ("person", "N03", "Bee")  # unknown, a WordNet id, other case
    two = Detections(box.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([2, 0]), names)
    one = Detections(box, torch.tensor([0.7]), torch.tensor([1]), names)
    results = [
        ImageResult("photos/image_005.JPEG", 99, 99, two),
        ImageResult("photos/image_001.JPEG", 99, 99, one),
        ImageResult("photos/other.JPEG", 99, 99, Detections.empty(names)),
    ]
    write_results(tmp_path, results, names)
    object_box = (11.0, 11.0, 60.0, 60.0)
    records = [record(1, [(2, object_box)]), record(3, []), record(5, [(1, object_box)])]
    truth = GroundTruth.from_records(records)
    found, notes = read_ilsvrc_predictions(tmp_path / "detections.txt", truth, SYNSETS)
    scores = score_ilsvrc(found, records, NAMES)
    assert [(c.ap, c.detections) for c in scores.classes] == [(None, 0), (1, 1), (1, 1)]
    assert "person" in notes[1]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_packed_predictions_read_like_plain_ones(tmp_path: Path, pack) -> None:
    records = GroundTruth.from_records([record(1, [(0, (1, 1, 10, 10))])])
    plain = write_lines(tmp_path / "p.txt", [(1, 0, 0.5, (1.0, 1.0, 10.0, 10.0))])
    packed = tmp_path / f"p.txt.{'gz' if pack is gzip.compress else 'xz'}"
    packed.write_bytes(pack(plain.read_bytes()))
    found, _ = read_ilsvrc_predictions(packed, records, SYNSETS)
    assert score_ilsvrc(found, records, NAMES).classes[0].ap == 1
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_ilsvrc_predictions(packed, records, SYNSETS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 1 0.5 1 1 9", "is not 'image_id class_id score xmin ymin xmax ymax'"),
        ("1 1 0.5 1 1 9 9 9", "is not 'image_id class_id score xmin ymin xmax ymax'"),
        ("1 1 high 1 1 9 9", "is not 'image_id class_id score xmin ymin xmax ymax'"),
        ("1 1 nan 1 1 9 9", "not finite"),
        ("1 1 -inf 1 1 9 9", "not finite"),
        ("1 1 0.5 1 1 inf 9", "not finite"),
        ("2 1 0.5 1 1 9 9", "image id 2 is not in the image list"),
        ("0 1 0.5 1 1 9 9", "image id 0 is not in the image list, whose .* holds the ids, from 1"),
        ("1.5 1 0.5 1 1 9 9", "image id 1.5 is not in the image list"),
        ("1 0 0.5 1 1 9 9", "class id 0 is none of the classes, whose ids start at 1"),
        ("1 4 0.5 1 1 9 9", "class id 4 is none of the classes"),
        ("1 -1 0.5 1 1 9 9", "class id -1 is none of the classes"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "predictions.txt"
    path.write_text(f"1 1 0.5 1 1 9 9\n\n{line}\r\n1 1 0.5 1 1 9 9\n")
    truth = GroundTruth.from_records([record(1, [])])
    with pytest.raises(InputError, match=rf"line 3.*{message}") as error:
        read_ilsvrc_predictions(path, truth, SYNSETS)
    assert str(path) in str(error.value) and "drop=[" in str(error.value)
    kind = str(error.value).partition("drop=[")[2].partition("]")[0]
    found, notes = read_ilsvrc_predictions(path, truth, SYNSETS, drop=[kind])
    assert len(found) == 2
    assert f"1 left out ({kind}), the first at line 3" in notes[0]


def test_the_first_five_bad_lines_of_each_kind_are_named_and_all_counted(tmp_path: Path) -> None:
    path = tmp_path / "predictions.txt"
    bad = ["1 1 nan 1 1 9 9"] * 6 + ["1 9 0.5 1 1 9 9"] * 8 + ["x"] * 2
    path.write_text("\n".join(bad))
    truth = GroundTruth.from_records([record(1, [])])
    with pytest.raises(InputError) as error:
        read_ilsvrc_predictions(path, truth, SYNSETS)
    message = str(error.value)
    assert [n for n in (2, 6, 8) if f"{path}: {n} entries" in message] == [2, 6, 8]
    assert all(f"line {n}:" in message for n in (1, 5, 7, 11, 15, 16))
    assert "line 6:" not in message and "line 12:" not in message
    kinds = ["malformed", "not_finite", "unknown_class"]
    assert not len(read_ilsvrc_predictions(path, truth, SYNSETS, drop=kinds)[0])
    with pytest.raises(InputError, match="no choice 'typo'; there are malformed"):
        read_ilsvrc_predictions(path, truth, SYNSETS, drop=["typo"])


def test_strange_boxes_are_scored_and_noted(tmp_path: Path) -> None:
    inverted, proper = (9.0, 1.0, 2.0, 9.0), (1.0, 1.0, 9.0, 9.0)
    path = write_lines(tmp_path / "p.txt", [(1, 0, 0.5, inverted), (1, 0, 0.4, proper)])
    truth = GroundTruth.from_records([record(1, [(0, proper)])])
    found, _ = read_ilsvrc_predictions(path, truth, SYNSETS)
    scores = score_ilsvrc(found, truth, NAMES)
    assert (scores.classes[0].false_positives, scores.classes[0].true_positives) == (1, 1)
    assert "1 of 2 boxes end before they begin" in form_notes(found, truth, path)[0]


def test_a_file_of_boxes_in_another_layout_is_refused(tmp_path: Path) -> None:
    lines = [(1, 0, 0.5, (30.0, 30.0, 10.0, 10.0))] * 11 + [(1, 0, 0.4, (1.0, 1.0, 9.0, 9.0))] * 9
    path = write_lines(tmp_path / "p.txt", lines)
    truth = GroundTruth.from_records([record(1, [])])
    with pytest.raises(InputError, match=r"line 1: 30 30 10 10 ends before it begins"):
        read_ilsvrc_predictions(path, truth, SYNSETS)
    assert len(read_ilsvrc_predictions(path, truth, SYNSETS, any_score=True)[0]) == 20
    write_lines(path, lines[1:])  # 19 boxes are too few to tell
    assert len(read_ilsvrc_predictions(path, truth, SYNSETS)[0]) == 19


def test_two_photos_of_a_run_do_not_become_one_image(tmp_path: Path) -> None:
    found = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1), torch.tensor([0]), NAMES)
    results = [ImageResult(f"{folder}/image_001.jpg", 99, 99, found) for folder in "ab"]
    write_results(tmp_path, results, NAMES)
    truth = GroundTruth.from_records([record(1, [])])
    message = r"images\.txt: 'a/image_001' and 'b/image_001' would both be the image"
    with pytest.raises(InputError, match=message):
        read_ilsvrc_predictions(tmp_path / "detections.txt", truth, SYNSETS)
    (tmp_path / "images.txt").unlink()
    _, notes = read_ilsvrc_predictions(
        tmp_path / "detections.txt", truth, SYNSETS, drop=["unknown_image"]
    )
    assert "categories.json without images.txt: the ids" in notes[0]


@pytest.mark.parametrize("image_id", [2**31, 2**53])
def test_huge_image_ids_are_found(tmp_path: Path, image_id: int) -> None:
    box = (1.0, 1.0, 9.0, 9.0)
    truth = GroundTruth.from_records([record(image_id, [(0, box)])])
    path = write_lines(tmp_path / "p.txt", [(image_id, 0, 0.5, box)])
    found, _ = read_ilsvrc_predictions(path, truth, SYNSETS)
    assert score_ilsvrc(found, truth, NAMES).classes[0].ap == 1
    write_lines(path, [(image_id - 1, 0, 0.5, box)])
    with pytest.raises(InputError, match=f"image id {image_id - 1} is not in the image list"):
        read_ilsvrc_predictions(path, truth, SYNSETS)


def test_objects_that_end_before_they_begin_are_scored_and_noted(tmp_path: Path) -> None:
    tags = "<xmin>9</xmin><xmax>2</xmax><ymin>1</ymin><ymax>9</ymax>"
    (tmp_path / "image_001.xml").write_text(
        f"<annotation><object><name>n01</name><bndbox>{tags}</bndbox></object></annotation>"
    )
    (tmp_path / "list.txt").write_text("image_001 1\n")
    (tmp_path / "classes.txt").write_text("n01 1 ant\n")
    path = write_lines(tmp_path / "p.txt", [(1, 0, 0.5, (1.0, 1.0, 9.0, 9.0))])
    scores = score_ilsvrc_files(path, tmp_path, tmp_path / "list.txt", tmp_path / "classes.txt")
    assert (scores.classes[0].positives, scores.classes[0].ap) == (1, 0)
    assert "1 objects end before they begin and cannot be found" in scores.notes[0]


def test_official_means_are_undefined_where_the_devkits_are(tmp_path: Path) -> None:
    box = (1.0, 1.0, 20.0, 20.0)
    records = [record(1, [(0, box)])]  # no object of the others; only the second is detected
    found = [Detections(torch.tensor([[0.0, 0, 20, 20]] * 2), torch.ones(2), torch.tensor([0, 1]))]
    scores = score_ilsvrc(found, records, NAMES)
    assert ([c.ap for c in scores.classes], scores.mean_ap) == ([1, None, None], 1)
    official = score_ilsvrc(found, records, NAMES, official=True)
    # The devkit ends with the last class that has objects: the mean is over the first alone.
    assert ([c.ap for c in official.classes], official.mean_ap) == ([1, None, 0], 1)
    records = [record(1, [(0, box), (2, box)])]
    official = score_ilsvrc(found, records, NAMES, official=True)
    assert ([c.ap for c in official.classes], official.mean_ap) == ([1, None, 0], None)
    assert to_json(official)["mean_ap"] is to_json(official)["median_ap"] is None


def test_corners_keep_every_digit_of_the_files(tmp_path: Path) -> None:
    # 0.1 - 1 + 1 is not 0.1: a detour over half-open boxes would lose the tie with the object.
    xml = tmp_path / "image_001.xml"
    corners = (0.1, 0.3, 10.7, 10.9)
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    sides = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    xml.write_text(
        f"<annotation><object><name>n01</name><bndbox>{sides}</bndbox></object></annotation>"
    )
    (tmp_path / "list.txt").write_text("image_001 1\n")
    (tmp_path / "classes.txt").write_text("n01 1 ant\n")
    path = write_lines(tmp_path / "p.txt", [(1, 0, 0.5, corners)])
    scores = score_ilsvrc_files(path, tmp_path, tmp_path / "list.txt", tmp_path / "classes.txt")
    assert scores.matches.truth.corners.tolist() == scores.matches.found.corners.tolist()
    assert scores.matches.found.corners.tolist() == [list(corners)]


def test_bad_detections_in_memory_are_refused() -> None:
    box, score, label = torch.zeros(1, 4), torch.ones(1), torch.tensor([1])
    records = [record(1, [])]
    with pytest.raises(ValueError, match="not a finite"):
        score_ilsvrc([Detections(box, score * torch.nan, label)], records, NAMES)
    with pytest.raises(ValueError, match=r"are 1\.\.1, not within 0\.\.0"):
        score_ilsvrc([Detections(box, score, label)], records, ("ant",))
    with pytest.raises(ValueError, match="2 detections for 1 images"):
        score_ilsvrc([Detections.empty()] * 2, records, NAMES)


@pytest.fixture(scope="module")
def demo(shared_dir: Path) -> Scores:
    folder = shared_dir / "data" / "ilsvrc_det"
    return score_ilsvrc_files(
        folder / "demo.val.pred.det.txt.xz",
        folder / "ILSVRC2013_DET_bbox_val.tar.xz",
        folder / "val.txt",
        folder / "meta_det.mat",
        folder / "ILSVRC2014_det_validation_blacklist.txt",
    )


def test_the_devkits_demo_scores_what_its_readme_says(demo: Scores) -> None:
    scores = demo
    assert f"{scores.mean_ap:.3f}" == "0.590"
    assert f"{scores.median_ap:.3f}" == "0.601"
    printed = {found.name: f"{found.ap:.3f}" for found in scores.classes}
    assert len(printed) == 200
    readme = {"accordion": "0.564", "airplane": "0.528", "ant": "0.548", "antelope": "0.626"}
    readme |= {"apple": "0.506", "water bottle": "0.521", "watercraft": "0.646"}
    readme |= {"whale": "0.548", "wine bottle": "0.610", "zebra": "0.772"}
    assert {name: printed[name] for name in readme} == readme


def test_the_devkits_demo_has_the_known_positives_and_detections(
    demo: Scores,
) -> None:
    content = to_json(demo)
    assert sum(found["positives"] for found in content["classes"]) == 54_609
    assert sum(found["detections"] for found in content["classes"]) == 49_013
    table = format_table(demo).splitlines()
    assert len(table) == 207
    assert "409 blacklisted pairs of image and class take 893 objects away" in table[-3]
    assert "1692 of 49013 boxes end before they begin" in table[-2]


def test_of_equally_good_thresholds_the_highest_counts(tmp_path: Path) -> None:
    # F1 is 2 * 1 / (1 + 5) after the first detection and 2 * 2 / (7 + 5) after the seventh: both
    # 1/3, of which the sum of rounded precision and recall would choose the second.
    objects = [(0, (100.0 * i, 1.0, 100.0 * i + 49, 50.0)) for i in range(1, 6)]
    far = (900.0, 1.0, 949.0, 50.0)
    boxes = [objects[0][1], *[far] * 5, objects[1][1]]
    lines = [(1, 0, 0.9 - 0.1 * i, box) for i, box in enumerate(boxes)]
    found = score_lines(tmp_path, lines, [record(1, objects)], set()).classes[0]
    assert (found.best_f1, found.best_threshold) == (2 / 6, 0.9)
