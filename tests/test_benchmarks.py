"""What the scripts in benchmarks/ decide by, and that they run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import regions
from benchmarks.bars import Bar, format_figure
from benchmarks.busy import busy_core
from benchmarks.contestants import Network, Place
from benchmarks.detect import compare_precisions, read_arguments
from benchmarks.eager import Eager
from benchmarks.machine import read_processors
from benchmarks.region_figures import THROUGHPUT_BARS, Bench
from benchmarks.region_subjects import ExactlyThisMany, find_photo, make_image
from benchmarks.unseen import TRAIN_CHECKPOINT, TRAIN_MULTIBOX, with_unseen
from detect.checkpoint import load_checkpoint
from detect.googlenet import GoogLeNet
from detect.images import read_image
from detect.multibox_proposals import default_proposals
from detect.workers import CoreWorkers
from proposals.union import Union
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("bar", "value", "text"),
    [
        (Bar("x the anchor", 5.5), 5.5, "5.5 x the anchor (bar >= 5.5): met"),
        (Bar("x the anchor", 5.5), 5.49, "5.5 x the anchor (bar >= 5.5): MISSED"),
        (Bar("s", 1.0, at_most=True, decimals=2), 1.0, "1.00 s (bar <= 1.00): met"),
        (Bar("s", 1.0, at_most=True, decimals=2), 1.01, "1.01 s (bar <= 1.00): MISSED"),
        (Bar("crops/s", 40_000, decimals=0), 41_000, "41,000 crops/s (bar >= 40,000): met"),
        (Bar("x", 1.0), float("nan"), "nan x (bar >= 1.0): MISSED"),
    ],
)
def test_a_verdict_says_what_was_found_and_wanted(bar: Bar, value: float, text: str) -> None:
    assert bar.verdict(value) == text


def test_a_figure_has_its_verdicts_and_the_load_below_it() -> None:
    lines = format_figure("speed", "3 m/s", ["slow"], "others used 0.00 cores").splitlines()
    assert lines[0].split() == ["speed", "3", "m/s"]
    assert [line.strip() for line in lines[1:]] == ["slow", "(others used 0.00 cores)"]


@pytest.mark.parametrize("found", [1, 3, 5, 8])
def test_proposals_are_cut_or_repeated_to_a_number(found: int) -> None:
    boxes = torch.arange(4 * found).float().view(found, 4)
    given = ExactlyThisMany(lambda image: boxes, 5)(torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert given.tolist() == [boxes[i % found].tolist() for i in range(5)]


def test_a_photo_without_proposals_is_refused() -> None:
    nothing = ExactlyThisMany(lambda image: torch.zeros(0, 4), 5)
    with pytest.raises(ValueError, match="take another"):
        nothing(torch.zeros(3, 2, 2, dtype=torch.uint8))


def test_the_photo_has_the_usual_size_with_and_without_voc(tmp_path: Path) -> None:
    made = find_photo(None, tmp_path)
    assert read_image(made).shape == (3, 375, 500)
    folder = tmp_path / "VOC2007" / "JPEGImages"
    folder.mkdir(parents=True)
    Image.new("RGB", (375, 500)).save(folder / "0.jpg")
    with pytest.raises(SystemExit, match="500 x 375"):
        find_photo(tmp_path / "VOC2007", tmp_path)
    Image.new("RGB", (500, 375)).save(folder / "1.jpg")
    assert find_photo(tmp_path / "VOC2007", tmp_path) == folder / "1.jpg"


def test_a_made_image_lies_in_memory_as_a_read_photo_does(tmp_path: Path) -> None:
    image, read = make_image(375, 500), read_image(find_photo(None, tmp_path))
    assert (image.shape, image.stride(), image.dtype) == (read.shape, read.stride(), read.dtype)
    assert (image.float() - read.float()).abs().mean() < 8  # JPEG's loss alone


def test_the_anchor_takes_the_fastest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {(1, False): 1.0, (4, False): 3.0, (1, True): 1.0, (4, True): 9.0, (8, False): 9.0}

    def passes(self: Eager, batch: int, threaded: bool, _: float) -> tuple[int, float]:
        return batch, seconds[batch, threaded]  # (8, True) would be an error: 9 s are too long

    monkeypatch.setattr(Eager, "_time", passes)
    anchor = Eager(Place(CPU, CoreWorkers(2), 0.1), [1, 4, 8])
    assert (anchor.batch, anchor.threaded) == (4, False)
    assert anchor.name.endswith("OpenMP on 2 cores, batch 4")


def test_rates_are_crops_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(CPU, CoreWorkers(1), 0.1)
    network = Network(GoogLeNet(0), torch.float32, place)
    calls = []

    def half_a_second(work, *, seconds: float, device: torch.device) -> float:
        calls.append((work(), seconds, device))
        return 0.5

    monkeypatch.setattr("benchmarks.contestants.time_passes", half_a_second)
    assert network.rate() == 2 * sum(map(len, network.crops)) > 0
    [(features, seconds, device)] = calls
    assert (seconds, device) == (0.1, CPU)
    assert [len(part) for part in features] == [len(part) for part in network.crops]


def test_a_quick_run_has_fewer_regions_and_never_none() -> None:
    anchor = object.__new__(Eager)
    place = Place(CPU, CoreWorkers(1), 0.1)
    sizes = [
        len(Bench(place, anchor, 1, 1, scale).regions(1200, (375, 500))) for scale in (1, 0.01, 0)
    ]
    assert sizes == [1200, 12, 1]


def test_every_bar_on_crops_belongs_to_a_figure() -> None:
    for bars in THROUGHPUT_BARS.values():
        assert bars and set(bars) <= {"rate", "ratio", "peak"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_busy_core_is_busy_with_a_child_of_ours() -> None:
    before = read_processors()
    with busy_core() as core:
        assert core in os.sched_getaffinity(0)
        deadline = time.monotonic() + 20
        now = read_processors()
        assert before is not None and now is not None
        while now.own - before.own < 0.1 and time.monotonic() < deadline:
            now = read_processors()
            assert now is not None
    assert now.own - before.own >= 0.1


def test_precisions_are_compared_where_float32_was_run() -> None:
    means = {
        ("shared", "bfloat16"): 0.4771,
        ("shared", "float32"): 0.4775,
        ("crops", "bfloat16"): 0.25,
        ("crops", "float32"): 0.3,
    }
    assert list(compare_precisions(means)) == [
        "shared, bfloat16: 0.04 points of mAP from float32 (bar <= 0.10): met",
        "crops, bfloat16: 5.00 points of mAP from float32 (bar <= 0.10): MISSED",
    ]
    assert list(compare_precisions({("shared", "auto"): 0.4})) == []


def test_settings_of_the_tool_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["VOC", "--precision", "bfloat16", "float32", "proposer.max_boxes=40", "--photos", "1"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *line])
    arguments, settings = read_arguments()
    assert settings == ["proposer.max_boxes=40"]
    assert (arguments.precision, arguments.photos) == (["bfloat16", "float32"], 1)
    assert (arguments.voc, arguments.regions) == (Path("VOC"), ["shared"])


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--threads", "-1"], ["--seconds", "0"]])
def test_wrong_numbers_are_refused(monkeypatch, capsys, wrong: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["regions.py", *wrong])
    with pytest.raises(SystemExit) as stop:
        regions.read_arguments()
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["regions.py", "--device", "cuda"])
    with pytest.raises(SystemExit):
        regions.read_arguments()
    assert "there is no CUDA device here" in capsys.readouterr().err


@pytest.mark.slow
def test_regions_are_timed_from_any_folder(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "regions.py"
    command = [sys.executable, str(script), "--quick", "--busy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = [line for line in done.stdout.splitlines()[2:] if not line.startswith(" ")]
    measured = [line for line in figures if "not compared" not in line]
    # Six throughputs, a tuned anchor, warp, shared trunk, two images, the photo, the busy core;
    # others if they are installed.
    assert len(measured) >= 13
    assert all(re.search(r"anchor [\d.,]+ crops/s$", line) for line in measured)
    bars = re.findall(r"\(bar [<>]= .+?\): (?:met|MISSED)$", done.stdout, re.M)
    assert len(bars) == 2 * 6 + 4
    assert not list(tmp_path.iterdir())


def test_val_is_measured_with_a_detector_that_has_not_seen_it() -> None:
    checkpoint = load_checkpoint(TRAIN_CHECKPOINT)
    assert checkpoint.training["data"]["split"] == "train"
    assert isinstance(default_proposals(checkpoint, TRAIN_MULTIBOX), Union)  # they go together
    both = [f"checkpoint={TRAIN_CHECKPOINT}", f"multibox={TRAIN_MULTIBOX}"]
    assert with_unseen(["threads=1"]) == ["threads=1", *both]
    assert with_unseen(["multibox=a"]) == ["multibox=a", both[0]]
    assert with_unseen(["checkpoint=a"]) == ["checkpoint=a"]


@pytest.mark.slow
def test_whole_detections_are_timed_and_compared(tmp_path: Path, shared_dir: Path) -> None:
    voc = shared_dir / "data" / "voc2007"
    command = [sys.executable, str(ROOT / "benchmarks" / "detect.py"), str(voc), "--photos", "1"]
    command += ["--tries", "1", "--precision", "bfloat16", "float32", "proposer.max_boxes=40"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^shared +(bfloat16|float32) +[\d. ]+\(.+\)$", done.stdout, re.M)
    assert rows == ["bfloat16", "float32"]
    assert "points of mAP from float32 (bar <= 0.10)" in done.stdout
