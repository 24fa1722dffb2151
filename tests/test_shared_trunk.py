from __future__ import annotations

from functools import cache

import pytest
import torch

from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead, decode_boxes
from detect.prepare import prepare_network
from detect.shared_geometry import (
    FIRST_CENTRE,
    STRIDE,
    SharedTrunkConfig,
    map_boxes,
    region_levels,
)
from detect.shared_trunk import SharedTrunk, SharedTrunkClassifier
from detect.workers import CoreWorkers


def small_trunk(*, prepared: bool = False, **settings: object) -> SharedTrunk:
    config = SharedTrunkConfig(shorter_side=96, max_side=160, **settings)  # type: ignore[arg-type]
    return SharedTrunk(random_network(prepared=prepared), Preprocessing(), config)


@cache
def random_network(*, prepared: bool) -> GoogLeNet:
    torch.manual_seed(0)
    network = GoogLeNet(0).eval()
    cpu = torch.device("cpu")
    return prepare_network(network, dtype=torch.float32, device=cpu) if prepared else network


def small_classifier(batch_size: int, threads: int, **settings: object) -> SharedTrunkClassifier:
    trunk = small_trunk(**settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head, workers = RegionHead(3).eval(), CoreWorkers(threads)
    torch.nn.init.normal_(head.classifier.weight, std=0.3)  # opinions, though unfounded
    return SharedTrunkClassifier(trunk, head, batch_size=batch_size, workers=workers)


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
    classifier = small_classifier(4, 1)
    height, width = size
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, width, height]]).repeat(n, 1)
    moved, scores = classifier.score_regions(image, boxes)
    assert moved.shape == (n, 3, 4)
    assert scores.shape == (n, 4)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(n))
    assert moved.numel() == 0 or (moved.min() >= 0 and moved[..., 2].max() <= width)


def test_regions_scored_together_equal_those_scored_alone(photo) -> None:
    classifier = small_classifier(3, 2)
    boxes = random_boxes(7, 80, 60)
    moved, scores = classifier.score_regions(photo, boxes)
    for i in range(7):
        one_moved, one_scores = classifier.score_regions(photo, boxes[i : i + 1])
        torch.testing.assert_close(one_scores, scores[i : i + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one_moved, moved[i : i + 1], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("prepared", [False, True])
def test_one_level_gives_the_bits_of_one_map_cut_batch_by_batch(photo, n, prepared) -> None:
    classifier = small_classifier(4, 2, prepared=prepared, pyramid=[1.0])
    trunk, boxes = classifier.trunk, random_boxes(n, 80, 60)
    [maps] = classifier.batches.workers.map(trunk.image_map, [photo])

    def score(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return classifier(trunk.pooled_boxes(maps, map_boxes(part, (60, 80), trunk.config)))

    parts = classifier.batches.workers.map(score, boxes.split(4))
    logits, offsets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    moved, scores = classifier.score_regions(photo, boxes)
    assert torch.equal(scores, logits.softmax(dim=1))
    assert torch.equal(moved, decode_boxes(boxes, offsets, (60, 80)))


@pytest.mark.parametrize("prepared", [False, True])
def test_a_region_scores_as_on_the_one_map_of_its_level(photo, prepared: bool) -> None:
    classifier = small_classifier(4, 2, prepared=prepared, pyramid=[1.0, 0.5, 2.0], region_side=55)
    boxes = torch.cat([random_boxes(9, 80, 60), torch.tensor([[30.0, 20.0, 31.0, 21.0]])])
    config = classifier.trunk.config
    levels = region_levels(boxes, (60, 80), config)
    assert set(levels.tolist()) == {0, 1, 2}
    assert levels.tolist() != sorted(levels.tolist())
    moved, scores = classifier.score_regions(photo, boxes)
    for i, level in enumerate(levels.tolist()):
        side, limit = (round(length * config.pyramid[level]) for length in (96, 160))
        classifier.trunk.config = SharedTrunkConfig(side, limit, pyramid=[1.0])
        one_moved, one_scores = classifier.score_regions(photo, boxes[i : i + 1])
        torch.testing.assert_close(one_scores, scores[i : i + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one_moved, moved[i : i + 1], atol=1e-3, rtol=1e-4)
    classifier.trunk.config = SharedTrunkConfig(96, 160, pyramid=[1.0])
    elsewhere = classifier.score_regions(photo, boxes)[1]
    assert (elsewhere - scores)[levels > 0].abs().amax(dim=1).min() > 1e-4  # no level is as another


def test_regions_of_a_pyramid_come_back_in_their_order(photo) -> None:
    classifier = small_classifier(100, 1, pyramid=[0.5, 1.0, 2.0], region_side=40)
    boxes = random_boxes(12, 80, 60)
    moved, scores = classifier.score_regions(photo, boxes)
    other_moved, other_scores = classifier.score_regions(photo, boxes.flip(0))
    torch.testing.assert_close(other_scores.flip(0), scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other_moved.flip(0), moved, atol=1e-3, rtol=1e-4)


def test_no_regions_of_a_pyramid_have_no_scores(photo) -> None:
    classifier = small_classifier(4, 2, pyramid=[0.5, 1.0], region_side=40)
    moved, scores = classifier.score_regions(photo, torch.zeros(0, 4))
    assert (moved.shape, scores.shape) == ((0, 3, 4), (0, 4))


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_maps_are_computed_of_the_levels_that_are_asked_for(photo, threads, prepared) -> None:
    pyramid = [0.5, 2.0, 0.7, 1.4, 1.0]
    classifier = small_classifier(4, threads, prepared=prepared, pyramid=pyramid)
    for levels in ([], [3], [0, 1, 2, 3, 4], [4, 2]):
        maps = classifier.image_maps(photo, levels)
        assert sorted(maps) == sorted(levels)
        for level in levels:
            with torch.inference_mode():
                expected = classifier.trunk.image_map(photo, pyramid[level])
            torch.testing.assert_close(maps[level], expected, atol=1e-4, rtol=1e-4)
