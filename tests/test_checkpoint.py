from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detect.checkpoint import (
    BUNDLED,
    Checkpoint,
    file_digest,
    load_checkpoint,
    save_checkpoint,
)
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.precision import PrecisionCheck
from detect.shared_geometry import SharedTrunkConfig


def test_everything_comes_back_in_half_precision(tmp_path) -> None:
    network, head = GoogLeNet(0, layout="torchvision"), RegionHead(3)
    given = Checkpoint(
        network,
        head,
        ("a", "b c", "ü"),
        Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        "crops",
        SharedTrunkConfig(shorter_side=320, context=0.25, pyramid=[0.7071, 2.0], region_side=99.5),
        {"data": {"split": "train"}},
    )
    save_checkpoint(tmp_path / "x.safetensors", given)
    read = load_checkpoint(tmp_path / "x.safetensors")
    assert read.class_names == given.class_names
    assert read.preprocessing == given.preprocessing
    assert (read.regions, read.shared) == (given.regions, given.shared)
    assert read.training == given.training
    assert read.network.layout == "torchvision"
    for part, other in ((network, read.network), (head, read.head)):
        for key, value in part.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(other.state_dict()[key], expected), key
    assert not read.network.training


@pytest.mark.parametrize("check", [None, PrecisionCheck(1234, 0.98765, 0.001234, 0.25)])
def test_the_check_of_bfloat16_comes_back(tmp_path, check: PrecisionCheck | None) -> None:
    given = Checkpoint(GoogLeNet(0), RegionHead(1), ("a",), precision_check=check)
    save_checkpoint(tmp_path / "x.safetensors", given)
    assert load_checkpoint(tmp_path / "x.safetensors").precision_check == check


def settings_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["detect"])
        return settings


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_activation_comes_back(tmp_path, activation: str) -> None:
    given = Checkpoint(GoogLeNet(0), RegionHead(1, activation), ("a",))  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "x.safetensors", given)
    read = load_checkpoint(tmp_path / "x.safetensors")
    assert read.head.activation == activation
    logits = torch.randn(3, 2)
    assert torch.equal(read.head.probabilities(logits), given.head.probabilities(logits))


def test_files_from_before_sigmoid_have_softmax(tmp_path, random_checkpoint) -> None:
    with safe_open(random_checkpoint, framework="pt") as file:
        settings = json.loads(file.metadata()["detect"])
    del settings["activation"]
    settings["version"] = 1
    tensors = load_file(random_checkpoint)
    save_file(tensors, tmp_path / "old.safetensors", {"detect": json.dumps(settings)})
    assert load_checkpoint(tmp_path / "old.safetensors").head.activation == "softmax"


def test_files_from_before_the_check_of_bfloat16_load(tmp_path, random_checkpoint) -> None:
    settings = settings_of(random_checkpoint)
    del settings["precision_check"]
    tensors = load_file(random_checkpoint)
    save_file(tensors, tmp_path / "old.safetensors", {"detect": json.dumps(settings)})
    read = load_checkpoint(tmp_path / "old.safetensors")
    assert read.precision_check is None
    assert read.class_names == ("cat", "dog")


def test_files_from_before_the_pyramid_have_one_level(tmp_path, random_checkpoint) -> None:
    settings = settings_of(random_checkpoint)
    settings["version"] = 1
    settings["shared"] = {"shorter_side": 600, "max_side": 1000, "context": 16 / 224}
    tensors = load_file(random_checkpoint)
    save_file(tensors, tmp_path / "old.safetensors", {"detect": json.dumps(settings)})
    shared = load_checkpoint(tmp_path / "old.safetensors").shared
    assert shared == SharedTrunkConfig(600, 1000, 16 / 224, pyramid=[1.0])


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"pyramid": []}, r"pyramid must hold factors above 0: got \[\]"),
        ({"pyramid": 3}, "not iterable"),
        ({"levels": 3}, "levels"),
    ],
)
def test_settings_of_a_shared_trunk_that_make_no_sense_are_refused_with_the_file(
    tmp_path, random_checkpoint, shared: dict[str, object], message: str
) -> None:
    settings = settings_of(random_checkpoint) | {"shared": shared}
    path = tmp_path / "strange.safetensors"
    save_file(load_file(random_checkpoint), path, {"detect": json.dumps(settings)})
    with pytest.raises(
        ValueError, match=rf"strange\.safetensors: its shared .*{message}"
    ) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path) -> None:
    torch.manual_seed(0)
    checkpoint = Checkpoint(GoogLeNet(0), RegionHead(2), ("a", "b"))
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "two")


def test_unusable_files_are_refused_by_name(tmp_path, random_checkpoint) -> None:
    with pytest.raises(ValueError, match=r"absent\.safetensors: no such checkpoint file"):
        load_checkpoint(tmp_path / "absent.safetensors")
    content = random_checkpoint.read_bytes()
    for size in (0, 5, 1000, len(content) // 2):
        cut = tmp_path / f"cut{size}.safetensors"
        cut.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"cut{size}\.safetensors: not a readable checkpoint"):
            load_checkpoint(cut)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"was it made by tools/train\.py"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_missing_tensors_and_newer_versions_are_refused(tmp_path, random_checkpoint) -> None:
    tensors = load_file(random_checkpoint)
    settings = '{"version": 1, "layout": "paper", "class_names": ["cat", "dog"]}'
    del tensors["head.classifier.bias"]
    save_file(tensors, tmp_path / "less.safetensors", {"detect": settings})
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        load_checkpoint(tmp_path / "less.safetensors")
    newer = settings.replace('"version": 1', '"version": 99')
    save_file(tensors, tmp_path / "newer.safetensors", {"detect": newer})
    with pytest.raises(ValueError, match="version 99 is newer"):
        load_checkpoint(tmp_path / "newer.safetensors")


def test_the_bundled_checkpoint_knows_the_voc_classes_and_its_recipe() -> None:
    checkpoint = load_checkpoint(BUNDLED)
    assert len(checkpoint.class_names) == 20
    assert "person" in checkpoint.class_names
    assert checkpoint.training["data"]["split"] == "trainval"
    assert checkpoint.training["num_photos"] == 3174
    assert BUNDLED.with_suffix(".md").is_file()
