"""What linear SVMs learn from: features kept once for all classes, and who uses which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detect.svm_kernels import square_norms

_CHUNK = 4096  # rows moved at a time


@dataclass
class ClassSamples:
    """What one class learns from: its objects, then negatives in the order in which they came.

    Attributes:
        rows: Places in the pool, ``[n]``.
        alphas: Dual variables, ``[n]``.
        num_objects: How many of them are objects.
        added: Negatives that came since the last training.
        trainings: How often the class was trained.
    """

    rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    alphas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    num_objects: int = 0
    added: int = 0
    trainings: int = 0

    @property
    def negatives(self) -> NDArray[np.int32]:
        """Places of the negatives in the pool."""
        return self.rows[self.num_objects :]

    def extend(self, rows: NDArray[np.int32]) -> None:
        """Add samples that no training has seen."""
        self.rows = np.concatenate([self.rows, rows])
        self.alphas = np.concatenate([self.alphas, np.zeros(len(rows))])

    def keep_negatives(self, keep: NDArray[np.bool_]) -> None:
        """Drop all other negatives."""
        chosen = np.concatenate([np.ones(self.num_objects, dtype=np.bool_), keep])
        self.rows, self.alphas = self.rows[chosen], self.alphas[chosen]


class FeaturePool:
    """Rows of features in the order in which they came, and the samples of each class.

    Memory is set aside for as many rows as are allowed, but the system hands out its pages when
    they are first written to: what is not needed takes none.

    Args:
        num_classes: Without background.
        num_features: Numbers a row.
        max_bytes: Of all rows.

    Attributes:
        features: Bits of float16, ``[capacity, D]``; the first ``count`` rows are in use.
        squares: Their squared norms, ``[capacity]``.
        count: Rows in use.
        classes: The samples of each class.
    """

    def __init__(self, num_classes: int, num_features: int, max_bytes: int) -> None:
        capacity = max_bytes // (2 * num_features)
        self.features = np.empty((capacity, num_features), dtype=np.int16)
        self.squares = np.empty(capacity)
        self.count = 0
        self.classes = [ClassSamples() for _ in range(num_classes)]

    @property
    def room(self) -> int:
        """How many more rows fit."""
        return len(self.features) - self.count

    @property
    def num_negatives(self) -> int:
        """Negatives of all classes together; one of two classes counts twice."""
        return sum(len(samples.negatives) for samples in self.classes)

    def store(self, features: NDArray[np.int16]) -> NDArray[np.int32]:
        """Add rows ``[n, D]``, for which there must be room, and return their places, ``[n]``."""
        start, self.count = self.count, self.count + len(features)
        self.features[start : self.count] = features
        self.squares[start : self.count] = square_norms(features)
        return np.arange(start, self.count, dtype=np.int32)

    def sweep(self) -> None:
        """Drop the rows that no class uses and close the gaps; the others keep their order."""
        in_use = np.zeros(self.count, dtype=np.bool_)
        for samples in self.classes:
            in_use[samples.rows] = True
        kept = np.flatnonzero(in_use)
        for start in range(0, len(kept), _CHUNK):  # no row moves up, so none is overwritten unread
            part = kept[start : start + _CHUNK]
            self.features[start : start + len(part)] = self.features[part]
            self.squares[start : start + len(part)] = self.squares[part]
        self.count = len(kept)
        places = np.cumsum(in_use, dtype=np.int32) - 1
        for samples in self.classes:
            samples.rows = places[samples.rows]

    def drop(self, gone: NDArray[np.bool_]) -> None:
        """Drop negatives by their rows, ``[count]``, and sweep."""
        for samples in self.classes:
            samples.keep_negatives(~gone[samples.negatives])
        self.sweep()

    def state(self) -> dict[str, Tensor]:
        """Return everything that :meth:`restore` needs; to be written before anything is added.

        The features are the pool's own memory, not a copy of up to gigabytes.
        """
        self.sweep()
        counts = [[len(s.rows), s.num_objects, s.added, s.trainings] for s in self.classes]
        return {
            "features": torch.from_numpy(self.features[: self.count].view(np.float16)),
            "rows": torch.from_numpy(np.concatenate([s.rows for s in self.classes])),
            "alphas": torch.from_numpy(np.concatenate([s.alphas for s in self.classes])),
            "counts": torch.tensor(counts, dtype=torch.int64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: If there is no room for it.
        """
        self.count = 0
        features = state["features"].view(torch.int16).numpy()
        if len(features) > self.room:
            raise ValueError(f"{len(features)} rows of features do not fit into {self.room}")
        self.store(features)
        counts = state["counts"].tolist()
        lengths = [length for length, *_ in counts]
        parts = state["rows"].split(lengths), state["alphas"].split(lengths)
        self.classes = [
            ClassSamples(rows.numpy().copy(), alphas.numpy().copy(), *others)
            for rows, alphas, (_, *others) in zip(*parts, counts, strict=True)
        ]
