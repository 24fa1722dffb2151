from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from detect.data.records import Record
from detect.heads import decode_boxes, encode_boxes
from detect.ridge import RidgeBoxRegression, RidgeConfig, pair_with_objects
from detect.workers import CoreWorkers

FEATURES = 6


def make_record(boxes: list[list[float]], labels: list[int], difficult: list[bool]) -> Record:
    corners = torch.tensor(boxes).view(-1, 4)
    return Record("a", None, 99, 99, corners, torch.tensor(labels).long(), torch.tensor(difficult))


def make_pairs(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, proposals and objects; the first features tell how far apart they are."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, FEATURES, generator=generator)
    corners = 20 + 50 * torch.rand(n, 2, generator=generator)
    boxes = torch.cat([corners, corners + 30 + 20 * torch.rand(n, 2, generator=generator)], 1)
    shifts = 3 * features[:, :4] + torch.randn(n, 4, generator=generator)
    return features, boxes, boxes + shifts


def regression(num_classes: int, workers: int = 1, **settings: float) -> RidgeBoxRegression:
    return RidgeBoxRegression(
        num_classes,
        RidgeConfig(**settings),
        num_features=FEATURES,
        workers=CoreWorkers(workers),
    )


def reference(
    features: Tensor, boxes: Tensor, targets: Tensor, scale: float, penalty: float, floor: float
) -> np.ndarray:
    """Regress with all pairs at hand, by the formulas of R-CNN; returns offsets, ``[n, 4]``."""
    x = scale * features.double().numpy()
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    (px, py, pw, ph), (gx, gy, gw, gh) = (
        [(b[:, 0] + b[:, 2]) / 2, (b[:, 1] + b[:, 3]) / 2, b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]]
        for b in (boxes.double().numpy(), targets.double().numpy())
    )
    y = np.stack([(gx - px) / pw, (gy - py) / ph, np.log(gw / pw), np.log(gh / ph)], axis=1)
    mean = y.mean(axis=0)
    y -= mean
    values, vectors = np.linalg.eigh(y.T @ y / len(y))
    whiten = vectors @ np.diag((values + floor) ** -0.5) @ vectors.T
    colour = vectors @ np.diag((values + floor) ** 0.5) @ vectors.T
    beta = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y @ whiten))
    return np.asarray(x @ beta @ colour + mean)


@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("n", [1, 5, 80])
def test_offsets_are_those_of_a_regression_with_all_pairs_at_hand(n: int, scale: float) -> None:
    features, boxes, targets = make_pairs(n)
    ridge = regression(1, penalty=20.0)
    for part in torch.arange(n).split(7):  # image by image
        ridge.add(features[part], boxes[part], targets[part], torch.zeros(len(part)).long())
    weights, biases = ridge.solve(scale)
    found = (features.double() @ weights.T + biases) * torch.tensor([0.1, 0.1, 0.2, 0.2])
    expected = reference(features, boxes, targets, scale, 20.0, 1e-3)
    assert n < 80 or expected.std() > 0.01
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_boxes_move_towards_their_objects() -> None:
    features, boxes, targets = make_pairs(400)
    ridge = regression(1, penalty=1.0)
    ridge.add(features, boxes, targets, torch.zeros(400).long())
    weights, biases = ridge.solve(1.0)
    features, boxes, targets = make_pairs(100, seed=1)
    offsets = (features.double() @ weights.T + biases)[:, None].float()
    moved = decode_boxes(boxes, offsets, (500, 500))[:, 0]
    before, after = (box_iou(b, targets).diagonal().mean() for b in (boxes, moved))
    assert after > before + 0.05


def test_classes_are_regressed_apart_and_those_without_pairs_not_at_all() -> None:
    features, boxes, targets = make_pairs(60)
    labels = torch.arange(60) % 2 * 2  # 0 and 2
    ridge = regression(4)
    ridge.add(features, boxes, targets, labels)
    weights, biases = (x.view(4, 4, -1) for x in ridge.solve(1.0))
    assert (weights[[1, 3]] == 0).all() and (biases[[1, 3]] == 0).all()
    for label in (0, 2):
        alone = regression(1)
        rows = labels == label
        alone.add(features[rows], boxes[rows], targets[rows], torch.zeros(30).long())
        expected = alone.solve(1.0)
        assert torch.equal(weights[label], expected[0])
        assert torch.equal(biases[label, :, 0], expected[1])


def test_no_pairs_at_all_have_zeros() -> None:
    ridge = regression(2)
    none = torch.zeros(0, 4)
    ridge.add(torch.zeros(0, FEATURES), none, none, torch.zeros(0).long())
    weights, biases = ridge.solve(1.0)
    assert weights.shape == (8, FEATURES) and biases.shape == (8,)
    assert not weights.any() and not biases.any()


def test_going_on_from_a_state_and_any_number_of_workers_change_nothing() -> None:
    features, boxes, targets = make_pairs(60)
    labels = torch.arange(60) % 3
    expected = None
    for workers in (1, 3):
        ridge = regression(3, workers)
        ridge.add(features[:20], boxes[:20], targets[:20], labels[:20])
        other = regression(3, workers)
        other.restore(ridge.state())
        for each in (ridge, other):
            each.add(features[20:], boxes[20:], targets[20:], labels[20:])
            found = each.solve(0.5)
            expected = expected or found
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])


def test_proposals_are_paired_with_their_best_object_unless_it_is_difficult() -> None:
    record = make_record([[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]], [4, 7, 1], [0, 0, 1])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 9.5],  # overlaps both of the first, the first more
            [0, 0, 10, 7.5],  # the second more
            [0, 0, 10, 4],  # no more than half of either
            [50, 50, 60, 60],  # on a difficult one
            [80, 80, 90, 90],  # on none
        ]
    )
    pairs = pair_with_objects(boxes, record, 0.6)
    assert pairs.rows.tolist() == [0, 1]
    assert pairs.labels.tolist() == [4, 7]
    assert torch.equal(pairs.targets, record.boxes[:2])


def test_an_overlap_at_the_threshold_is_not_enough() -> None:
    record = make_record([[0, 0, 10, 10]], [0], [False])
    half = torch.tensor([[0.0, 0, 10, 5]])
    assert len(pair_with_objects(half, record, 0.5).rows) == 0
    assert len(pair_with_objects(half, record, 0.49).rows) == 1


@pytest.mark.parametrize("boxes", [[], [[0.0, 0, 10, 10]]])
@pytest.mark.parametrize("n", [0, 2])
def test_images_without_objects_or_proposals_have_no_pairs(boxes, n: int) -> None:
    record = make_record(boxes, [0] * len(boxes), [False] * len(boxes))
    pairs = pair_with_objects(torch.zeros(n, 4), record, 0.6)
    assert [tuple(part.shape) for part in pairs] == [(0,), (0, 4), (0,)]


def test_units_are_those_of_the_head() -> None:
    _, boxes, targets = make_pairs(50)
    ridge = regression(1)
    ridge.add(torch.zeros(50, FEATURES), boxes, targets, torch.zeros(50).long())
    _, biases = ridge.solve(1.0)
    torch.testing.assert_close(biases.float(), encode_boxes(boxes, targets).mean(dim=0))


@pytest.mark.parametrize("setting", [{"penalty": 0}, {"least_iou": 1.5}, {"whitening_floor": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="penalty and whitening_floor above 0"):
        RidgeConfig(**setting)
