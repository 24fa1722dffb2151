from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detect.googlenet import GoogLeNet, Preprocessing
from detect.multibox_proposals import share_trunk
from detect.multibox_trunk import (
    PyramidMaps,
    WholeImageFeatures,
    locate_map,
    place_crops,
    trunk_digest,
    warp,
)
from detect.shared_geometry import SharedTrunkConfig, map_boxes
from proposals import MultiBox, MultiBoxProposer, Union
from tests.test_shared_trunk import random_boxes, random_network, small_classifier

SHAPES = torch.tensor([[0.0, 0, 2, 2], [0, 0, 3, 1.5]])


def proposer_on(classifier, digest: str, factors: Sequence[float]) -> MultiBoxProposer:
    torch.manual_seed(0)
    head = MultiBox(832, SHAPES, hidden=4)
    torch.nn.init.normal_(head.predict.weight)
    config = replace(classifier.trunk.config, pyramid=list(factors))
    levels = classifier.trunk.config.pyramid

    def image_maps(image: Tensor, places: Sequence[int]) -> dict[int, Tensor]:
        maps = classifier.image_maps(image, [levels.index(factors[place]) for place in places])
        return dict(zip(places, maps.values(), strict=True))

    return MultiBoxProposer(head, PyramidMaps(image_maps, config, factors, digest))


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("size", [(60, 80), (300, 41)])
def test_points_lie_where_regions_are_cut(size: tuple[int, int], factor: float) -> None:
    config = SharedTrunkConfig(shorter_side=96, max_side=400)
    features = locate_map(torch.zeros(1, 1, 3, 4), size, config, factor)
    (x, y), (width, height) = features.origin, features.stride
    boxes = torch.tensor([[x - 1, y - 1, x + 1, y + 1]])  # about the first point
    boxes = torch.cat([boxes, boxes + torch.tensor([2 * width, height] * 2)])  # and another
    placed = map_boxes(boxes, size, config, factor)
    centres = (placed[:, :2] + placed[:, 2:]) / 2
    assert torch.allclose(centres, torch.tensor([[0.5, 0.5], [2.5, 1.5]]), atol=1e-4)


def test_the_maps_are_those_of_the_levels_in_their_order(photo) -> None:
    classifier = small_classifier(4, 1, pyramid=[0.7, 1.0, 1.4])
    maps = PyramidMaps(classifier.image_maps, classifier.trunk.config, [1.4, 0.7])
    fine, coarse = maps(photo)
    expected = classifier.image_maps(photo, [0, 2])
    assert torch.equal(fine.values, expected[2])
    assert torch.equal(coarse.values, expected[0])
    assert fine.stride[0] == pytest.approx(coarse.stride[0] / 2, rel=0.02)
    with pytest.raises(ValueError, match=r"no level 0\.6"):
        PyramidMaps(classifier.image_maps, classifier.trunk.config, [0.6])


def test_a_shared_trunk_runs_once_an_image(photo, monkeypatch) -> None:
    classifier = small_classifier(4, 1, pyramid=[0.7, 1.0], region_side=55)
    own = proposer_on(classifier, "digest", [1.0])
    union = share_trunk(Union([own]), classifier, "digest")
    assert isinstance(union, Union)
    expected, boxes = own(photo), random_boxes(5, 80, 60)
    scores = classifier.score_regions(photo, boxes)
    calls = []
    right = classifier.trunk.image_map
    monkeypatch.setattr(
        classifier.trunk, "image_map", lambda *given: calls.append(given[1]) or right(*given)
    )
    assert torch.equal(union(photo), expected)
    assert torch.equal(classifier.score_regions(photo, boxes)[1], scores[1])
    assert sorted(calls) == [0.7, 1.0]
    assert torch.equal(union(photo), expected)  # maps that regions were scored on are let go
    assert len(calls) == 3
    assert torch.equal(classifier.score_regions(photo.clone(), boxes)[1], scores[1])
    assert len(calls) == 5


def test_another_trunk_or_scale_is_not_shared() -> None:
    classifier = small_classifier(4, 1, pyramid=[0.7, 1.0])
    own = proposer_on(classifier, "digest", [1.0])
    assert share_trunk(own, classifier, "another") is own
    other_levels = small_classifier(4, 1, pyramid=[0.7])
    assert share_trunk(own, other_levels, "digest") is own
    assert share_trunk(own, classifier, "digest") is not own


def test_digests_tell_trunks_apart() -> None:
    torch.manual_seed(0)
    one, other = GoogLeNet(0), GoogLeNet(0)
    assert trunk_digest(one, "grid") != trunk_digest(other, "grid")
    other.load_state_dict(one.state_dict())
    assert trunk_digest(one, "grid") == trunk_digest(other, "grid")
    torch.nn.init.zeros_(other.inception5b.branch1.conv.weight)
    assert trunk_digest(one, "grid") == trunk_digest(other, "grid")  # which 5b is no part of
    assert trunk_digest(one, "whole") != trunk_digest(other, "whole")


def test_crops_cover_the_image() -> None:
    assert place_crops((60, 80), [1.0]) == [(0, 0, 80, 60)]
    crops = place_crops((60, 80), [1.0, 0.5])
    assert len(crops) == 1 + 9
    assert crops[1] == (0, 0, 40, 30)
    assert crops[-1] == (40, 30, 40, 30)
    assert crops[5] == (20, 15, 40, 30)
    assert place_crops((1, 1), [0.5])[0] == (0, 0, 1, 1)


def test_features_of_crops_are_those_of_the_crop_alone(photo) -> None:
    network = random_network(prepared=False)
    trunk = WholeImageFeatures(network, Preprocessing(), [1.0, 0.6])
    maps = trunk(photo)
    assert len(maps) == len(place_crops((60, 80), [1.0, 0.6]))
    left, top, width, height = place_crops((60, 80), [1.0, 0.6])[3]
    part = photo[:, top : top + height, left : left + width]
    with torch.no_grad():
        inputs = Preprocessing()(warp(part, (0, 0, width, height)))
        alone = network.features(inputs)
    assert torch.allclose(maps[3].values[..., 0, 0], alone, atol=1e-4)
    assert maps[3].origin == (left + width / 2, top + height / 2)
    assert maps[3].stride == (width, height)
