"""tools/train_classifier.py as a user runs it, and what its draws are made of."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detect.classifier_training import (
    ClassifierObjective,
    ClassifierSamplingConfig,
    draw_part,
    vary,
)
from detect.data.imagefolder import image_folder
from detect.googlenet import PREPROCESSING, GoogLeNet
from detect.imagenet import class_names_of, load_imagenet
from detect.training import epoch_order
from tests.conftest import run_hydra_tool
from tools import classify
from tools import train_classifier as tool

SMALL = ("training.photos_per_step=4", "sampling.photos_per_draw=2", "training.steps=2")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    for channel, name in enumerate(("blue sky", "grass", "roses")):
        (folder / "classes" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 80, (40 + 10 * i, 60, 3), np.uint8)
            pixels[:, :, 2 - channel] += 150
            Image.fromarray(pixels).save(folder / "classes" / name / f"{i}.png")
    return folder


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(workplace)
    yield workplace


def train(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    arguments = ["data.root=classes", *SMALL, *given]
    return run_hydra_tool(monkeypatch, "train_classifier", tool.main, *arguments)


def test_trained_weights_classify_photos(here, monkeypatch, capsys) -> None:
    assert train(monkeypatch, "validation.fraction=0.3", "out=one") == 0
    said = capsys.readouterr().out
    assert "6 photos of 3 classes, 3 held back" in said
    assert "step 2: top1 " in said
    made = Path("one/googlenet.safetensors")
    assert class_names_of(made) == ("blue sky", "grass", "roses")
    assert load_imagenet(made).fc.out_features == 3
    assert {"aux1.fc2.weight", "aux2.fc2.weight"} <= load_file(made).keys()
    rows = Path("one/log.csv").read_text().splitlines()
    assert rows[0] == "step,learning_rate,loss,auxiliary_loss,top1,seconds"
    assert len(rows) == 3
    request = ["classes/grass", f"weights={made}", "crops=1", "out=found"]
    monkeypatch.setattr(sys, "argv", ["classify.py", *request])
    assert classify.main() == 0
    with Path("found/predictions.csv").open() as file:
        guessed = {row["class"] for row in csv.DictReader(file)}
    assert guessed == {"blue sky", "grass", "roses"}


def test_resumed_it_ends_with_the_same_weights(here, monkeypatch) -> None:
    whole = ("out=whole", "training.steps=3", "save_minutes=0", "sampling.auxiliary_weight=0")
    assert train(monkeypatch, *whole) == 0
    # Stopped after two of three steps, by the loss of the third.
    right, losses = ClassifierObjective.loss, []

    def stop(self, prepared, generator):
        losses.append(1)
        if len(losses) > 4:
            raise KeyboardInterrupt
        return right(self, prepared, generator)

    halves = ("out=halves", *whole[1:], "threads=1")
    monkeypatch.setattr(ClassifierObjective, "loss", stop)
    assert train(monkeypatch, *halves) == 130
    monkeypatch.setattr(ClassifierObjective, "loss", right)
    assert train(monkeypatch, *halves) == 0
    one, two = (load_file(f"{name}/googlenet.safetensors") for name in ("whole", "halves"))
    assert not [key for key in one if key.startswith("aux")]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_broken_photos_are_left_out_by_name(here, monkeypatch, capsys, tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / "some" / name).mkdir(parents=True)
    Image.new("RGB", (30, 30)).save(tmp_path / "some/a/good.png")
    (tmp_path / "some/b/bad.png").write_bytes(b"no photo")
    (tmp_path / "some/b/worse.png").write_bytes(b"")
    given = (f"data.root={tmp_path / 'some'}", f"out={tmp_path / 'out'}", "training.steps=1")
    assert train(monkeypatch, *given) == 1
    assert "left out: b/bad.png: " in capsys.readouterr().out
    assert (tmp_path / "out/skipped.csv").read_text().count("\n") == 3


def test_it_starts_from_weights_of_other_classes(here, monkeypatch, tmp_path) -> None:
    start = GoogLeNet(5, auxiliary=True)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    given = (f"weights={tmp_path / 'start.safetensors'}", f"out={tmp_path / 'out'}")
    assert train(monkeypatch, *given, "training.steps=1", "training.learning_rate=0") == 0
    made = load_file(tmp_path / "out/googlenet.safetensors")
    assert torch.equal(made["conv1.conv.weight"], start.conv1.conv.weight)
    assert made["fc.weight"].shape == made["aux1.fc2.weight"].shape == (3, 1024)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.photos_per_step=3", "must be a multiple of sampling.photos_per_draw=2"),
        ("sampling.interpolation=cubic", "choose random or one of bilinear"),
        ("sampling.least_area=0", "must be above 0"),
        ("validation.fraction=0.99", "leaves no photo"),
        ("validation.root=nowhere", "no such folder"),
        ("weights=nowhere.safetensors", "no such weights"),
        ("data.root=nowhere", "no such folder"),
        ("smapling.mirror=false", "did you mean"),
    ],
)
def test_wrong_requests_end_in_one_line(here, monkeypatch, capsys, override, message) -> None:
    assert train(monkeypatch, "out=wrong", override) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_parts_have_the_areas_and_aspects_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    config = ClassifierSamplingConfig()
    shares, aspects = [], []
    for _ in range(4000):
        top, left, height, width = draw_part((300, 400), config, generator)
        assert 0 <= top <= 300 - height and 0 <= left <= 400 - width
        shares.append(height * width / 120_000)
        aspects.append(width / height)
    assert 0.079 < min(shares) < 0.1 and 0.9 < max(shares) <= 1
    assert min(aspects) > 0.73 and max(aspects) < 1.36
    assert draw_part((5, 400), config, generator) == (0, 197, 5, 5)  # nothing fits: the middle


def test_a_view_is_the_whole_photo_where_that_is_asked_for() -> None:
    plain = ClassifierSamplingConfig(
        least_area=1.0, aspect=1.0, mirror=False, colour_jitter=0.0, interpolation="nearest"
    )
    image = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    assert torch.equal(vary(image, plain, torch.Generator())[0], image.float())
    one_pixel = torch.full((3, 1, 1), 7, dtype=torch.uint8)
    for mode in ("bilinear", "bicubic", "area", "nearest", "random"):
        config = ClassifierSamplingConfig(colour_jitter=0.0, interpolation=mode)
        assert torch.allclose(vary(one_pixel, config, torch.Generator()), torch.tensor(7.0))


def test_every_photo_comes_once_an_epoch(here) -> None:
    photos = image_folder("classes")
    config = ClassifierSamplingConfig(photos_per_draw=4)
    network = GoogLeNet(3, auxiliary=True)
    objective = ClassifierObjective(
        network, photos, preprocessing=PREPROCESSING["paper"], config=config
    )
    assert objective.num_photos == 3  # draws of 4, 4 and 1
    seen = [objective.prepare(draw, torch.Generator()).labels for draw in range(3)]
    assert [len(labels) for labels in seen] == [4, 4, 1]
    assert torch.cat(seen).bincount().tolist() == [3, 3, 3]
    assert not torch.equal(epoch_order(9, 0, 0), epoch_order(9, 0, 1))
    assert not torch.equal(epoch_order(9, 0, 0), epoch_order(9, 1, 0))


@pytest.mark.slow
def test_the_loss_falls_on_a_small_set(here, monkeypatch) -> None:
    given = ("training.steps=30", "training.photos_per_step=8", "training.warmup_steps=5")
    more = ("sampling.photos_per_draw=4", "sampling.colour_jitter=0", "out=longer")
    assert train(monkeypatch, *given, *more) == 0
    rows = [json.loads(line) for line in Path("longer/log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    assert sum(losses[-5:]) / 5 < 0.6 * sum(losses[:5]) / 5
