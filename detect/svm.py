"""One linear SVM a class, trained with hard negatives that are mined image by image.

R-CNN's second stage (Girshick et al., "Rich feature hierarchies", 2014, section 2.3 and appendix
B; rbgirshick/rcnn): the network stays as it is, objects are the positives, and of the many
regions that show no object of a class only those are kept which its SVM gets wrong or nearly so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detect.feature_pool import FeaturePool
from detect.googlenet import NUM_FEATURES
from detect.svm_kernels import Samples, half_bits, margins, solve, square_norms
from detect.workers import CoreWorkers

logger = logging.getLogger(__name__)

# Two margins that a class's probabilities are pinned to: -1, which negatives are trained to stay
# below, and the mean margin of its objects. How far these are apart depends on how many objects a
# class has, so that equal margins mean less in one class than in another.
AT_MINUS_ONE = 0.03
AT_OBJECTS = 0.5
_LEAST_DISTANCE = 0.01  # of the two margins, for classes that were not learned
NO_OBJECTS_LOGIT = -20.0  # of a class that nothing is known of: far below any threshold
_CLEARED = 0.1  # share of a full cache that is cleared beyond what is needed at once


@dataclass
class SVMConfig:
    """How the SVMs of all classes are trained.

    Raises:
        ValueError: If a number is out of range.
    """

    cost: float = 1e-3  # C, weight of a negative's hinge loss; R-CNN
    positive_weight: float = 2.0  # an object's loss counts this many times as much; R-CNN
    bias_feature: float = 10.0  # constant that every sample ends with, for the bias; R-CNN
    feature_norm: float = 20.0  # features are scaled to this mean norm; R-CNN
    negative_iou: float = 0.3  # a class's negatives overlap all of its objects by less; R-CNN
    first_images: int = 10  # whose negatives all count for the first model; R-CNN: 1
    hard_margin: float = -1.0001  # negatives above it join the cache; R-CNN
    easy_margin: float = -1.2  # negatives below it leave after training; R-CNN
    retrain_after: int = 2000  # new negatives of a class before it is trained again; R-CNN
    tolerance: float = 0.01  # of the projected gradients, in units of the margin; liblinear: 0.1
    max_passes: int = 1000  # over the samples of a class, each time; liblinear
    max_cache_bytes: int = 1_500_000_000  # of features; where it is full, the easiest go
    seed: int = 0  # of the order of images and samples

    def __post_init__(self) -> None:
        for name in ("cost", "positive_weight", "feature_norm", "tolerance", "negative_iou"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("first_images", "retrain_after", "max_passes", "max_cache_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.easy_margin > self.hard_margin:
            raise ValueError(
                f"easy_margin={self.easy_margin} must not be above hard_margin={self.hard_margin}"
            )


class HardNegativeSVMs:
    """Linear SVMs that learn from the objects of all images, then from one image after the other.

    The result depends on the order of images, but not on the number of workers. Features are kept
    in float16.

    Args:
        num_classes: Without background.
        config: How to train.
        num_features: Numbers a region.
        workers: Cores that train several classes at the same time.

    Attributes:
        weights: Of scaled features and, last, of the bias feature, ``[C, D + 1]``.
        scale: Factor on features; None until the first models are trained.
        pool: What the classes learn from.
    """

    def __init__(
        self,
        num_classes: int,
        config: SVMConfig | None = None,
        *,
        num_features: int = NUM_FEATURES,
        workers: CoreWorkers | None = None,
    ) -> None:
        self.config = config or SVMConfig()
        self.workers = workers or CoreWorkers()
        self.weights = np.zeros((num_classes, num_features + 1))
        self.scale: float | None = None
        self.pool = FeaturePool(num_classes, num_features, self.config.max_cache_bytes)
        self._first_norms: list[float] = []  # mean norms of the first images' regions
        self._told = False

    def add_objects(self, features: Tensor, labels: Tensor) -> None:
        """Add objects, the positives; those of all images come before the first image's regions.

        Args:
            features: Of the objects' own boxes, not scaled, ``[N, D]``.
            labels: Their classes, int64 ``[N]``.

        Raises:
            ValueError: If regions came before, a feature is not finite or memory does not suffice.
        """
        if self.scale is not None or self.pool.num_negatives:
            raise ValueError("objects must be added before regions")
        bits = half_bits(features)
        self._make_room(len(bits))
        rows, classes = self.pool.store(bits), labels.numpy()
        for label in np.unique(classes):
            samples = self.pool.classes[label]
            samples.extend(rows[classes == label])
            samples.num_objects = len(samples.rows)

    def add(self, features: Tensor, overlaps: Tensor) -> None:
        """Learn from the regions of the next image.

        Args:
            features: Of its regions, not scaled, ``[N, D]``.
            overlaps: Largest IoU of each region with an object of each class, ``[N, C]``.

        Raises:
            ValueError: If a feature is not finite or memory does not suffice.
        """
        bits = half_bits(features)
        wanted = (overlaps < self.config.negative_iou).numpy()
        wanted[:, [samples.num_objects == 0 for samples in self.pool.classes]] = False
        if self.scale is None:
            self._store(bits, wanted)
            if len(bits):
                self._first_norms.append(float(np.sqrt(square_norms(bits)).mean()))
            if len(self._first_norms) == self.config.first_images:
                self._begin()
            return
        found = self._margins(bits, np.arange(len(bits), dtype=np.int32), self.weights)
        self._store(bits, wanted & (found > self.config.hard_margin))
        limit = self.config.retrain_after
        self._train(
            [label for label in self._learnable() if self.pool.classes[label].added > limit]
        )

    def finish(self) -> None:
        """Train every class a last time.

        Raises:
            ValueError: If there were no objects.
        """
        if not self._learnable():
            raise ValueError("no objects to train SVMs on; are all of them marked difficult?")
        if self.scale is None:
            self._begin()
        else:
            self._train(self._learnable())

    def margin_weights(self) -> tuple[Tensor, Tensor]:
        """Return what gives margins of unscaled features: weights ``[C, D]`` and biases ``[C]``.

        Objects are trained to have a margin of 1 or more, all else -1 or less.
        """
        weights = torch.from_numpy(self.weights[:, :-1] * (self.scale or 0.0))
        return weights, torch.from_numpy(self.weights[:, -1] * self.config.bias_feature)

    def logit_weights(self) -> tuple[Tensor, Tensor]:
        """Return the same for logits, whose sigmoids may be compared across classes.

        A logit rises with the margin: it is that of ``AT_MINUS_ONE`` where the margin is -1, and
        that of ``AT_OBJECTS`` at the mean margin of the class's objects. A class without objects
        has ``NO_OBJECTS_LOGIT`` everywhere.
        """
        weights, biases = self.margin_weights()
        low, high = torch.tensor([AT_MINUS_ONE, AT_OBJECTS], dtype=torch.float64).logit()
        for label, samples in enumerate(self.pool.classes):
            if not samples.num_objects:
                weights[label], biases[label] = 0, NO_OBJECTS_LOGIT
                continue
            rows = samples.rows[: samples.num_objects]
            mean = self._margins(self.pool.features, rows, self.weights[[label]]).mean()
            slope = (high - low) / max(mean + 1, _LEAST_DISTANCE)
            weights[label] *= slope
            biases[label] = slope * (biases[label] + 1) + low
        return weights, biases

    def _learnable(self) -> list[int]:
        return [label for label, samples in enumerate(self.pool.classes) if samples.num_objects]

    def _margins(
        self, features: NDArray[np.int16], rows: NDArray[np.int32], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        scale = 1.0 if self.scale is None else self.scale
        return margins(features, rows, weights, scale, self.config.bias_feature)

    def _store(self, bits: NDArray[np.int16], wanted: NDArray[np.bool_]) -> None:
        """Keep those regions ``[N, D]`` that at least one class wants, ``[N, C]``."""
        chosen = np.flatnonzero(wanted.any(axis=1))
        self._make_room(len(chosen))
        rows = self.pool.store(bits[chosen])
        for samples, column in zip(self.pool.classes, wanted[chosen].T, strict=True):
            samples.extend(rows[column])
            samples.added += int(column.sum())

    def _begin(self) -> None:
        """Choose the scale of features and train the first models."""
        mean = float(np.mean(self._first_norms)) if self._first_norms else 0.0
        self.scale = self.config.feature_norm / mean if mean > 0 else 1.0
        self._train(self._learnable())

    def _train(self, labels: Sequence[int]) -> None:
        """Train classes, several at a time; their easy negatives leave."""
        for label, weights in zip(labels, self.workers.map(self._solve, labels), strict=True):
            self.weights[label] = weights
            samples = self.pool.classes[label]
            found = self._margins(self.pool.features, samples.negatives, weights[None])[:, 0]
            samples.keep_negatives(found >= self.config.easy_margin)
            samples.added, samples.trainings = 0, samples.trainings + 1

    def _solve(self, label: int) -> NDArray[np.float64]:
        """Return a class's weights, ``[D + 1]``, from where its last training ended."""
        config, samples = self.config, self.pool.classes[label]
        assert self.scale is not None
        is_object = np.arange(len(samples.rows)) < samples.num_objects
        problem = Samples(
            self.pool.features,
            self.pool.squares,
            samples.rows,
            np.where(is_object, 1.0, -1.0),
            config.cost * np.where(is_object, config.positive_weight, 1.0),
            self.scale,
            config.bias_feature,
        )
        seed = config.seed + 1_000_003 * label + samples.trainings
        weights, passes = solve(problem, samples.alphas, config.tolerance, config.max_passes, seed)
        if passes == config.max_passes:
            logger.warning("class %d: stopped after %d passes, max_passes", label, passes)
        return weights

    def _make_room(self, count: int) -> None:
        """See to it that so many rows can be stored."""
        if self.pool.room >= count:
            return
        if self.scale is None and self.pool.num_negatives:
            self._begin()
        self.pool.sweep()
        if self.pool.room < count:
            self._drop_easiest(count - self.pool.room)

    def _drop_easiest(self, count: int) -> None:
        """Let go of those negatives whose largest margin of any class is the smallest."""
        hardness = np.full(self.pool.count, -np.inf)
        for samples, weights in zip(self.pool.classes, self.weights, strict=True):
            rows = samples.negatives
            found = self._margins(self.pool.features, rows, weights[None])[:, 0]
            hardness[rows] = np.maximum(hardness[rows], found)
        for samples in self.pool.classes:
            hardness[samples.rows[: samples.num_objects]] = np.inf
        negatives = int(np.isfinite(hardness).sum())
        if negatives < count:
            raise ValueError(
                f"max_cache_bytes={self.config.max_cache_bytes}: too small for the objects and "
                "the regions of one image; give more"
            )
        count = min(negatives, count + int(_CLEARED * len(self.pool.features)))
        gone = np.zeros(len(hardness), dtype=np.bool_)
        gone[np.argsort(hardness, kind="stable")[:count]] = True
        self.pool.drop(gone)
        if not self._told:
            self._told = True
            gigabytes = self.config.max_cache_bytes / 1e9
            logger.warning("the cache of %.3g GB was full: its easiest negatives left", gigabytes)

    def state(self) -> dict[str, Tensor]:
        """Return everything that :meth:`restore` needs; to be written before anything is added."""
        return self.pool.state() | {
            "weights": torch.from_numpy(self.weights),
            "scale": torch.tensor([] if self.scale is None else [self.scale], dtype=torch.float64),
            "first_norms": torch.tensor(self._first_norms, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: If it does not fit into ``max_cache_bytes``.
        """
        self.pool.restore(state)
        self.weights = state["weights"].numpy().copy()
        self.scale = float(state["scale"][0]) if len(state["scale"]) else None
        self._first_norms = state["first_norms"].tolist()
