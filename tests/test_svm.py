from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from detect.svm import NO_OBJECTS_LOGIT, HardNegativeSVMs, SVMConfig
from detect.svm_kernels import Samples, half_bits, solve, square_norms
from detect.workers import CoreWorkers

CLASSES, FEATURES = 3, 12
CONFIG = SVMConfig(first_images=2, retrain_after=30, tolerance=1e-4)


def make_objects(n: int = 40, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Features of objects, each class brighter in four of them, and labels."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(n) % classes
    features = torch.rand(n, FEATURES, generator=generator)
    for place in range(4):
        features[torch.arange(n), 4 * labels + place] += 1
    return features, labels


def make_image(number: int, n: int = 30) -> tuple[Tensor, Tensor]:
    """Features of regions and overlaps with objects of each class, most of them 0."""
    generator = torch.Generator().manual_seed(number)
    features = torch.rand(n, FEATURES, generator=generator) + 0.3 * torch.rand(
        n, 1, generator=generator
    )
    overlaps = torch.rand(n, CLASSES, generator=generator)
    overlaps *= torch.rand(n, CLASSES, generator=generator) < 0.3
    return features, overlaps


def train(
    config: SVMConfig = CONFIG, images: int = 12, workers: int = 1, n: int = 30
) -> HardNegativeSVMs:
    svms = started(config, workers)
    for number in range(images):
        svms.add(*make_image(number, n))
    svms.finish()
    return svms


def started(config: SVMConfig = CONFIG, workers: int = 1) -> HardNegativeSVMs:
    svms = HardNegativeSVMs(CLASSES, config, num_features=FEATURES, workers=CoreWorkers(workers))
    svms.add_objects(*make_objects())
    return svms


def reference(config: SVMConfig, images: int, label: int) -> np.ndarray:
    """Mine one class by the book, every step on whole arrays, and train from nothing each time."""

    def halved(features: Tensor) -> np.ndarray:
        return features.half().double().numpy()

    objects, labels = make_objects()
    positives = halved(objects[labels == label])
    scale, added, weights = 0.0, 0, np.zeros(FEATURES + 1)
    negatives, norms = np.zeros((0, FEATURES)), []

    def learn() -> None:
        nonlocal negatives, weights, added
        values = np.concatenate([positives, negatives])
        signs = np.where(np.arange(len(values)) < len(positives), 1.0, -1.0)
        limits = config.cost * np.where(signs > 0, config.positive_weight, 1)
        bits = half_bits(torch.from_numpy(values))
        rows = np.arange(len(values), dtype=np.int32)
        parts = bits, square_norms(bits), rows, signs, limits, scale, config.bias_feature
        weights, _ = solve(Samples(*parts), np.zeros(len(values)), 1e-6, 10_000, 5)
        negatives = negatives[margins_of(negatives) >= config.easy_margin]
        added = 0

    def margins_of(values: np.ndarray) -> np.ndarray:
        return scale * values @ weights[:-1] + config.bias_feature * weights[-1]

    for number in range(images):
        features, overlaps = make_image(number)
        values = halved(features)
        values_of_class = values[overlaps[:, label].numpy() < config.negative_iou]
        if number < config.first_images:
            norms.append(np.linalg.norm(values, axis=1).mean())
            negatives = np.concatenate([negatives, values_of_class])
            if number == config.first_images - 1:
                scale = config.feature_norm / np.mean(norms)
                learn()
            continue
        hard = values_of_class[margins_of(values_of_class) > config.hard_margin]
        negatives, added = np.concatenate([negatives, hard]), added + len(hard)
        if added > config.retrain_after:
            learn()
    learn()
    return np.append(scale * weights[:-1], config.bias_feature * weights[-1])


@pytest.mark.parametrize("label", range(CLASSES))
def test_each_class_equals_mining_by_the_book(label: int) -> None:
    config = replace(CONFIG, tolerance=1e-6)
    svms = train(config)
    weights, biases = svms.margin_weights()
    found = np.append(weights[label].numpy(), biases[label])
    np.testing.assert_allclose(found, reference(config, 12, label), atol=1e-4)
    assert np.abs(found).max() > 0.1
    assert svms.pool.classes[label].trainings > 3  # the first, the last and some between


def test_objects_lie_above_negatives() -> None:
    weights, biases = train().margin_weights()
    objects, labels = make_objects()
    of_class = (objects.double() @ weights.T + biases)[torch.arange(len(labels)), labels]
    others, _ = make_image(99, 200)
    assert of_class.mean() > (others.double() @ weights.T + biases).mean() + 1


def test_probabilities_are_pinned_to_the_margins_of_negatives_and_of_objects() -> None:
    svms = train()
    weights, biases = svms.margin_weights()
    logit_weights, logit_biases = svms.logit_weights()
    objects, labels = make_objects()
    others, _ = make_image(99, 200)
    for label in range(CLASSES):
        own = objects[labels == label].double()
        features = torch.cat([own.mean(dim=0, keepdim=True), others.double()])
        found = features @ weights[label] + biases[label]
        logits = features @ logit_weights[label] + logit_biases[label]
        slopes = (logits[1:] - logits[0]) / (found[1:] - found[0])
        torch.testing.assert_close(slopes, slopes[:1].expand(200))
        assert slopes[0] > 0
        assert logits[0].sigmoid() == pytest.approx(0.5, abs=1e-3)  # features were halved
        at_minus_one = logits[0] - slopes[0] * (found[0] + 1)
        assert at_minus_one.sigmoid() == pytest.approx(0.03, abs=1e-6)


def test_the_number_of_workers_changes_nothing() -> None:
    one, three = train(workers=1), train(workers=3)
    assert (one.weights == three.weights).all()
    assert np.abs(one.weights).max() > 0.01


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 11, 12])
def test_going_on_from_a_state_ends_with_the_same_weights(stop: int) -> None:
    expected = train()
    first = started()
    for number in range(stop):
        first.add(*make_image(number))
    state = {key: tensor.clone() for key, tensor in first.state().items()}
    second = HardNegativeSVMs(CLASSES, CONFIG, num_features=FEATURES, workers=CoreWorkers(1))
    second.restore(state)
    for svms in (first, second):  # taking the state changes nothing either
        for number in range(stop, 12):
            svms.add(*make_image(number))
        svms.finish()
        assert (svms.weights == expected.weights).all()
        assert svms.scale == expected.scale


def test_a_row_is_kept_once_for_all_classes() -> None:
    svms = started()
    features, overlaps = make_image(0)
    svms.add(features, overlaps)
    negative = overlaps < 0.3
    assert svms.pool.num_negatives == negative.sum() > 2 * len(features)
    assert svms.pool.count == negative.any(dim=1).sum() + len(make_objects()[0])


def test_rows_that_no_class_needs_any_more_make_room() -> None:
    svms = train()
    rows = [set(samples.negatives.tolist()) for samples in svms.pool.classes]
    before = svms.pool.count
    svms.pool.sweep()
    assert svms.pool.count == len(set().union(*rows)) + len(make_objects()[0]) < before


def test_a_full_cache_lets_the_easiest_go_and_says_so(caplog) -> None:
    rows = 160
    config = replace(CONFIG, max_cache_bytes=rows * 2 * FEATURES, easy_margin=-9.0)
    svms, most, dropped = started(config), 0, []
    sweep_and_drop = svms.pool.drop

    def drop(gone: np.ndarray) -> None:
        values = svms.pool.features[: svms.pool.count].view(np.float16).astype(float)
        values = np.concatenate([svms.scale * values, np.full((len(values), 1), 10.0)], axis=1)
        found = values @ svms.weights.T
        hardest = np.full(len(values), -np.inf)
        for label, samples in enumerate(svms.pool.classes):
            hardest[samples.negatives] = np.maximum(
                hardest[samples.negatives], found[samples.negatives, label]
            )
        kept = hardest[~gone & np.isfinite(hardest)]
        assert hardest[gone].max() <= kept.min() + 1e-9
        dropped.append(int(gone.sum()))
        sweep_and_drop(gone)

    svms.pool.drop = drop  # type: ignore[method-assign]
    for number in range(12):
        svms.add(*make_image(number))
        most = max(most, svms.pool.count)
    svms.finish()
    assert dropped and max(dropped) < rows
    assert most <= rows
    assert [len(s.rows[: s.num_objects]) for s in svms.pool.classes] == [14, 13, 13]
    assert [r.levelno for r in caplog.records] == [logging.WARNING]  # once
    assert "cache of 3.84e-06 GB was full: its easiest negatives left" in caplog.text


def test_a_cache_that_fills_before_the_first_training_is_trained_on() -> None:
    svms = started(replace(CONFIG, first_images=100, max_cache_bytes=160 * 2 * FEATURES))
    for number in range(12):
        svms.add(*make_image(number))
    assert svms.scale is not None
    svms.finish()
    assert np.isfinite(svms.weights).all()


def test_a_cache_too_small_for_one_image_is_refused() -> None:
    svms = started(replace(CONFIG, max_cache_bytes=45 * 2 * FEATURES))
    with pytest.raises(ValueError, match="max_cache_bytes=1080: too small"):
        svms.add(*make_image(0))


def test_a_class_without_objects_is_never_found(caplog) -> None:
    svms = HardNegativeSVMs(4, CONFIG, num_features=FEATURES, workers=CoreWorkers(1))
    svms.add_objects(*make_objects())
    for number in range(4):
        features, overlaps = make_image(number)
        svms.add(features, torch.cat([overlaps, torch.zeros(len(features), 1)], dim=1))
    svms.finish()
    weights, biases = svms.logit_weights()
    assert (weights[3] == 0).all() and biases[3] == NO_OBJECTS_LOGIT
    assert (weights[:3] != 0).any(dim=1).all()
    assert len(svms.pool.classes[3].rows) == 0


def test_without_negatives_every_object_is_found() -> None:
    svms = HardNegativeSVMs(1, CONFIG, num_features=FEATURES, workers=CoreWorkers(1))
    features, _ = make_objects()
    svms.add_objects(features, torch.zeros(len(features), dtype=torch.int64))
    svms.add(features, torch.ones(len(features), 1))
    svms.add(torch.zeros(0, FEATURES), torch.zeros(0, 1))
    svms.finish()
    weights, biases = svms.margin_weights()
    assert ((features.double() @ weights.T + biases) > 0.99).all()


def test_images_without_regions_do_not_count_among_the_first() -> None:
    svms = started()
    for _ in range(5):
        svms.add(torch.zeros(0, FEATURES), torch.zeros(0, CLASSES))
    assert svms.scale is None
    svms.add(*make_image(0))
    svms.add(*make_image(1))
    norms = [make_image(number)[0].norm(dim=1).mean() for number in (0, 1)]
    assert svms.scale == pytest.approx(20 / np.mean(norms), rel=1e-3)


def test_fewer_images_than_the_first_are_enough() -> None:
    svms = train(images=1)
    assert svms.scale is not None and (svms.weights != 0).any()


def test_nothing_to_learn_and_a_wrong_order_are_refused() -> None:
    svms = HardNegativeSVMs(CLASSES, CONFIG, num_features=FEATURES, workers=CoreWorkers(1))
    svms.add(*make_image(0))
    with pytest.raises(ValueError, match="no objects to train SVMs on"):
        svms.finish()
    svms = started()
    svms.add(*make_image(0))
    with pytest.raises(ValueError, match="objects must be added before regions"):
        svms.add_objects(*make_objects())


def test_passes_that_did_not_suffice_are_told(caplog) -> None:
    train(replace(CONFIG, max_passes=1), images=2)
    assert "class 0: stopped after 1 passes, max_passes" in caplog.text


@pytest.mark.parametrize(
    "setting",
    [{"cost": 0}, {"negative_iou": -1}, {"first_images": 0}, {"max_cache_bytes": 0}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    [name] = setting
    with pytest.raises(ValueError, match=f"{name}="):
        SVMConfig(**setting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be above hard_margin"):
        SVMConfig(easy_margin=0)
