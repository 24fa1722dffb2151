"""tools/budget.py as a user runs it, on a small random checkpoint."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detect.budget_settings import BudgetConfig
from detect.checkpoint import load_checkpoint, save_checkpoint
from detect.rejection import RejectionNetwork
from detect.shared_geometry import SharedTrunkConfig
from tests.conftest import ROOT
from tools import budget as tool


@dataclass
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys, random_checkpoint: Path) -> Run:
    """Run the tool in this process, in ``tmp_path``."""

    def run_here(*arguments: str) -> Done:
        small = [f"checkpoint={random_checkpoint}", "device=cpu", "threads=1", "repeats=1"]
        given = {argument.partition("=")[0] for argument in arguments}
        line = [*arguments, *(a for a in small if a.partition("=")[0] not in given)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["budget.py", *line])
        return Done(tool.main(), *capsys.readouterr())

    return run_here


def test_both_modes_are_counted_and_measured(run: Run, tmp_path: Path) -> None:
    made_up = ("height=60", "width=80", "proposals=9")
    done = run(*made_up, "regions=both", "layers=true", "precision=float32", "out=new/b.json")
    assert done.status == 0, done.err
    content = json.loads((tmp_path / "new" / "b.json").read_text())
    assert content["image_size"] == [60, 80]
    assert content["trunk_sizes"] == [[96, 128]]
    assert (content["layout"], content["precision"]) == ("paper", "float32")
    counts = content["multiply_adds"]
    assert counts["crop"] == 1_581_647_872
    assert counts["head"] == 1024 * (3 + 8)
    assert counts["image"]["crops"] == 9 * (counts["crop"] + counts["head"])
    for part, layers in content["layers"].items():
        assert sum(layer["multiply_adds"] for layer in layers) == counts[part]
    stages = {mode: list(found["stages"]) for mode, found in content["measured"].items()}
    common = ["cut", "network", "head", "merge"]
    assert stages == {"crops": common, "shared": ["trunk", *common]}
    for found in content["measured"].values():
        assert found["seconds"] == pytest.approx(
            sum(s["seconds"] for s in found["stages"].values())
        )
        assert found["peak_multiply_adds_a_second"] > 0
        assert found["network_share_of_peak"] > 0
    assert "a crop                1.5816 G, 1.05 x the paper's 1.5000 G" in done.out
    assert re.search(r"inception5b.branch4.1.conv +5,218,304", done.out)
    assert done.out.endswith("written to new/b.json\n")


def test_the_levels_of_a_pyramid_are_named_and_measured(
    run: Run, tmp_path: Path, random_checkpoint: Path
) -> None:
    checkpoint = load_checkpoint(random_checkpoint)
    checkpoint.shared = SharedTrunkConfig(96, 160, pyramid=[0.05, 0.5, 1.0, 2.0], region_side=35)
    save_checkpoint(tmp_path / "pyramid.safetensors", checkpoint)
    made_up = ("height=60", "width=80", "proposals=20", "precision=float32", "out=b.json")
    done = run(*made_up, "checkpoint=pyramid.safetensors", "threads=2")
    assert done.status == 0, done.err
    assert "image at 48 x 64, 96 x 128, 192 x 256\n" in done.out  # 0.05 is no region's level
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["trunk_sizes"] == [[48, 64], [96, 128], [192, 256]]
    stages = content["measured"]["shared"]["stages"]
    assert list(stages) == ["trunk", "cut", "network", "head", "merge"]
    assert stages["trunk"]["share_of_peak"] > 0


@pytest.fixture
def a_photo(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60, (70, 90, 3), np.uint8)
    pixels[20:50, 10:40] += 150
    Image.fromarray(pixels).save(tmp_path / "a photo.png")


@pytest.mark.usefixtures("a_photo")
def test_a_photo_is_read_and_searched(run: Run, tmp_path: Path) -> None:
    done = run("proposals=a photo.png", "out=b.json")
    assert done.status == 0, done.err
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["image_size"] == [70, 90]
    assert content["proposals"] > 0
    stages = ["read", "trunk", "propose", "cut", "network", "head", "merge"]
    assert list(content["measured"]) == ["shared"]  # as trained
    assert list(content["measured"]["shared"]["stages"]) == stages
    assert "layers" not in content
    assert content["rejected"] == 0


@pytest.mark.usefixtures("a_photo")
def test_what_is_rejected_at_first_sight_is_not_counted(
    run: Run, tmp_path: Path, random_checkpoint: Path
) -> None:
    made = load_checkpoint(random_checkpoint)
    made.rejection = RejectionNetwork(2, hidden=8)
    with torch.no_grad():  # all background
        made.rejection.classifier.weight.zero_()
        made.rejection.classifier.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    save_checkpoint(tmp_path / "x.safetensors", made)
    done = run("proposals=a photo.png", "checkpoint=x.safetensors", "out=b.json")
    assert done.status == 0, done.err
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["proposals"] == 0
    assert content["rejected"] > 0
    assert f"0 proposals scored, {content['rejected']} rejected at first sight" in done.out
    assert "reject" in content["measured"]["shared"]["stages"]


def test_counting_alone_measures_nothing_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("measure=false", "proposals=1000")
    assert done.status == 0
    assert "1000 proposals" in done.out
    assert "measured" not in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regions=tiles"], "regions=tiles: choose crops, shared or both"),
        (["proposals=0"], "proposals=0: give 1 or more, or a photo"),
        (["proposals=absent.jpg"], "proposals=absent.jpg: is neither a number nor a photo"),
        (["proposals=text.jpg"], "text.jpg"),
        (["height=0"], "height=0: give 1 or more"),
        (["repeats=0"], "repeats=0: give 1 or more"),
        (["width=wide"], "width=wide"),
        (["precision=half"], "precision=half: choose one of"),
        (["device=quantum"], "quantum"),
        (["threads=-1"], "threads=-1"),
        (["checkpoint=absent.safetensors"], "absent.safetensors: no such checkpoint"),
        (["hieght=3"], "did you mean height"),
        (["photo.jpg"], "photo.jpg: give settings as name=value"),
    ],
)
def test_wrong_requests_end_with_one_line(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    done = run(*arguments)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1, done.err
    assert done.out == ""


def test_help_shows_every_setting_from_any_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    script = str(ROOT / "tools" / "budget.py")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # its first entry, which the tool replaces
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(script, run_name="__main__")
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for setting in fields(BudgetConfig):
        line = next(line for line in lines if line.startswith(f"  {setting.name}="))
        assert len(line.split(maxsplit=1)[1]) > 5
