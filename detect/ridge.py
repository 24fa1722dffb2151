"""Class-specific box regression by ridge regression, summed up image by image.

Girshick et al., "Rich feature hierarchies", 2014, appendix C, with what rbgirshick/rcnn adds: the
four targets of a class are whitened, and the bias is regularised as the weights are. The sums
that the solution needs do not grow with the number of regions; no features are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detect.data.records import Record
from detect.googlenet import NUM_FEATURES
from detect.heads import BOX_UNITS, encode_boxes
from detect.workers import CoreWorkers
from proposals.overlaps import box_iou

_SUMS = ("gram", "products", "targets", "squares")


@dataclass
class RidgeConfig:
    """How boxes are regressed from features.

    Raises:
        ValueError: If a number is out of range.
    """

    penalty: float = 1000.0  # of squared weights, with features of the SVMs' scale; R-CNN
    least_iou: float = 0.6  # overlap above which a proposal is regressed to its object; R-CNN
    whitening_floor: float = 1e-3  # added to the variances of whitened targets; R-CNN

    def __post_init__(self) -> None:
        if min(self.penalty, self.whitening_floor) <= 0 or not 0 <= self.least_iou <= 1:
            raise ValueError(f"penalty and whitening_floor above 0, least_iou 0 to 1: got {self}")


class Pairs(NamedTuple):
    """Proposals of an image, and the objects that they should be moved to.

    Attributes:
        rows: Which of the proposals, int64 ``[n]``.
        targets: The box of each one's object, ``[n, 4]``.
        labels: The object's class, int64 ``[n]``.
    """

    rows: Tensor
    targets: Tensor
    labels: Tensor


def pair_with_objects(boxes: Tensor, record: Record, least_iou: float) -> Pairs:
    """Give each proposal its best object, if they overlap enough and it is not difficult.

    Args:
        boxes: Proposals, ``[N, 4]``.
        record: The image's objects.
        least_iou: Overlap above which they are a pair.
    """
    if not len(record.boxes):
        none = torch.zeros(0, dtype=torch.int64)
        return Pairs(none, torch.zeros(0, 4), none)
    overlaps, best = box_iou(boxes, record.boxes).max(dim=1)
    rows = ((overlaps > least_iou) & ~record.difficult[best]).nonzero().flatten()
    return Pairs(rows, record.boxes[best[rows]], record.labels[best[rows]])


class RidgeBoxRegression:
    """Sums of a regression of box offsets for each class, and their solution.

    Args:
        num_classes: Without background.
        config: How to regress.
        num_features: Numbers a region.
        workers: Cores that several classes are shared by; each uses one, so that the result does
            not depend on how many there are.
    """

    def __init__(
        self,
        num_classes: int,
        config: RidgeConfig | None = None,
        *,
        num_features: int = NUM_FEATURES,
        workers: CoreWorkers | None = None,
    ) -> None:
        self.config = config or RidgeConfig()
        self.num_classes, self.num_features = num_classes, num_features
        self.workers = workers or CoreWorkers()
        # Of each class with pairs; features end with a 1, so that a gram's last entry counts them.
        self._sums: dict[int, dict[str, Tensor]] = {}

    def add(self, features: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> None:
        """Add pairs of proposals and objects.

        Args:
            features: Of the proposals, not scaled, ``[n, D]``.
            boxes: The proposals, ``[n, 4]``.
            targets: The objects, ``[n, 4]``.
            labels: Their classes, int64 ``[n]``.
        """
        offsets = encode_boxes(boxes.double(), targets.double()) * torch.tensor(
            BOX_UNITS, dtype=torch.float64
        )
        extended = torch.cat([features.double(), torch.ones(len(features), 1)], dim=1)
        present = labels.unique().tolist()
        for label in present:
            self._sums.setdefault(label, self._empty())

        def accumulate(label: int) -> None:
            x, y = extended[labels == label], offsets[labels == label]
            for name, term in zip(_SUMS, (x.T @ x, x.T @ y, y.sum(0), y.T @ y), strict=True):
                self._sums[label][name] += term

        self.workers.map(accumulate, present)

    def solve(self, scale: float) -> tuple[Tensor, Tensor]:
        """Return weight and bias for ``RegionHead.box_regression``.

        Args:
            scale: Factor on features that the penalty is meant for.

        Returns:
            ``[4 * C, D]`` and ``[4 * C]`` float64, for unscaled features and offsets in the
            head's units; zeros for classes without pairs.
        """
        solutions = self.workers.map(lambda label: self._solve(label, scale), self._sums)
        result = torch.zeros(self.num_classes, 4, self.num_features + 1, dtype=torch.float64)
        for label, solution in zip(self._sums, solutions, strict=True):
            result[label] = solution
        flat = result.flatten(0, 1)
        return flat[:, :-1].contiguous(), flat[:, -1].contiguous()

    def _solve(self, label: int, scale: float) -> Tensor:
        """Return the extended weights of a class's four offsets, ``[4, D + 1]``."""
        gram, products, targets, squares = (self._sums[label][name] for name in _SUMS)
        count = gram[-1, -1]
        mean = targets / count
        covariance = squares / count - mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance)
        root = (values.clamp(min=0) + self.config.whitening_floor).sqrt()
        whiten, colour = (vectors * root**power @ vectors.T for power in (-1, 1))
        scales = torch.full((len(gram),), scale, dtype=torch.float64)
        scales[-1] = 1
        centred = (products - gram[:, -1:] * mean) @ whiten  # X^T Y of whitened targets
        regularised = gram * scales[:, None] * scales
        regularised.diagonal().add_(self.config.penalty)
        factor = torch.linalg.cholesky(regularised)
        solution = torch.cholesky_solve(centred * scales[:, None], factor) @ colour
        solution = solution * scales[:, None]
        solution[-1] += mean
        in_units: Tensor = solution / torch.tensor(BOX_UNITS, dtype=torch.float64)
        return in_units.T

    def _empty(self) -> dict[str, Tensor]:
        size = self.num_features + 1
        shapes = ((size, size), (size, 4), (4,), (4, 4))
        return {
            name: torch.zeros(shape, dtype=torch.float64)
            for name, shape in zip(_SUMS, shapes, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        """Return the sums, by class and name; not a copy."""
        return {
            f"{label}.{name}": tensor
            for label, sums in self._sums.items()
            for name, tensor in sums.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        self._sums = {}
        for key, tensor in state.items():
            label, _, name = key.partition(".")
            self._sums.setdefault(int(label), {})[name] = tensor.clone()
