"""tools/train_multibox.py as a user runs it, and what uses its file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detect.checkpoint import load_checkpoint, save_checkpoint
from detect.detector import Detector
from detect.images import read_image
from detect.multibox_file import load_multibox
from detect.multibox_proposals import multibox_proposals
from detect.multibox_trunk import PyramidMaps
from proposals import ProposalFile, SelectiveSearch, Union
from tests.conftest import ROOT, run_hydra_tool
from tests.data_trees import write_voc
from tools import train_multibox as tool

OBJECT = ("cat", (10.0, 20.0, 50.0, 60.0))
PHOTOS = {"a": [OBJECT], "b": [OBJECT, ("dog", (0.0, 0.0, 90.0, 70.0))], "c": []}
SMALL = ("training.steps=2", "training.photos_per_step=2", "multibox.hidden=8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, random_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("multibox")
    write_voc(folder / "voc", PHOTOS)
    write_voc(folder / "voc", {"d": [OBJECT]}, split="val")
    (folder / "detector.safetensors").write_bytes(random_checkpoint.read_bytes())
    done = train_apart(folder, "out=one", "validation.split=val")
    assert done.returncode == 0, done.stderr
    assert "step 2: R@0.5 " in done.stdout
    assert "features of 3 photos, 3 variants" in done.stdout
    return folder


def train_apart(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/train_multibox.py"), "data.root=voc", *SMALL]
    command += ["checkpoint=detector.safetensors", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def train_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    given = ["data.root=voc", *SMALL, "checkpoint=detector.safetensors", *arguments]
    return run_hydra_tool(monkeypatch, "train_multibox", tool.main, *given)


def test_training_writes_a_multibox_and_logs(workplace: Path) -> None:
    made = load_multibox(workplace / "one/multibox.safetensors")
    assert (made.form, made.multibox.hidden, made.shared.pyramid) == ("grid", 8, [1.0])
    assert made.training["num_photos"] == 3
    assert len((workplace / "one/log.csv").read_text().splitlines()) == 3
    head = (workplace / "one/validation.csv").read_text().splitlines()[0]
    assert head == "step,R@0.5,R@0.7,AR"


def test_interrupted_it_ends_with_the_same_weights(workplace, monkeypatch) -> None:
    right, calls = tool.train_multibox, []

    def interrupt(**losses: object) -> None:
        calls.append(losses)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        from tools.progress import PlainProgress

        patch.setattr(PlainProgress, "set_postfix", lambda bar, **losses: interrupt(**losses))
        assert train_here(monkeypatch, workplace, "out=two", "validation.split=val") == 130
    assert tool.train_multibox is right
    assert not (workplace / "two/multibox.safetensors").exists()
    given = ("out=two", "validation.split=val", "cache_gigabytes=0", "threads=1")
    assert train_here(monkeypatch, workplace, *given) == 0
    whole, resumed = (load_file(workplace / n / "multibox.safetensors") for n in ("one", "two"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_it_starts_from_an_earlier_one(workplace, monkeypatch, capsys) -> None:
    given = ("out=on", "start=one/multibox.safetensors", "training.learning_rate=0")
    assert train_here(monkeypatch, workplace, *given) == 0
    first, second = (load_file(workplace / n / "multibox.safetensors") for n in ("one", "on"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert train_here(monkeypatch, workplace, *given[:2], "out=other", "multibox.hidden=4") == 2
    assert "its hidden is 8; set multibox.hidden=8 in place of 4" in capsys.readouterr().err


def test_the_form_of_the_first_paper_and_its_crops(workplace, monkeypatch, capsys) -> None:
    given = ("out=whole", "multibox.form=whole", "multibox.crop_scales=[1.0,0.6]")
    given += ("multibox.num_priors=4", "without_classes=[dog]")
    assert train_here(monkeypatch, workplace, *given) == 0
    assert "1 photos that show dog left out" in capsys.readouterr().out
    made = load_multibox("whole/multibox.safetensors")
    assert (made.form, made.crop_scales, made.multibox.kernel) == ("whole", (1.0, 0.6), 1)
    proposer = multibox_proposals("whole/multibox.safetensors", "detector.safetensors")
    boxes = proposer(read_image(Path("voc/JPEGImages/a.jpg")))
    assert 0 < len(boxes) <= 200


def test_a_detector_reads_the_maps_it_makes_anyway(workplace) -> None:
    checkpoint = workplace / "detector.safetensors"
    multibox = multibox_proposals(str(workplace / "one/multibox.safetensors"), str(checkpoint))
    union = Union([multibox, SelectiveSearch("googlenet", max_boxes=20)])
    detector = Detector.load(checkpoint, proposer=union, device="cpu")
    assert isinstance(detector.proposer, Union)
    shared = detector.proposer.proposers[0].trunk
    assert isinstance(shared, PyramidMaps)
    assert shared.image_maps.__self__ is detector.classifier
    image = read_image(workplace / "voc/JPEGImages/a.jpg")
    assert torch.equal(detector.proposer(image), union(image))
    assert len(detector(image)) > 0


def test_tools_take_it_as_a_proposer(workplace, monkeypatch, capsys) -> None:
    from tools import detect, propose

    monkeypatch.chdir(workplace)
    given = ["multibox=one/multibox.safetensors", "checkpoint=detector.safetensors"]
    photo = "voc/JPEGImages/a.jpg"
    request = [photo, "proposer=multibox", *given, "out=p.npz"]
    monkeypatch.setattr(sys, "argv", ["propose.py", *request])
    assert propose.main() == 0
    assert len(ProposalFile.open(Path("p.npz"))["a.jpg"]) > 0
    for name, more, kinds in (
        ("auto", [], ("Union", "MultiBoxProposer", "SelectiveSearch")),
        ("googlenet", ["proposer=googlenet"], ("Union", "MultiBoxProposer", "SelectiveSearch")),
        ("fast", ["experiment=fast"], ("MultiBoxProposer",)),
        ("alone", ["proposer=superpixels_x2"], ("SelectiveSearch",)),
    ):
        request = [photo, *given, *more, f"out={name}"]
        monkeypatch.setattr(sys, "argv", ["detect.py", *request])
        assert detect.main() == 0, capsys.readouterr().err
        assert "1 photos" in capsys.readouterr().out
        text = (workplace / name / "run.yaml").read_text()
        assert tuple(re.findall(r"class: ([A-Z]\w+)", text)) == kinds


def test_a_broken_photo_is_left_out_by_name(workplace, monkeypatch, capsys) -> None:
    write_voc(workplace / "damaged", PHOTOS)
    (workplace / "damaged/JPEGImages/b.jpg").write_bytes(b"broken")
    given = ("data.root=damaged", "out=damaged/out", "cache_gigabytes=0", "training.steps=1")
    assert train_here(monkeypatch, workplace, *given) == 1
    assert "left out: b: " in capsys.readouterr().out
    assert (workplace / "damaged/out/skipped.csv").read_text().count("\n") == 2
    assert load_multibox("damaged/out/multibox.safetensors").training["num_photos"] == 2


def test_a_multibox_of_another_trunk_is_refused(workplace, tmp_path) -> None:
    other = load_checkpoint(workplace / "detector.safetensors")
    torch.nn.init.ones_(other.network.inception4e.branch1.conv.weight)
    save_checkpoint(tmp_path / "other.safetensors", other)
    with pytest.raises(ValueError, match=r"a trunk that is neither .*other\.safetensors's nor"):
        multibox_proposals(
            str(workplace / "one/multibox.safetensors"), str(tmp_path / "other.safetensors")
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("multibox.form=gird", "choose grid or whole"),
        ("multibox.levels=[0.3]", "no level 0.3; it has [1.0]"),
        ("multibox.num_priors=0", "num_priors must be 1 or more"),
        ("multibox.crop_scales=[2]", "crop_scales"),
        ("without_classes=[cow]", "no class 'cow'"),
        ("without_classes=[cat]", None),
        ("checkpoint=nowhere.safetensors", "nowhere.safetensors: no such checkpoint"),
        ("mutlibox.form=grid", "did you mean multibox.form"),
    ],
)
def test_wrong_requests_end_in_one_line(
    workplace, monkeypatch, capsys, override: str, message: str | None
) -> None:
    status = train_here(monkeypatch, workplace, "out=wrong", override)
    error = capsys.readouterr().err
    if message is None:  # the photo without objects is left, and has nothing to make priors of
        message = "no object to make priors of"
    assert status == 2, error
    assert message in error
    assert error.strip().count("\n") == 0


def test_files_that_are_none_are_named(tmp_path, random_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.safetensors: no such file"):
        load_multibox(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not a readable MultiBox"):
        load_multibox(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no MultiBox"):
        load_multibox(random_checkpoint)


def test_files_of_later_versions_and_of_other_shapes_are_refused(workplace, tmp_path) -> None:
    from safetensors import safe_open

    source = workplace / "one/multibox.safetensors"
    with safe_open(source, framework="pt") as file:
        text = file.metadata()["multibox"]
    tensors = load_file(source)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"multibox": text.replace('"version": 1', '"version": 9')})
    with pytest.raises(ValueError, match="version 9 is newer"):
        load_multibox(path)
    save_file(tensors, path, {"multibox": text.replace('"hidden": 8', '"hidden": 9')})
    with pytest.raises(ValueError, match=r"m\.safetensors: .*size mismatch"):
        load_multibox(path)
