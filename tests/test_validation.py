from __future__ import annotations

import pytest
import torch

from detect.checkpoint import Checkpoint, load_checkpoint
from detect.detections import Detections
from detect.detector import Detector
from detect.images import read_image
from detect.merging import MergeConfig
from detect.scoring import score_voc
from detect.validation import ValidationConfig, Validator
from proposals import SelectiveSearch


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint) -> Checkpoint:
    return load_checkpoint(random_checkpoint)


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_validation_finds_what_the_detector_finds(square_records, checkpoint, regions) -> None:
    checkpoint.regions = regions
    search, merge = SelectiveSearch("fast"), MergeConfig(score_threshold=0.2)
    few = list(square_records[:2])
    proposals = {r.name: search(read_image(r.path))[:20] for r in few}
    counted: list[int] = []
    validator = Validator(few, proposals, merge=merge, threads=2)
    found = validator.detect(checkpoint, lambda: counted.append(1))
    assert len(counted) == 2
    detector = Detector.load(
        checkpoint, proposer=lambda image: search(image)[:20], merge=merge, device="cpu"
    )
    for record, detections in zip(few, found, strict=True):
        expected = detector(record.path)
        torch.testing.assert_close(detections.boxes, expected.boxes)
        torch.testing.assert_close(detections.scores, expected.scores)
        assert detections.names == expected.names
    scores = validator.score(found, ("cat", "dog"))
    assert scores.mean_ap == score_voc(found, few, ("cat", "dog")).mean_ap
    checkpoint.regions = "shared"


def test_perfect_detections_score_one_by_either_metric(square_records) -> None:
    perfect = [Detections(r.boxes, torch.ones(1), r.labels) for r in square_records]
    for metric in ("voc", "ilsvrc"):
        validator = Validator(square_records, {}, merge=MergeConfig(), metric=metric)
        assert validator.score(perfect, ("cat", "dog")).mean_ap == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 1.0}, "validation.fraction must be from 0 to below 1: got 1.0"),
        ({"metric": "kitti"}, "validation.metric=kitti: choose voc or ilsvrc"),
        ({"every": -1}, "must not be negative"),
    ],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ValidationConfig(**settings)
