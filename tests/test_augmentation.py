"""Test-time augmentation: views that are averaged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from detect.augmentation import AugmentConfig, AugmentedClassifier, augment
from detect.checkpoint import load_checkpoint
from detect.data.regions import mirror_boxes
from detect.detector import Detector
from detect.engine import build_classifier
from detect.shared_trunk import SharedTrunkClassifier
from tests.data_trees import write_photo
from tests.test_shared_trunk import random_boxes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(random_checkpoint: Path) -> SharedTrunkClassifier:
    built = build_classifier(load_checkpoint(random_checkpoint), device=CPU, precision="float32")
    assert isinstance(built, SharedTrunkClassifier)
    return built


class Corner:
    """Scores a region by how far to the left it lies, and moves its box by one to the right."""

    def score_regions(self, image, boxes):
        scores = torch.stack([boxes[:, 0], 100 - boxes[:, 0]], dim=1) / 100
        return (boxes + boxes.new_tensor([1, 0, 1, 0]))[:, None], scores


def test_boxes_of_the_mirror_image_are_mirrored_back(photo) -> None:
    boxes = torch.tensor([[10.0, 0, 30, 20], [0, 5, 80, 60]])
    both = augment(Corner(), AugmentConfig(mirrored=True))
    moved, scores = both.score_regions(photo, boxes)
    # One view moves to the right, the other, mirrored, to the left.
    assert torch.equal(moved[:, 0], boxes)
    assert torch.allclose(scores[:, 0], torch.tensor([(10 + 50) / 200, 0]))


def test_the_average_is_that_of_the_views(classifier, photo) -> None:
    boxes = random_boxes(6, 80, 60).clamp(min=0)
    config = AugmentConfig(mirrored=True, zooms=[1.0, 1.5])
    assert config.views == 4
    expected = []
    for zoom in config.zooms:
        one = classifier.zoomed(zoom)
        assert one.trunk.config.region_side == pytest.approx(180 * zoom)
        expected.append(one.score_regions(photo, boxes)[1])
        expected.append(one.score_regions(photo.flip(-1), mirror_boxes(boxes, 80))[1])
    found = augment(classifier, config).score_regions(photo, boxes)
    assert torch.allclose(found[1], torch.stack(expected).mean(dim=0), atol=1e-6)
    assert found[0].shape == (6, 2, 4)


def test_no_boxes_stay_no_boxes(classifier, photo) -> None:
    both = augment(classifier, AugmentConfig(mirrored=True))
    moved, scores = both.score_regions(photo, torch.zeros(0, 4))
    assert (moved.shape, scores.shape) == ((0, 2, 4), (0, 3))


def test_as_trained_it_is_the_classifier_itself(classifier) -> None:
    assert augment(classifier, AugmentConfig()) is classifier
    assert isinstance(augment(classifier, AugmentConfig(mirrored=True)), AugmentedClassifier)


@pytest.mark.parametrize("zooms", [[], [0.0], [float("inf")], [-1.0]])
def test_views_of_no_size_are_refused(zooms: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        AugmentConfig(zooms=zooms)


def test_crops_cannot_be_zoomed(random_checkpoint) -> None:
    with pytest.raises(ValueError, match="needs regions=shared"):
        Detector.load(
            random_checkpoint, regions="crops", augmentation=AugmentConfig(zooms=[2.0]), device=CPU
        )


def test_the_tool_tells_what_it_costs(random_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    from tools import detect as tool

    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.jpg")
    given = ["a.jpg", f"checkpoint={random_checkpoint}", "proposer.max_boxes=9"]
    for more, told in (([], False), (["augment.mirrored=true", "overwrite=true"], True)):
        monkeypatch.setattr(sys, "argv", ["detect.py", *given, *more])
        assert tool.main() == 0
        assert ("1 network(s), 2 view(s): " in capsys.readouterr().err) == told
