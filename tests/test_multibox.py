from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from proposals import MultiBox, MultiBoxProposer, Proposer
from proposals.multibox import FeatureMap
from proposals.multibox_loss import MultiBoxLossConfig, match_priors, multibox_loss
from proposals.proposer import proposer_settings

SHAPES = torch.tensor([[0.0, 0, 3, 3], [0, 0, 3, 1.5], [0, 0, 1.5, 3]])


def blurred(image: Tensor) -> list[FeatureMap]:
    """A trunk of the image's own means: a point every 8 pixels."""
    values = torch.nn.functional.avg_pool2d(image[None].float() / 255, 8, 8)
    return [FeatureMap(values, (4.0, 4.0), (8.0, 8.0))]


def square(x: int, y: int, side: int) -> tuple[Tensor, Tensor]:
    image = torch.zeros(3, 64, 80, dtype=torch.uint8)
    image[:, y : y + side, x : x + side] = 255
    return image, torch.tensor([[x, y, x + side, y + side]]).float()


def test_predictions_are_in_the_order_of_the_priors() -> None:
    torch.manual_seed(0)
    head = MultiBox(3, SHAPES, hidden=8)
    [features] = blurred(square(8, 16, 24)[0])
    logits, residuals = head(features.values)
    assert logits.shape == (1, 8 * 10 * 3)
    assert residuals.shape == (1, 8 * 10 * 3, 4)
    alone = head.predict(head.mix(head.reduce(features.values).relu()).relu())[0]
    point = alone[:, 2, 5].view(3, 5)
    place = (2 * 10 + 5) * 3
    assert torch.allclose(logits[0, place : place + 3], point[:, 0])
    assert torch.allclose(residuals[0, place : place + 3], point[:, 1:])
    assert head.place(features)[place].tolist() == [44, 20, 24, 24]
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)  # untrained


def test_it_learns_where_bright_squares_are() -> None:
    torch.manual_seed(0)
    head, config = MultiBox(3, SHAPES, hidden=16), MultiBoxLossConfig()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    draws = torch.Generator().manual_seed(0)
    for _ in range(150):
        x, y = (int(torch.randint(0, limit, (), generator=draws)) for limit in (56, 40))
        image, objects = square(x, y, 24)
        [features] = blurred(image)
        logits, residuals = head(features.values)
        priors = head.place(features)
        matches = match_priors(priors, objects, config)
        loss = sum(multibox_loss(logits[0], residuals[0], priors, objects, matches, config))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    proposer = MultiBoxProposer(head, blurred, max_boxes=3)
    image, objects = square(21, 30, 24)
    boxes, scores = proposer.score(image)
    assert box_iou(boxes[:1], objects) > 0.7
    assert scores[0] > 0.3
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_boxes_are_inside_apart_and_best_first() -> None:
    torch.manual_seed(1)
    head = MultiBox(3, SHAPES, hidden=0)
    torch.nn.init.normal_(head.predict.weight)
    proposer = MultiBoxProposer(head, blurred, max_boxes=20, nms_threshold=0.5)
    assert isinstance(proposer, Proposer)
    image, _ = square(8, 16, 24)
    boxes = proposer(image)
    assert boxes.dtype == torch.float32
    assert 5 < len(boxes) <= 20
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 80).all()
    assert (boxes[:, [1, 3]] <= 64).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 4).all()
    assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.5
    assert torch.equal(proposer(image), boxes)
    assert torch.equal(
        MultiBoxProposer(head, blurred, max_boxes=5, nms_threshold=0.5)(image), boxes[:5]
    )


def test_maps_of_several_sizes_compete() -> None:
    torch.manual_seed(1)
    head = MultiBox(3, SHAPES, hidden=0)

    def two(image: Tensor) -> list[FeatureMap]:
        [fine] = blurred(image)
        coarse = FeatureMap(fine.values[..., ::2, ::2], (4.0, 4.0), (16.0, 16.0))
        return [coarse, fine]

    image, _ = square(8, 16, 24)
    many = MultiBoxProposer(head, two, max_boxes=1000, nms_threshold=1.0)
    boxes, scores = many.score(image)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(boxes) > len(MultiBoxProposer(head, blurred, max_boxes=1000)(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_images_of_a_few_pixels_have_few_boxes_or_none(size: tuple[int, int]) -> None:
    def one_point(image: Tensor) -> list[FeatureMap]:
        return [FeatureMap(torch.zeros(1, 3, 1, 1), (0.5, 0.5), (1.0, 1.0))]

    proposer = MultiBoxProposer(MultiBox(3, SHAPES, hidden=4), one_point)
    boxes = proposer(torch.zeros(3, *size, dtype=torch.uint8))
    assert boxes.shape == (0, 4)


def test_settings_tell_the_weights_and_the_rules() -> None:
    proposer = MultiBoxProposer(MultiBox(3, SHAPES), blurred, name="digest", max_boxes=7)
    assert proposer_settings(proposer) == {
        "class": "MultiBoxProposer",
        "name": "digest",
        "max_boxes": 7,
        "nms_threshold": 0.7,
        "min_side": 4.0,
        "candidates": 3000,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"priors": torch.zeros(0, 4)}, "priors"),
        ({"priors": torch.zeros(3)}, "priors"),
        ({"priors": SHAPES, "kernel": 2}, "kernel=2"),
    ],
)
def test_heads_that_make_no_sense_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiBox(3, **arguments)
