"""tools/train.py as a user runs it, on a VOC tree of three small photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from detect.checkpoint import load_checkpoint
from detect.googlenet import GoogLeNet
from tests.conftest import ROOT
from tests.test_googlenet import caffe_tensors
from tools import command_line, detect
from tools import train as tool

XML = """<annotation>
<filename>{name}.jpg</filename><size><width>90</width><height>70</height></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>11</ymin>
<xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "voc" / part).mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 80, (70, 90, 3), np.uint8)
        pixels[10:50, 10:50] += 150
        Image.fromarray(pixels).save(folder / f"voc/JPEGImages/{i}.jpg")
        (folder / f"voc/Annotations/{i}.xml").write_text(XML.format(name=i))
    (folder / "voc/ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    torch.manual_seed(0)
    save_file(caffe_tensors(GoogLeNet(9)), folder / "googlenet.safetensors")
    return folder


def train(workplace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "data.root=voc", *arguments]
    return subprocess.run(command, cwd=workplace, capture_output=True, text=True)


QUICK = ("weights=googlenet.safetensors", "training.steps=2", "shared.shorter_side=96")


def test_training_makes_a_checkpoint_that_detects(workplace, monkeypatch) -> None:
    done = train(workplace, *QUICK, "out=one", "data.class_names=[cat]")
    assert done.returncode == 0, done.stderr
    assert "3 photos, 3 to prepare" in done.stdout
    checkpoint = load_checkpoint(workplace / "one" / "checkpoint.safetensors")
    assert checkpoint.class_names == ("cat",)
    assert checkpoint.training["num_photos"] == 3
    assert len((workplace / "one" / "log.csv").read_text().splitlines()) == 3
    monkeypatch.chdir(workplace)
    weights = "checkpoint=one/checkpoint.safetensors"
    monkeypatch.setattr(sys, "argv", ["detect.py", "voc/JPEGImages", weights, "out=found"])
    assert detect.main() == 0


def test_a_broken_photo_is_left_out_by_name_and_the_rest_is_trained_on(
    workplace, monkeypatch, capsys
) -> None:
    (workplace / "voc/JPEGImages/3.jpg").write_bytes(b"broken")
    (workplace / "voc/Annotations/3.xml").write_text(XML.format(name=3))
    (workplace / "voc/ImageSets/Main/broken.txt").write_text("0\n3\n2\n")
    monkeypatch.chdir(workplace)
    settings = (*QUICK, "out=two", "data.class_names=[cat]", "data.split=broken")
    monkeypatch.setattr(sys, "argv", ["train.py", "data.root=voc", *settings])
    command_line.run("train", tool.main)
    assert "left out: voc/JPEGImages/3.jpg: not an image" in capsys.readouterr().out
    assert load_checkpoint(workplace / "two/checkpoint.safetensors").training["num_photos"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out=x",), "set weights=...; --help explains"),
        (("out=x", "weights=absent.caffemodel"), "absent.caffemodel"),
        (("out=x", "weights=googlenet.safetensors", "data.split=nowhere"), "nowhere.txt"),
        (("out=x", "traning.steps=1"), "did you mean training.steps"),
        (("out=x", "training.step=1"), "did you mean training.steps"),
        (("out=x", "weights=googlenet.safetensors", "training.train_from=9z"), "train_from='9z'"),
    ],
)
def test_wrong_requests_end_with_one_line_and_status_2(
    workplace, monkeypatch, capsys, arguments, message
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["train.py", "data.root=voc", *arguments])
    with pytest.raises(SystemExit) as stop:
        command_line.run("train", tool.main)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1, errors
