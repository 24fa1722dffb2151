from __future__ import annotations

import pytest
import torch

from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.shared_geometry import FIRST_CENTRE, STRIDE, SharedTrunkConfig
from detect.shared_trunk import (
    SharedTrunk,
    SharedTrunkClassifier,
)
from detect.workers import CoreWorkers


def small_trunk(**settings: float) -> SharedTrunk:
    torch.manual_seed(0)
    config = SharedTrunkConfig(shorter_side=96, max_side=160, **settings)  # type: ignore[arg-type]
    return SharedTrunk(GoogLeNet(0).eval(), Preprocessing(), config)


def small_classifier(batch_size: int, threads: int) -> SharedTrunkClassifier:
    head, workers = RegionHead(3).eval(), CoreWorkers(threads)
    return SharedTrunkClassifier(small_trunk(), head, batch_size=batch_size, workers=workers)


def random_boxes(n: int, width: int, height: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) * 1.2
    sides = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) + 0.1
    return torch.cat([corners, corners + sides], dim=1) - 0.1 * width


def test_first_centre_is_where_the_pools_put_it() -> None:
    """A pixel's influence on the map, found by the gradient, is centred as the constant says."""
    network = GoogLeNet(0).eval()
    images = torch.rand(1, 3, 400, 400).requires_grad_()
    index = 10
    network.stem(images)[0, :, index, index].sum().backward()
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten() + 0.5
    middle = (rows.min() + rows.max()).item() / 2
    assert middle == pytest.approx(FIRST_CENTRE + STRIDE * index, abs=1.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (60, 80)])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_every_region_gets_probabilities_and_boxes_inside_the_image(size, n: int) -> None:
    torch.manual_seed(1)
    classifier = SharedTrunkClassifier(
        small_trunk(), RegionHead(3).eval(), batch_size=4, workers=CoreWorkers(1)
    )
    height, width = size
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, width, height]]).repeat(n, 1)
    moved, scores = classifier.score_regions(image, boxes)
    assert moved.shape == (n, 3, 4)
    assert scores.shape == (n, 4)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(n))
    assert moved.numel() == 0 or (moved.min() >= 0 and moved[..., 2].max() <= width)


def test_regions_scored_together_equal_those_scored_alone(photo) -> None:
    classifier = SharedTrunkClassifier(
        small_trunk(), RegionHead(3).eval(), batch_size=3, workers=CoreWorkers(2)
    )
    boxes = random_boxes(7, 80, 60)
    moved, scores = classifier.score_regions(photo, boxes)
    for i in range(7):
        one_moved, one_scores = classifier.score_regions(photo, boxes[i : i + 1])
        torch.testing.assert_close(one_scores, scores[i : i + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one_moved, moved[i : i + 1], atol=1e-3, rtol=1e-4)


def test_mirrored_map_is_the_map_of_the_mirrored_image(photo) -> None:
    trunk = small_trunk()
    with torch.inference_mode():
        expected = trunk.stem_map(photo.flip(-1))
        assert torch.equal(trunk.stem_map(photo, mirror=True), expected)
