from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detect import Detector
from detect.checkpoint import Checkpoint, save_checkpoint
from detect.engine import assemble, build_classifier
from detect.ensemble import join_checkpoints
from detect.googlenet import GoogLeNet
from detect.heads import RegionHead
from detect.shared_geometry import SharedTrunkConfig
from detect.workers import CoreWorkers
from proposals import SelectiveSearch
from tests.test_shared_trunk import random_boxes

CPU = torch.device("cpu")
SHARED = SharedTrunkConfig(96, 160, pyramid=[0.7, 1.0], region_side=55)


def random_member(seed: int, activation: str = "softmax") -> Checkpoint:
    torch.manual_seed(seed)
    head = RegionHead(3, activation)  # type: ignore[arg-type]
    torch.nn.init.normal_(head.classifier.weight, std=0.3)
    torch.nn.init.normal_(head.box_regression.weight, std=0.02)
    return Checkpoint(GoogLeNet(0).eval(), head.eval(), ("a", "b", "c"), shared=SHARED)


@pytest.fixture(scope="module")
def members() -> list[Checkpoint]:
    return [random_member(0), random_member(1), random_member(2, "sigmoid")]


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_scores_are_the_means_of_the_members(photo, members, regions: str) -> None:
    boxes, workers = random_boxes(6, 80, 60).clamp(min=0), CoreWorkers(1)

    def scores_of(checkpoint: Checkpoint) -> torch.Tensor:
        classifier = assemble(checkpoint, checkpoint.network, regions=regions, workers=workers)
        with torch.inference_mode():
            return classifier.score_regions(photo, boxes)[1]

    expected = torch.stack([scores_of(member) for member in members]).mean(0)
    joined = join_checkpoints(members)
    assert torch.allclose(scores_of(joined), expected, atol=1e-5)
    fast = build_classifier(joined, device=CPU, regions=regions, precision="float32")
    assert torch.allclose(fast.score_regions(photo, boxes)[1], expected, atol=1e-4)


def test_one_alone_is_itself_and_twice_the_same_is_no_other(photo, members) -> None:
    assert join_checkpoints(members[:1]) is members[0]
    search = SelectiveSearch("googlenet", max_boxes=10)
    once = Detector.load(members[0], proposer=search, device="cpu", precision="float32")(photo)
    twice = join_checkpoints([members[0], replace(members[0])])
    again = Detector.load(twice, proposer=search, device="cpu", precision="float32")(photo)
    assert torch.allclose(once.scores, again.scores, atol=1e-5)
    assert torch.allclose(once.boxes, again.boxes, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "b", "d")}, "different class names"),
        ({"shared": SharedTrunkConfig(96, 160)}, "different shared"),
        ({"regions": "crops"}, "different regions cannot be averaged: shared and crops"),
        ({"network": GoogLeNet(0, layout="torchvision")}, "layouts"),
    ],
)
def test_members_that_do_not_go_together_are_refused(members, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join_checkpoints([members[0], replace(members[1], **change)])


def test_the_tool_takes_several_files(tmp_path: Path, members, monkeypatch, capsys) -> None:
    from tests.data_trees import write_photo
    from tools import detect as tool

    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.jpg")
    for name, member in zip("xy", members, strict=False):
        save_checkpoint(f"{name}.safetensors", member)
    given = ["a.jpg", "checkpoint=x.safetensors,y.safetensors", "proposer.max_boxes=9"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *given])
    assert tool.main() == 0
    assert "1 photos" in capsys.readouterr().out
    run = Path("out/run.yaml").read_text()
    assert run.count(",") >= 1
    monkeypatch.setattr(sys, "argv", ["detect.py", *given[:1], "checkpoint=x.safetensors"])
    assert tool.main() == 2  # another detector's results lie there
