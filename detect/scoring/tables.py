"""Ground truth and detections of a whole data set as columns, ready to be matched.

Boxes are kept as the results files and annotations of ILSVRC and VOC have them: corners, 1-based,
the last pixel included. The devkits' arithmetic can then be followed to the last bit, which a
detour over half-open boxes would cost: ``(x - 1) + 1`` is not always ``x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:  # torch takes longer to load than two million detections to score
    from detect.data.records import Record
    from detect.detections import Detections

_TO_CORNERS = (1.0, 1.0, 0.0, 0.0)  # half-open pixels -> 1-based inclusive corners


@dataclass(frozen=True)
class ScoredBoxes:
    """Detections on all images, in the order of their file.

    Attributes:
        images: Position of each one's image in the ground truth, int32 ``[N]``.
        labels: Classes from 0, int32 ``[N]``.
        scores: Confidences, float64 ``[N]``.
        corners: 1-based inclusive ``xmin, ymin, xmax, ymax``, float64 ``[N, 4]``.
    """

    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float64]
    corners: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> ScoredBoxes:
        """Select or reorder detections by a mask or indices."""
        return ScoredBoxes(
            self.images[keep], self.labels[keep], self.scores[keep], self.corners[keep]
        )

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Half-open ``xyxy`` pixels, float64 ``[N, 4]``."""
        return np.subtract(self.corners, _TO_CORNERS, dtype=np.float64)

    @classmethod
    def from_boxes(
        cls, images: ArrayLike, labels: ArrayLike, scores: ArrayLike, boxes: ArrayLike
    ) -> ScoredBoxes:
        """Make columns of half-open ``xyxy`` boxes.

        Args:
            images: Position of each one's image in the ground truth, ``[N]``.
            labels: Classes from 0, ``[N]``.
            scores: Confidences, ``[N]``.
            boxes: Pixels, ``[N, 4]``.
        """
        return cls(
            np.asarray(images, dtype=np.int32),
            np.asarray(labels, dtype=np.int32),
            np.asarray(scores, dtype=np.float64),
            np.add(np.reshape(boxes, (-1, 4)), _TO_CORNERS, dtype=np.float64),
        )


@dataclass(frozen=True)
class GroundTruth:
    """The images of a data set and their objects, in the order of the image list and the files.

    Attributes:
        names: Name of each image, ``[I]``.
        image_ids: Number of each image in results files, unique, int64 ``[I]``.
        sizes: Width and height of each image in pixels, 0 where unknown, int64 ``[I, 2]``.
        images: Position of each object's image, ascending, int32 ``[M]``.
        labels: Classes of the objects from 0, int32 ``[M]``.
        corners: 1-based inclusive ``xmin, ymin, xmax, ymax``, float64 ``[M, 4]``.
        ignored: Objects that count neither as found nor as missed: difficult, crowd, ``[M]``.
    """

    names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    corners: NDArray[np.float64]
    ignored: NDArray[np.bool_]

    @property
    def num_images(self) -> int:
        """Number of images, with and without objects."""
        return len(self.names)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Half-open ``xyxy`` pixels of the objects, float64 ``[M, 4]``."""
        return np.subtract(self.corners, _TO_CORNERS, dtype=np.float64)

    @classmethod
    def from_boxes(
        cls,
        images: ArrayLike,
        labels: ArrayLike,
        boxes: ArrayLike,
        *,
        num_images: int,
        ignored: ArrayLike | None = None,
    ) -> GroundTruth:
        """Make a ground truth of half-open ``xyxy`` boxes; images are named by their positions.

        Args:
            images: Position of each object's image, ``[M]``.
            labels: Classes from 0, ``[M]``.
            boxes: Pixels, ``[M, 4]``.
            num_images: Images, with and without objects.
            ignored: Objects that count neither as found nor as missed, ``[M]``; by default none.
        """
        of_image = np.asarray(images, dtype=np.int32)
        order = np.argsort(of_image, kind="stable")
        none = np.zeros(len(of_image), dtype=np.bool_)
        return cls(
            names=tuple(map(str, range(num_images))),
            image_ids=np.arange(1, num_images + 1),
            sizes=np.zeros((num_images, 2), dtype=np.int64),
            images=of_image[order],
            labels=np.asarray(labels, dtype=np.int32)[order],
            corners=np.add(np.reshape(boxes, (-1, 4)), _TO_CORNERS, dtype=np.float64)[order],
            ignored=(none if ignored is None else np.asarray(ignored, dtype=np.bool_))[order],
        )

    @classmethod
    def of(cls, given: GroundTruth | Sequence[Record]) -> GroundTruth:
        """Return columns as they are, records as columns."""
        return given if isinstance(given, GroundTruth) else cls.from_records(given)

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> GroundTruth:
        """Put the objects of records into columns."""
        counts = [len(record.labels) for record in records]
        return cls(
            names=tuple(record.name for record in records),
            image_ids=np.array([record.image_id for record in records], dtype=np.int64),
            sizes=np.array([(r.width, r.height) for r in records], dtype=np.int64).reshape(-1, 2),
            images=np.repeat(np.arange(len(records), dtype=np.int32), counts),
            labels=_column([record.labels for record in records], np.int32),
            corners=np.add(_column([r.boxes for r in records]).reshape(-1, 4), _TO_CORNERS),
            ignored=_column([record.difficult for record in records], np.bool_),
        )


def scored_boxes(detections: ScoredBoxes | Sequence[Detections], truth: GroundTruth) -> ScoredBoxes:
    """Put detections into columns.

    Args:
        detections: The columns themselves, or one ``Detections`` an image.
        truth: The images they belong to.

    Raises:
        ValueError: If images and detections disagree in number.
    """
    if isinstance(detections, ScoredBoxes):
        return detections
    if len(detections) != truth.num_images:
        raise ValueError(
            f"{len(detections)} detections for {truth.num_images} images: need one for each"
        )
    counts = [len(found) for found in detections]
    return ScoredBoxes.from_boxes(
        images=np.repeat(np.arange(len(detections)), counts),
        labels=_column([found.labels for found in detections], np.int32),
        scores=_column([found.scores for found in detections]),
        boxes=_column([found.boxes for found in detections]),
    )


def check_columns(
    found: ScoredBoxes, truth: GroundTruth, num_classes: int, *, any_score: bool = False
) -> None:
    """Check what was handed over in memory.

    Args:
        found: Detections.
        truth: The images and objects they belong to.
        num_classes: Number of classes.
        any_score: Take scores that are not finite.

    Raises:
        ValueError: If a label is no class, an image is none of the ground truth's, or a score or
            corner is not finite.
    """
    for what, values, count in (
        ("labels of the detections", found.labels, num_classes),
        ("labels of the objects", truth.labels, num_classes),
        ("images of the detections", found.images, truth.num_images),
    ):
        if len(values) and not 0 <= values.min() <= values.max() < count:
            raise ValueError(
                f"{what} are {values.min()}..{values.max()}, not within 0..{count - 1}"
            )
    finite = any_score or (np.isfinite(found.scores).all() and np.isfinite(found.corners).all())
    if not finite:
        raise ValueError("a score or box of the detections is not a finite number")


def _column(tensors: Sequence[object], dtype: type = np.float64) -> NDArray:
    """Join tensors, on whatever device, to one array."""
    arrays = [np.asarray(t.cpu() if hasattr(t, "cpu") else t) for t in tensors]
    return np.concatenate([np.zeros((0, *arrays[0].shape[1:]) if arrays else 0), *arrays]).astype(
        dtype
    )
