from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torchvision.ops import box_iou

from proposals.multibox_loss import (
    IGNORED,
    NEGATIVE,
    MultiBoxLossConfig,
    assign,
    match_priors,
    multibox_loss,
)
from proposals.priors import centred, cornered, encode_residuals

ALONE = MultiBoxLossConfig(matched_iou=2, ignored_iou=2)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, high + 1], dim=1)


@pytest.mark.parametrize(("priors", "objects"), [(6, 3), (3, 3), (2, 4), (7, 1), (1, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_is_the_best_of_all(priors: int, objects: int, seed: int) -> None:
    overlaps = torch.rand(priors, objects, generator=torch.Generator().manual_seed(seed))
    own, of = assign(overlaps)
    assert len(own.unique()) == len(own) == len(of.unique()) == min(priors, objects)
    table = overlaps if priors >= objects else overlaps.T
    best = max(
        sum(table[p, k] for k, p in enumerate(chosen))
        for chosen in permutations(range(table.shape[0]), table.shape[1])
    )
    assert torch.isclose(overlaps[own, of].sum(), torch.as_tensor(best))


def test_every_object_gets_a_prior_and_good_ones_join() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor(
        [[0.0, 0, 10, 9], [0, 0, 10, 6], [0, 0, 10, 4.5], [0, 0, 10, 3], [40, 40, 58, 58]]
    )
    matches = match_priors(centred(boxes), objects, MultiBoxLossConfig())
    assert matches.tolist() == [0, 0, IGNORED, NEGATIVE, 1]
    assert match_priors(centred(boxes), objects, ALONE).tolist() == [0, *[NEGATIVE] * 3, 1]
    claims = torch.tensor([True, False])
    assert match_priors(centred(boxes), objects, ALONE, claims=claims)[4] == NEGATIVE


@pytest.mark.parametrize(("priors", "objects"), [(0, 2), (4, 0), (0, 0)])
def test_nothing_to_match_is_all_negative(priors: int, objects: int) -> None:
    matches = match_priors(
        centred(random_boxes(priors, 0)), random_boxes(objects, 1), MultiBoxLossConfig()
    )
    assert matches.tolist() == [NEGATIVE] * priors


def test_two_objects_never_share_the_prior_that_both_like_best() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    priors = torch.tensor([[0.0, 0, 10.5, 10], [0, 0, 30, 30]])
    assert sorted(match_priors(centred(priors), objects, ALONE).tolist()) == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_a_loop_over_priors(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors, objects = centred(random_boxes(30, seed)), random_boxes(4, seed + 50)
    logits, residuals = torch.randn(30, generator=generator), torch.randn(30, 4)
    config = MultiBoxLossConfig(location_weight=0.7)
    matches = match_priors(priors, objects, config)
    confidence, location = multibox_loss(logits, residuals, priors, objects, matches, config)
    expected, where, count = 0.0, 0.0, 0
    for i, match in enumerate(matches.tolist()):
        probability = logits[i].sigmoid()
        if match >= 0:
            count += 1
            expected -= probability.log()
            wanted = encode_residuals(priors[i : i + 1], objects[match : match + 1])[0]
            for difference in (residuals[i] - wanted).abs():
                where += difference**2 / 2 if difference < 1 else difference - 0.5
        elif match == NEGATIVE:
            expected -= (1 - probability).log()
    assert torch.isclose(confidence, torch.as_tensor(expected / count), rtol=1e-4)
    assert torch.isclose(location, torch.as_tensor(0.7 * where / count), rtol=1e-4)
    assert (box_iou(cornered(priors), objects).amax(0) > 0).all()  # the case is no empty one


def test_a_photo_without_objects_teaches_that_there_is_none() -> None:
    logits = torch.zeros(5, requires_grad=True)
    residuals = torch.zeros(5, 4, requires_grad=True)
    priors, none = centred(random_boxes(5, 0)), torch.zeros(0, 4)
    matches = match_priors(priors, none, MultiBoxLossConfig())
    confidence, location = multibox_loss(
        logits, residuals, priors, none, matches, MultiBoxLossConfig()
    )
    (confidence + location).backward()
    assert location == 0
    assert (logits.grad > 0).all()


def test_what_would_be_matched_and_ignored_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ignored_iou=0\.6 must not be above matched_iou=0\.5"):
        MultiBoxLossConfig(ignored_iou=0.6)
