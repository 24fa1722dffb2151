"""tools/propose.py as a user runs it, and the report on recall behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detect.config import settings_help
from detect.data.records import Record
from detect.recall_report import (
    THRESHOLDS,
    format_table,
    measure_recall,
    open_files,
    write_recall_report,
)
from detect.results import read_skipped
from detect.settings import ProposeConfig, RecallConfig
from proposals import SelectiveSearch
from proposals.store import ProposalFile, StoredPhoto, write_proposal_file
from tests.conftest import ROOT
from tests.data_trees import write_coco, write_ilsvrc, write_voc
from tools import propose as tool

XML = """<annotation><size><width>100</width><height>80</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>11</xmin>
<ymin>21</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>"""
SMALL = ("proposer.width=100", "proposer.max_boxes=40")


@dataclass
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys) -> Run:
    """Run the tool in this process, where torch is loaded and kernels are compiled."""

    def run_here(*arguments: object) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["propose.py", *map(str, arguments)])
        return Done(tool.main(), *capsys.readouterr())

    return run_here


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "propose.py"), *arguments, *SMALL]


def make_photo(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 70, (80, 100, 3), np.uint8)
    pixels[20:60, 10 + seed % 40 : 50 + seed % 40] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_photos(folder: Path, count: int) -> None:
    for i in range(count):
        make_photo(folder / f"{i:03d}.png", i)


def make_voc(root: Path, objects: list[list[tuple[str, int]]]) -> None:
    """Make a data set whose i-th photo has these classes and difficult flags, all in one place."""
    for i, found in enumerate(objects):
        make_photo(root / f"JPEGImages/{i}.png", 0)
        (root / f"JPEGImages/{i}.png").rename(root / f"JPEGImages/{i}.jpg")
        text = "".join(OBJECT.format(name=name, difficult=flag) for name, flag in found)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{i}.xml").write_text(XML.format(objects=text))
    (root / "ImageSets/Main").mkdir(parents=True)
    names = "".join(f"{i}\n" for i in range(len(objects)))
    (root / "ImageSets/Main/val.txt").write_text(names)


def test_photos_of_any_name_get_the_boxes_of_the_proposer(tmp_path: Path, run: Run) -> None:
    odd = tmp_path / "my photos, [2014] = all"
    names = ["ü 猫.png", "a=b.png", "x, y.png", "[1].png", "plain.png"]
    for seed, name in enumerate(names):
        make_photo(odd / "deep" / name, seed)
    make_photo(tmp_path / "key=value.png", 9)
    done = run(odd, "key=value.png", "out=p, [1] = all.npz", *SMALL)
    assert done.status == 0, done.err
    file = ProposalFile.open(tmp_path / "p, [1] = all.npz")
    assert set(file.names) == {*(f"deep/{name}" for name in names), "key=value.png"}
    search = SelectiveSearch("fast", width=100, max_boxes=40)
    for name in names:
        pixels = np.array(Image.open(odd / "deep" / name))
        assert torch.equal(file[f"deep/{name}"], search(torch.from_numpy(pixels).permute(2, 0, 1)))
    assert file.sizes.tolist() == [[80, 100]] * 6
    assert file.settings["width"] == 100
    assert "6 photos (0 done before), " in done.out
    assert done.out.splitlines()[-1] == "proposals: p, [1] = all.npz"
    assert read_skipped(tmp_path / "skipped.csv") == []


def test_a_killed_run_ends_with_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, run: Run
) -> None:
    make_photos(tmp_path / "photos", 60)
    assert run("photos", "out=whole.npz", "workers=1", *SMALL).status == 0
    partial = tmp_path / "p.npz.partial"
    arguments = command("photos", "out=p.npz", "workers=2")
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if partial.exists() and partial.stat().st_size > 2000:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL
    content = partial.read_bytes()
    partial.write_bytes(content[:-3])  # as a power cut may leave it
    done = run("photos", "out=p.npz", "workers=4", *SMALL)
    assert done.status == 0, done.err
    assert "60 photos (0 done before)" not in done.out
    assert (tmp_path / "p.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not partial.exists()
    assert "60 photos (60 done before)" in run("photos", "out=p.npz", *SMALL).out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Give processes started here the default SIGINT; background jobs of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, run: Run) -> None:
    make_photos(tmp_path / "photos", 200)
    partial = tmp_path / "p.npz.partial"
    with subprocess.Popen(
        command("photos", "out=p.npz"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (partial.exists() and partial.stat().st_size > 3000):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == "interrupted: the same command goes on from here"
    assert not (tmp_path / "p.npz").exists()
    again = run("photos", "out=p.npz", *SMALL)
    assert again.status == 0
    assert "200 photos (" in again.out and "(0 done before)" not in again.out


def test_broken_photos_are_listed_and_end_nothing(tmp_path: Path, run: Run) -> None:
    make_photo(tmp_path / "photos/good.png", 0)
    (tmp_path / "photos/empty.jpg").touch()
    (tmp_path / "photos/text.jpg").write_text("hello")
    (tmp_path / "photos/film.mp4").write_bytes(bytes(100))
    (tmp_path / "photos/link, to nothing.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "photos/folder.jpg").mkdir()
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    done = run("photos", "out=new/p.npz", *SMALL)
    assert done.status == 1
    skipped = dict(read_skipped(tmp_path / "new" / "skipped.csv"))
    assert skipped["empty.jpg"] == "an empty file"
    assert skipped["film.mp4"] == "a video: only photos have proposals"
    assert skipped["link, to nothing.jpg"] == "a symbolic link to nothing"
    assert set(skipped) == {p.name for p in (tmp_path / "photos").iterdir()} - {"good.png"}
    assert ProposalFile.open(tmp_path / "new" / "p.npz").names == ("good.png",)
    assert "1 photos (0 done before)" in done.out and "6 skipped" in done.out
    assert "and 1 more, see new/skipped.csv" in done.out


def test_other_settings_are_refused_until_overwrite(tmp_path: Path, run: Run) -> None:
    make_photos(tmp_path / "photos", 1)
    assert run("photos", *SMALL).status == 0
    other = ("photos", *SMALL, "proposer=superpixels_x2", "proposer.seed=3")
    done = run(*other)
    assert done.status == 2
    assert "seed: 0 there, 3 here" in done.err and "overwrite=true" in done.err
    assert done.err.count("\n") == 1
    assert run("photos", *SMALL, "workers=2").status == 0
    assert run(*other, "overwrite=true").status == 0


def test_a_data_set_is_proposed_under_its_names(tmp_path: Path, run: Run) -> None:
    make_voc(tmp_path / "voc", [[("cat", 0)], []])
    done = run("data=voc", "data.root=voc", "data.split=val", *SMALL)
    assert done.status == 0, done.err
    assert ProposalFile.open(tmp_path / "proposals.npz").names == ("0", "1")
    assert done.err == ""
    (tmp_path / "voc/JPEGImages/1.jpg").unlink()
    done = run("data=voc", "data.root=voc", "data.split=val", "out=p.npz", *SMALL)
    assert done.status == 0
    assert done.err == (
        "note: voc/Annotations: 1 left out (missing_photo), the first at image 1: its photo is not "
        "there\n"
    )
    assert ProposalFile.open(tmp_path / "p.npz").names == ("0",)


@pytest.mark.parametrize("write", [write_voc, write_coco, write_ilsvrc])
def test_every_data_set_is_proposed_and_its_recall_measured(
    tmp_path: Path, run: Run, write: Callable[..., Path]
) -> None:
    square = ("polar bear", (10, 20, 50, 60))
    write(tmp_path / "my set", {"a b": [square], "ü 猫": [], "c": [square, square]}, "val")
    data = (f"data={write.__name__.removeprefix('write_')}", "data.root=my set", "data.split=val")
    assert run(*data, "out=p.npz", *SMALL).status == 0
    assert ProposalFile.open(tmp_path / "p.npz").names == ("a b", "ü 猫", "c")
    done = run("recall", "p.npz", *data)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("3 photos, 3 objects (difficult ones counted)\n")
    rows = json.loads((tmp_path / "recall/recall.json").read_text())["files"][0]["budgets"]
    assert rows[-1]["recall_50"] == 1


def test_paths_come_from_standard_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    module = [sys.executable, "-m", "tools.propose", "-", f"out={tmp_path / 'p.npz'}", *SMALL]
    done = subprocess.run(
        module, cwd=ROOT, input=f"{tmp_path}/photos/001.png\n", capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ProposalFile.open(tmp_path / "p.npz").names == ("001.png",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["out=x"], "give either PATHs or data=..."),
        (["photos", "data=voc", "data.root=voc", "data.split=val"], "give either PATHs or data"),
        (["empty"], "empty: no photo there"),
        (["photos", "worker=2"], "did you mean workers"),
        (["photos", "proposer.with=2"], "did you mean proposer.width"),
        (["photos", "proposer=fastest"], "proposer=fastest: "),
        (["photos", "proposer.width=0"], "proposer: width must be 1 or more"),
        (["photos", "workers=-1"], "workers must be 1 or more: got -1"),
        (["photos", "workers=many"], "workers=many"),
        (["data=voc"], "set data.root=..."),
        (["data=voc", "data.rot=voc"], "did you mean data.root"),
        (["data=vocc", "data.root=voc"], "data=vocc: "),
        (["data=voc", "data.root=nowhere"], "data: nowhere: no such folder"),
        (["data=coco", "data.root=voc"], "data: voc/annotations/instances_train2017.json: No such"),
        (["data=ilsvrc", "data.root=voc"], "data: voc: no devkit/data/meta_det.mat"),
        (["data.root=voc"], "no setting 'data.root'"),
        (["recall", "data.root=voc"], "no FILE given"),
        (["recall", "p.npz"], "set data.root=..."),
        (["recall", "absent.npz", "data.root=voc", "data.split=val"], "absent.npz"),
        (["recall", "photos/000.png", "data.root=voc"], "photos/000.png is no file of proposals"),
        (["recall", "p.npz", "./p.npz", "data.root=voc"], "two files have the name p: "),
        (["recall", "p.npz", "data.root=voc", "data.split=val"], "1 of the data set's 1 photos"),
        (["recall", "p.npz", "data.root=voc", "data.split=val", "budgets=[0]"], "1 box or more"),
        (["recall", "p.npz", "data.root=voc", "budgets=x"], "budgets=x"),
    ],
)
def test_wrong_requests_end_with_one_line(
    tmp_path: Path, run: Run, arguments: list[str], message: str
) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    make_voc(tmp_path / "voc", [[("cat", 0)]])
    write_proposal_file(tmp_path / "p.npz", {}, [], [])
    done = run(*arguments)
    assert done.status == 2, done.out
    assert done.err.startswith("propose: ") and message in done.err
    assert done.err.count("\n") == 1, done.err


def test_help_shows_both_commands_with_every_setting(run: Run) -> None:
    done = run("--help")
    assert done.status == 0
    for part in ("usage:", "recall FILE...", "Exit status", "budgets=[100,200,500,1000,2000]"):
        assert part in done.out
    for settings in (ProposeConfig, RecallConfig):
        assert settings_help(settings)["template"] in done.out
    assert run().status == 2


# Recall


def write_boxes(path: Path, boxes: dict[str, list[list[float]]], settings=None) -> ProposalFile:
    tensors = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes.values()]
    photos = [
        StoredPhoto(name, "00" * 32, (80, 100), len(t))
        for name, t in zip(boxes, tensors, strict=True)
    ]
    write_proposal_file(path, settings or {"class": "Hand"}, photos, tensors)
    return ProposalFile.open(path)


def record(name: str, boxes: list[list[float]], labels: list[int], difficult=None) -> Record:
    return Record(
        name,
        None,
        100,
        80,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(difficult or [False] * len(labels), dtype=torch.bool),
    )


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_numbers(
    boxes: dict[str, list[list[float]]], records: list[Record], budget: int | None, difficult: bool
) -> dict[str, float]:
    best, classes = [], []
    for one in records:
        for truth, label, hard in zip(one.boxes.tolist(), one.labels, one.difficult, strict=True):
            if difficult or not hard:
                overlaps = [slow_iou(truth, box) for box in boxes[one.name][:budget]]
                best.append(max(overlaps, default=0.0))
                classes.append(int(label))
    at = {t: sum(b >= t for b in best) / len(best) for t in (0.5, 0.7)}
    steps = [sum(b >= 0.5 + 0.05 * i - 1e-9 for b in best) / len(best) for i in range(10)]
    by_class = [
        np.mean([b for b, c in zip(best, classes, strict=True) if c == label])
        for label in set(classes)
    ]
    used = [len(boxes[one.name][:budget]) for one in records]
    return {
        "boxes": float(np.mean(used)),
        "recall_50": at[0.5],
        "recall_70": at[0.7],
        "average_recall": float(np.mean(steps)),
        "abo": float(np.mean(best)),
        "mabo": float(np.mean(by_class)),
    }


@pytest.mark.parametrize("difficult", [True, False])
def test_numbers_equal_a_slow_reference(tmp_path: Path, difficult: bool) -> None:
    generator = np.random.default_rng(5)

    def draw(count: int) -> list[list[float]]:
        corners = generator.uniform(0, 60, (count, 2))
        return np.hstack([corners, corners + generator.uniform(5, 60, (count, 2))]).tolist()

    counts = [0, 30, 7, 120]
    boxes = {f"{i}.jpg": draw(count) for i, count in enumerate(counts)}
    objects = [draw(2), draw(3), [], draw(4)]
    records = [
        record(
            f"{i}.jpg",
            found,
            [j % 3 for j in range(len(found))],
            [j == 1 for j in range(len(found))],
        )
        for i, found in enumerate(objects)
    ]
    file = write_boxes(tmp_path / "p.npz", boxes)
    report = measure_recall({"p": file}, records, budgets=[50, 1, 5], difficult=difficult)
    assert (report.num_photos, report.num_objects) == (4, 9 if difficult else 6)
    assert [row.budget for row in report.files[0].budgets] == [1, 5, 50, None]
    for row in report.files[0].budgets:
        expected = slow_numbers(boxes, records, row.budget, difficult)
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-6), (row.budget, name)


def test_a_curve_starts_at_recall_and_uses_its_budget(tmp_path: Path) -> None:
    boxes = {"a": [[0.0, 0, 10, 7], [0, 0, 10, 10]]}
    file = write_boxes(tmp_path / "p", boxes)
    objects = [record("a", [[0, 0, 10, 10]], [0])]
    first = measure_recall({"p": file}, objects, budgets=[1], plot_budget=1).files[0]
    both = measure_recall({"p": file}, objects, budgets=[1], plot_budget=2).files[0]
    assert first.curve == tuple(float(t <= 0.7) for t in THRESHOLDS)
    assert both.curve == (1.0,) * 51


def test_no_boxes_at_all_make_a_report_of_zeros(tmp_path: Path) -> None:
    file = write_boxes(tmp_path / "p.npz", {"a": [], "b": []})
    records = [record("a", [[0, 0, 9, 9]], [3]), record("b", [], [])]
    report = measure_recall({"p": file}, records, budgets=[10])
    for row in report.files[0].budgets:
        measures = (row.boxes, row.recall_50, row.average_recall, row.abo, row.mabo)
        assert measures == (0, 0, 0, 0, 0)
    write_recall_report(tmp_path / "out", report)
    assert (tmp_path / "out" / "recall.png").stat().st_size > 1000
    assert "0.000" in format_table(report)


def test_photos_are_found_with_or_without_their_suffix(tmp_path: Path) -> None:
    whole, outside = [[0.0, 0, 10, 10]], [[50.0, 50, 60, 60]]
    objects = [record("a", whole, [0])]
    file = write_boxes(tmp_path / "p", {"a.jpg": whole})
    assert measure_recall({"p": file}, objects, budgets=[1]).files[0].budgets[0].abo == 1
    exact = write_boxes(tmp_path / "q", {"a": whole, "a.b": outside})
    assert measure_recall({"q": exact}, objects, budgets=[1]).files[0].budgets[0].abo == 1
    both = write_boxes(tmp_path / "r", {"a.jpg": whole, "a.png": outside})
    with pytest.raises(ValueError, match="photos are missing"):  # which one is meant is not known
        measure_recall({"r": both}, objects, budgets=[1])


def test_missing_photos_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    file = write_boxes(tmp_path / "p.npz", {"b": []})
    records = [record(name, [[0, 0, 9, 9]], [0]) for name in ("b", "first", "c")]
    with pytest.raises(ValueError, match=r"p\.npz: 2 of the data set's 3 photos.*'first'.*'b'"):
        measure_recall({"p": file}, records, budgets=[1])


@pytest.mark.parametrize(
    "records", [[], [record("a", [], [])], [record("a", [[0, 0, 1, 1]], [0], [True])]]
)
def test_a_data_set_without_objects_is_refused(tmp_path: Path, records: list[Record]) -> None:
    file = write_boxes(tmp_path / "p", {"a": []})
    with pytest.raises(ValueError, match="no object to cover"):
        measure_recall({"p": file}, records, budgets=[1], difficult=False)


def test_names_come_from_the_files_and_differ(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/fast.npz", "b/fast.npz", "b/ü 猫 $x^$, y.npz", "b/_z"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_boxes(tmp_path / path, {"p": [[0, 0, 10, 10]]})
    names = ["a/fast.npz", "b/fast.npz", "b/ü 猫 $x^$, y.npz", "b/_z"]
    files = open_files(names)
    assert list(files) == ["a/fast", "b/fast", "ü 猫 $x^$, y", "_z"]
    report = measure_recall(files, [record("p", [[0, 0, 10, 10]], [0])], budgets=[1])
    write_recall_report(tmp_path / "out", report)
    for name in files:
        assert format_table(report).count(f"\n{name} ") == 2


def test_recall_of_several_files_is_printed_and_written(tmp_path: Path, run: Run) -> None:
    make_voc(tmp_path / "voc", [[("cat", 0), ("dog", 1)], [], [("cat", 0)]])
    data = ("data=voc", "data.root=voc", "data.split=val")
    for preset in ("fast", "superpixels_x2"):
        assert run(*data, *SMALL, f"proposer={preset}", f"out={preset}.npz").status == 0
    done = run("recall", "fast.npz", "superpixels_x2.npz", *data, "out=report", "budgets=[1,10]")
    assert done.status == 0, done.err
    assert done.out.startswith("3 photos, 3 objects (difficult ones counted)\n")
    assert done.out.splitlines()[-1] == "written to report: recall.json, recall.png"
    content = json.loads((tmp_path / "report" / "recall.json").read_text())
    assert content["settings"]["data"]["split"] == "val"
    assert [file["name"] for file in content["files"]] == ["fast", "superpixels_x2"]
    assert [row["budget"] for row in content["files"][0]["budgets"]] == [1, 10, None]
    assert content["files"][0]["budgets"][-1]["recall_50"] == 1
    assert content["files"][1]["settings"]["scales"] == [[100, 100], [200, 200]]
    with Image.open(tmp_path / "report" / "recall.png") as picture:
        assert picture.width > 1000
    fewer = run("recall", "fast.npz", *data, "out=report", "difficult=false")
    assert "2 objects (difficult ones left out)" in fewer.out


def test_proposals_of_voc_reach_their_recall(shared_dir: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "voc"
    (root / "ImageSets/Main").mkdir(parents=True)
    real = shared_dir / "data" / "voc2007"
    for part in ("JPEGImages", "Annotations"):
        (root / part).symlink_to(real / part)
    names = (real / "ImageSets/Main/val.txt").read_text().split()[::109]
    (root / "ImageSets/Main/ten.txt").write_text("\n".join(names))
    data = (f"data.root={root}", "data.split=ten")
    assert run("data=voc", *data, "out=p.npz").status == 0
    assert run("recall", "p.npz", *data, "out=r").status == 0
    rows = json.loads((tmp_path / "r/recall.json").read_text())["files"][0]["budgets"]
    recalls = [row["recall_50"] for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.8
