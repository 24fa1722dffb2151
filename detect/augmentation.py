"""Test-time augmentation: regions are scored on the mirrored image and at other scales as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detect.data.regions import mirror_boxes
from detect.engine import Classifier
from detect.shared_trunk import SharedTrunkClassifier


@dataclass
class AugmentConfig:
    """In which views of an image its regions are scored; probabilities and boxes are averaged.

    Raises:
        ValueError: If there is no view, or one of no size.
    """

    mirrored: bool = False  # the image left to right as well: twice the time
    zooms: list[float] = field(default_factory=lambda: [1.0])  # of regions on a shared trunk's maps

    def __post_init__(self) -> None:
        if not self.zooms or not all(0 < zoom < math.inf for zoom in self.zooms):
            raise ValueError(
                f"augment.zooms={list(self.zooms)}: give factors above 0, 1 as trained"
            )

    @property
    def views(self) -> int:
        """How often each region is scored."""
        return len(self.zooms) * (1 + self.mirrored)


class AugmentedClassifier:
    """Averages what classifiers make of an image and, if asked, of its mirror image.

    Args:
        classifiers: One at least.
        mirrored: Whether each sees the mirrored image too.
    """

    def __init__(self, classifiers: Sequence[Classifier], *, mirrored: bool) -> None:
        self.classifiers, self.mirrored = list(classifiers), mirrored

    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an image: see ``detect.engine.Classifier``."""
        width = image.shape[-1]
        moved, scores = [], []
        for classifier in self.classifiers:
            found = classifier.score_regions(image, boxes)
            moved.append(found[0])
            scores.append(found[1])
            if self.mirrored:
                found = classifier.score_regions(image.flip(-1), mirror_boxes(boxes, width))
                moved.append(mirror_boxes(found[0], width))
                scores.append(found[1])
        return torch.stack(moved).mean(dim=0), torch.stack(scores).mean(dim=0)


def augment(classifier: Classifier, config: AugmentConfig) -> Classifier:
    """Let a classifier see several views; with one alone as trained, it is returned itself.

    Raises:
        ValueError: If it cannot zoom, as it has no shared trunk.
    """
    if config.views == 1 and config.zooms[0] == 1:
        return classifier
    views: list[Classifier] = []
    for zoom in config.zooms:
        if zoom == 1:
            views.append(classifier)
        elif isinstance(classifier, SharedTrunkClassifier):
            views.append(classifier.zoomed(zoom))
        else:
            raise ValueError(f"augment.zooms={config.zooms} needs regions=shared, backend=torch")
    return AugmentedClassifier(views, mirrored=config.mirrored)
