"""tools/train.py as a user runs it, on a VOC tree of a few small photos."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detect import Detector, fine_tuning, training_loop
from detect.checkpoint import load_checkpoint
from detect.googlenet import GoogLeNet
from detect.merging import MergeConfig
from detect.precision import computes_bfloat16
from tests.conftest import ROOT, run_hydra_tool
from tests.test_googlenet import caffe_tensors
from tools import train as tool

XML = """<annotation>
<filename>{name}.jpg</filename><size><width>90</width><height>70</height></size>
<object><name>{cls}</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>11</ymin>
<xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"""
CLASSES = ("cat", "dog", "cat", "dog")
QUICK = (
    "weights=googlenet.safetensors",
    "training.steps=2",
    "training.photos_per_step=2",
    "shared.shorter_side=96",
    "shared.pyramid=[0.7,1.0]",
    "shared.region_side=40",
    "sampling.regions_per_photo=6",
    "sampling.candidates_per_photo=12",
    "sampling.train_from=5b",
    "proposer.max_boxes=30",
    "rejection.photos=0",
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "voc" / part).mkdir(parents=True)
    for i, cls in enumerate(CLASSES):
        pixels = np.random.default_rng(i).integers(0, 80, (70, 90, 3), np.uint8)
        pixels[10:50, 10:50] += 150
        Image.fromarray(pixels).save(folder / f"voc/JPEGImages/{i}.jpg")
        (folder / f"voc/Annotations/{i}.xml").write_text(XML.format(name=i, cls=cls))
    (folder / "voc/ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    (folder / "voc/ImageSets/Main/val.txt").write_text("3\n0\n")
    torch.manual_seed(0)
    save_file(caffe_tensors(GoogLeNet(9)), folder / "googlenet.safetensors")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "train.py"), "data.root=voc", *arguments]


def train_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the tool in this process; return its exit status."""
    return run_hydra_tool(monkeypatch, "train", tool.main, "data.root=voc", *arguments)


def test_training_makes_a_checkpoint_a_report_and_logs(workplace, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    given = (*QUICK, "out=one", "validation.split=val", "validation.every=1", "rejection.photos=3")
    assert train_here(monkeypatch, *given) == 0
    printed = capsys.readouterr().out
    assert "4 photos to propose boxes on: about" in printed
    assert "step 1: mAP" in printed
    assert "best checkpoint: mAP" in printed
    out = workplace / "one"
    checkpoint = load_checkpoint(out / "checkpoint.safetensors")
    assert checkpoint.class_names == ("cat", "dog")
    assert checkpoint.training["num_photos"] == 3
    assert checkpoint.shared.pyramid == [0.7, 1.0]
    assert checkpoint.rejection is not None
    checked = checkpoint.precision_check is not None
    assert checked == computes_bfloat16(torch.device("cpu"))
    with (out / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
    with (out / "validation.csv").open() as file:
        assert [list(row) for row in csv.DictReader(file)] == [
            ["step", "mAP", "AP cat", "AP dog"]
        ] * 2
    assert "<html" in (out / "report.html").read_text()
    detector = Detector.load(checkpoint, merge=MergeConfig(score_threshold=0.0))
    found = detector(workplace / "voc/JPEGImages/0.jpg")
    assert len(found) > 0
    assert set(found.names) <= {"cat", "dog"}


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(
    workplace, monkeypatch
) -> None:
    monkeypatch.chdir(workplace)
    given = (*QUICK, "training.steps=6", "report=false")
    assert train_here(monkeypatch, *given, "out=whole") == 0
    process = subprocess.Popen(command(*given, "save_minutes=0", "out=killed"), cwd=workplace)
    state = workplace / "killed" / "state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (workplace / "killed/checkpoint.safetensors").exists()
    assert train_here(monkeypatch, *given, "out=killed") == 0
    whole, resumed = (
        load_file(workplace / n / "checkpoint.safetensors") for n in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert len((workplace / "killed/log.csv").read_text().splitlines()) == 7


def test_killed_before_its_last_validation_it_is_measured_when_resumed(
    workplace, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(workplace)
    given = (*QUICK, "report=false", "validation.split=val", "out=unmeasured")
    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Judge, "settle", lambda *_, **__: False)
        patch.setattr(fine_tuning, "finish", lambda *_: None)
        assert train_here(monkeypatch, *given) == 0
    assert not (workplace / "unmeasured/checkpoint.safetensors").exists()
    assert train_here(monkeypatch, *given) == 0
    assert "step 2: mAP" in capsys.readouterr().out
    assert (workplace / "unmeasured/checkpoint.safetensors").exists()
    assert train_here(monkeypatch, *given) == 0  # nothing is left to do
    assert "step 2: mAP" not in capsys.readouterr().out


def test_a_broken_photo_is_left_out_by_name_and_the_rest_is_trained_on(
    workplace, monkeypatch, capsys
) -> None:
    shutil.copytree(workplace / "voc", workplace / "damaged", dirs_exist_ok=True)
    (workplace / "damaged/JPEGImages/1.jpg").write_bytes(b"broken")
    monkeypatch.chdir(workplace)
    given = (*QUICK, "out=two", "data.class_names=[cat]", "data.root=damaged")
    assert train_here(monkeypatch, *given) == 1
    printed = capsys.readouterr().out
    assert "left out: 1: not an image" in printed
    assert "dog" in printed  # objects of another class, which are left out too
    assert "not an image" in (workplace / "two/skipped.csv").read_text()
    assert load_checkpoint(workplace / "two/checkpoint.safetensors").training["num_photos"] == 2


def test_a_share_of_the_photos_can_be_held_back_and_training_stops_early(
    workplace, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(workplace)
    changes = ("validation.fraction=0.34", "validation.every=1", "validation.patience=1")
    # Nothing is found with this threshold: no validation is better than the first.
    given = (*QUICK, *changes, "training.steps=5", "merge.score_threshold=0.99", "out=early")
    assert train_here(monkeypatch, *given) == 0
    assert "stopped after 2 steps: mAP does not rise any more" in capsys.readouterr().out
    assert train_here(monkeypatch, *given) == 0  # it has stopped for good
    assert len((workplace / "early/log.csv").read_text().splitlines()) == 3
    assert load_checkpoint(workplace / "early/checkpoint.safetensors").training["num_photos"] == 2


def test_crops_are_trained_with_auxiliary_classifiers(workplace, monkeypatch) -> None:
    monkeypatch.chdir(workplace)
    changes = ("regions=crops", "head.auxiliary_weight=0.3", "sampling.train_from=4a", "out=crops")
    few = ("sampling.regions_per_photo=2", "sampling.candidates_per_photo=2", "training.steps=1")
    assert train_here(monkeypatch, *QUICK, *changes, *few, "report=false") == 0
    checkpoint = load_checkpoint(workplace / "crops/checkpoint.safetensors")
    assert checkpoint.regions == "crops"
    assert "auxiliary_loss" in (workplace / "crops/log.csv").read_text()


def test_svms_are_trained_on_a_network_that_stays(workplace, monkeypatch) -> None:
    monkeypatch.chdir(workplace)
    given = (*QUICK, "head=svm", "validation.split=val", "rejection.photos=3", "out=svm")
    assert train_here(monkeypatch, *given) == 0
    checkpoint = load_checkpoint(workplace / "svm/checkpoint.safetensors")
    assert checkpoint.head.activation == "sigmoid"
    assert checkpoint.training["head"]["cost"] == 0.001
    assert checkpoint.rejection is None  # that of SVMs would reject too much
    start = load_file(workplace / "googlenet.safetensors")["inception_5b/1x1.weight"]
    assert torch.equal(checkpoint.network.inception5b.branch1.conv.weight, start.half().float())
    assert "<html" in (workplace / "svm/report.html").read_text()
    further = [setting for setting in QUICK if not setting.startswith("weights")]
    start = "checkpoint=svm/checkpoint.safetensors"
    assert train_here(monkeypatch, *further, start, "out=further", "report=false") == 0
    # A softmax starts from nothing: SVMs' weights are none of its.
    trained = load_checkpoint(workplace / "further/checkpoint.safetensors")
    assert trained.head.activation == "softmax"


def test_training_goes_on_from_a_detector_by_default_the_bundled_one(
    workplace, monkeypatch
) -> None:
    monkeypatch.chdir(workplace)
    given = [setting for setting in QUICK if not setting.startswith("weights")]
    assert train_here(monkeypatch, *given, "out=bundled", "report=false") == 0
    found = load_file(workplace / "bundled/checkpoint.safetensors")
    bundled = load_file(ROOT / "detect/pretrained/voc2007.safetensors")
    same = "network.inception4a.branch1.conv.weight"
    assert torch.equal(found[same], bundled[same])
    assert len(found["head.classifier.weight"]) == 3


@pytest.mark.slow
def test_torchrun_trains_as_one_process_with_the_doubled_batch(workplace) -> None:
    given = (*QUICK, "report=false")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    two = [*torchrun, *command(*given, "out=both")[1:]]
    one = command(*given, "training.photos_per_step=4", "out=alone")
    for line in (two, one):
        done = subprocess.run(line, cwd=workplace, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    both, alone = (load_file(workplace / n / "checkpoint.safetensors") for n in ("both", "alone"))
    for key, value in alone.items():
        torch.testing.assert_close(both[key].float(), value.float(), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weights=absent.caffemodel", "out=x"), "absent.caffemodel"),
        (("weights=googlenet.safetensors",), "set out=...; --help explains"),
        (("out=x", "data.split=nowhere"), "nowhere"),
        (("out=x", "traning.steps=1"), "did you mean training.steps"),
        (("out=x", "training.step=1"), "did you mean training.steps"),
        (("out=x", "sampling.train_from=9z"), "train_from='9z'"),
        (("out=x", "weights=googlenet.safetensors", "checkpoint=a"), "give either weights=FILE"),
        (("out=x", "regions=boxes"), "regions=boxes: choose shared or crops"),
        (("out=x", "weights=googlenet.safetensors", "head.auxiliary_weight=0.3"), "regions=crops"),
        (("out=x", "only_classes=[unicorn]"), "unicorn"),
        (("out=x", "validation.metric=kitti"), "choose voc or ilsvrc"),
        (("out=x", "head=forest"), "forest"),
        (("out=x", "experiment=quik"), "quik"),
    ],
)
def test_wrong_requests_end_with_one_line_and_status_2(
    workplace, monkeypatch, capsys, arguments, message
) -> None:
    monkeypatch.chdir(workplace)
    assert train_here(monkeypatch, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1, errors


@pytest.mark.slow
def test_members_of_an_ensemble_are_trained_one_after_the_other(
    workplace, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(workplace)
    (workplace / "voc/JPEGImages/4.jpg").write_bytes(b"no photo")
    (workplace / "voc/Annotations/4.xml").write_text(XML.format(name=4, cls="cat"))
    (workplace / "voc/ImageSets/Main/some.txt").write_text("0\n1\n2\n4\n")
    members = ("--multirun", "seed=1,2", "out=members/${seed}", "data.split=some", "cache=kept")
    assert train_here(monkeypatch, *QUICK, "report=false", *members) == 1  # 4.jpg was left out
    one, two = (load_file(f"members/{seed}/checkpoint.safetensors") for seed in (1, 2))
    assert one.keys() == two.keys()
    assert not torch.equal(one["head.classifier.weight"], two["head.classifier.weight"])
    before = Path("members/1/log.jsonl").read_text()
    capsys.readouterr()
    assert train_here(monkeypatch, *QUICK, "report=false", *members) == 1
    assert Path("members/1/log.jsonl").read_text() == before  # nothing is trained again
    assert not list(workplace.glob("multirun*"))
    same = ("--multirun", "seed=3,4", "out=members/same")
    assert train_here(monkeypatch, *QUICK, "report=false", *same) == 2
    assert "out=" in capsys.readouterr().err


def test_early_rejection_is_trained_for_a_detector_that_stays(
    workplace, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(workplace)
    assert train_here(monkeypatch, *QUICK, "out=before") == 0
    start = load_checkpoint(workplace / "before/checkpoint.safetensors")
    assert start.rejection is None
    given = ("head=kept", "checkpoint=before/checkpoint.safetensors", "proposer.max_boxes=30")
    assert train_here(monkeypatch, *given, "rejection.epochs=1", "out=kept") == 0
    assert "early rejection:" in capsys.readouterr().out
    made = load_checkpoint(workplace / "kept/checkpoint.safetensors")
    assert made.rejection is not None
    assert made.shared == start.shared
    for key, value in start.network.state_dict().items():
        assert torch.equal(made.network.state_dict()[key], value), key
    assert made.training["seed"] == start.training["seed"]
    assert made.training["rejection"]["rejection"]["epochs"] == 1
