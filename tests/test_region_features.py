from __future__ import annotations

import pytest
import torch

from detect.checkpoint import Checkpoint
from detect.crops import CropConfig, crop_boxes
from detect.engine import assemble
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.region_features import RegionFeatures
from detect.shared_geometry import SharedTrunkConfig
from detect.workers import CoreWorkers

SHARED = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=[1.0, 2.0])
MEAN = Preprocessing()


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(0).eval()


def boxes_of(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([50.0, 35.0])
    return torch.cat([corners, corners + 5 + 20 * torch.rand(n, 2, generator=generator)], 1)


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_a_head_on_features_scores_as_detection_does(network, photo, regions) -> None:
    head = RegionHead(2, "sigmoid").eval()
    checkpoint = Checkpoint(network, head, ("a", "b"), MEAN, shared=SHARED)
    classifier = assemble(checkpoint, network, regions=regions, workers=CoreWorkers(1))
    boxes = boxes_of(9)
    _, expected = classifier.score_regions(photo, boxes)
    features = RegionFeatures(
        network, MEAN, regions=regions, shared=SHARED, precision="float32", workers=CoreWorkers(2)
    )(photo, boxes)
    with torch.no_grad():
        logits, _ = head(features)
    assert features.std() > 0.01
    torch.testing.assert_close(head.probabilities(logits), expected, atol=1e-5, rtol=1e-4)


def test_features_of_crops_are_the_networks(network, photo) -> None:
    features = RegionFeatures(network, MEAN, regions="crops", precision="float32")
    boxes = boxes_of(2)
    with torch.inference_mode():
        expected = network.features(MEAN(crop_boxes(photo, boxes, CropConfig())))
    torch.testing.assert_close(features(photo, boxes), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_no_regions_have_no_features(network, photo, regions) -> None:
    features = RegionFeatures(network, MEAN, regions=regions, shared=SHARED)
    found = features(photo, torch.zeros(0, 4))
    assert (found.shape, found.dtype) == ((0, 1024), torch.float32)


def test_an_unknown_precision_is_refused(network) -> None:
    with pytest.raises(ValueError, match="precision=half: choose one of"):
        RegionFeatures(network, MEAN, precision="half")
