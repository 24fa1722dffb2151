"""The second way to train a head: SVMs and ridge regression on a network that stays as it is.

As in R-CNN (Girshick et al. 2014), with two passes over the photos in place of feature files:
the first takes the features of the objects alone, the second those of all regions, photo by photo.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from detect.data.records import Record
from detect.heads import RegionHead
from detect.images import ImageError, read_image
from detect.ridge import RidgeBoxRegression, RidgeConfig, pair_with_objects
from detect.svm import HardNegativeSVMs, SVMConfig
from detect.workers import CoreWorkers
from proposals.overlaps import box_iou

logger = logging.getLogger(__name__)

Features = Callable[[Tensor, Tensor], Tensor]


def train_svm_head(
    features: Features,
    records: Sequence[Record],
    *,
    proposals: Mapping[str, Tensor],
    num_classes: int,
    svm: SVMConfig | None = None,
    ridge: RidgeConfig | None = None,
    workers: CoreWorkers | None = None,
    state_path: Path | None = None,
    save_every: int = 100,
    recipe: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> RegionHead:
    """Train SVMs and box regression on the regions of photos, and join them to a head.

    A photo that cannot be read is left out, and named in a warning.

    Args:
        features: Takes an RGB uint8 image ``[3, H, W]`` and boxes ``[N, 4]``, and returns
            float32 features ``[N, 1024]`` on the CPU, such as ``detect.region_features`` makes.
        records: The training set.
        proposals: Boxes of each photo by its name, ``[N, 4]``.
        num_classes: Without background.
        svm: How to train the SVMs.
        ridge: How to regress boxes.
        workers: Cores that train several classes at the same time.
        state_path: File of the state to go on from; None: none is kept.
        save_every: Photos between two saved states.
        recipe: What else the result depends on; a state with another recipe is refused.
        on_progress: Told the photos that are done and their number; each counts twice.

    Returns:
        A head whose logits, by sigmoid, are probabilities of a class each.

    Raises:
        ValueError: If there are no objects or the state was saved with other settings.
    """
    trainer = _Trainer(
        features,
        records,
        proposals=proposals,
        svms=HardNegativeSVMs(num_classes, svm, workers=workers),
        boxes=RidgeBoxRegression(num_classes, ridge, workers=workers),
        recipe=recipe or {},
    )
    if state_path is not None and state_path.exists():
        trainer.restore(state_path)
    while trainer.next_step < trainer.num_steps:
        trainer.step()
        on_progress(trainer.next_step, trainer.num_steps)
        last = trainer.next_step == trainer.num_steps
        if state_path is not None and (last or trainer.next_step % save_every == 0):
            trainer.save(state_path)
    return trainer.finish()


class _Trainer:
    """Goes twice over the photos of a training set, in the same order, one a step."""

    def __init__(
        self,
        features: Features,
        records: Sequence[Record],
        *,
        proposals: Mapping[str, Tensor],
        svms: HardNegativeSVMs,
        boxes: RidgeBoxRegression,
        recipe: Mapping[str, Any],
    ) -> None:
        self.features, self.proposals = features, proposals
        self.svms, self.boxes = svms, boxes
        generator = torch.Generator().manual_seed(svms.config.seed)
        order = torch.randperm(len(records), generator=generator).tolist()
        self.records = [records[place] for place in order]
        self.num_steps = 2 * len(records)
        self.next_step = 0
        self._unreadable: set[str] = set()
        names = hashlib.sha256("\n".join(record.name for record in records).encode())
        self._settings = {
            "num_classes": boxes.num_classes,
            "photos_sha256": names.hexdigest(),
            "svm": asdict(svms.config),
            "ridge": asdict(boxes.config),
            "recipe": dict(recipe),
        }

    def step(self) -> None:
        """Learn from the next photo."""
        second_pass, place = divmod(self.next_step, len(self.records))
        record = self.records[place]
        try:
            if second_pass:
                self._learn_regions(record)
            elif not record.difficult.all():
                self._learn_objects(record)
        except ImageError as error:
            if record.name not in self._unreadable:
                self._unreadable.add(record.name)
                logger.warning("left out: %s", error)
        self.next_step += 1

    def _learn_objects(self, record: Record) -> None:
        assert record.path is not None
        objects = ~record.difficult
        found = self.features(read_image(record.path), record.boxes[objects])
        self.svms.add_objects(found, record.labels[objects])

    def _learn_regions(self, record: Record) -> None:
        assert record.path is not None
        image = read_image(record.path)
        # An object is a negative of the other classes, as in R-CNN.
        boxes = torch.cat([record.boxes, self.proposals[record.name]])
        found = self.features(image, boxes)
        self.svms.add(found, class_overlaps(boxes, record, self.boxes.num_classes))
        first = len(record.boxes)
        pairs = pair_with_objects(boxes[first:], record, self.boxes.config.least_iou)
        rows = pairs.rows + first
        self.boxes.add(found[rows], boxes[rows], pairs.targets, pairs.labels)

    def finish(self) -> RegionHead:
        """Train the SVMs a last time, solve the regression, and return both as a head."""
        self.svms.finish()
        assert self.svms.scale is not None
        weights, biases = self.svms.logit_weights()
        head = RegionHead(self.boxes.num_classes, "sigmoid")
        parameters = head.state_dict()
        parameters["classifier.weight"][:-1] = weights
        parameters["classifier.bias"][:-1] = biases
        parameters["classifier.weight"][-1] = 0  # of background, which sigmoid ignores
        for name, values in zip(("weight", "bias"), self.boxes.solve(self.svms.scale), strict=True):
            parameters[f"box_regression.{name}"].copy_(values)
        return head.eval()

    def save(self, path: Path) -> None:
        """Write everything that :meth:`restore` needs, atomically."""
        tensors = {f"svm.{key}": tensor for key, tensor in self.svms.state().items()}
        tensors |= {f"ridge.{key}": tensor for key, tensor in self.boxes.state().items()}
        settings = json.dumps(self._settings, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # a killed process may have left it, readable by few
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; save_file's is the owner's alone
        # To a file, as its content in memory would be a copy of up to gigabytes.
        save_file(tensors, temporary, {"step": str(self.next_step), "settings": settings})
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: If it was saved with other settings.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["settings"]) != json.loads(json.dumps(self._settings)):
                raise ValueError(f"{path}: saved with other settings; choose another out= folder")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for prefix, part in (("svm.", self.svms), ("ridge.", self.boxes)):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            part.restore(own)
        self.next_step = int(metadata["step"])


def class_overlaps(boxes: Tensor, record: Record, num_classes: int) -> Tensor:
    """Return the largest IoU of each box with the objects of each class, ``[N, C]``.

    Args:
        boxes: Regions, ``[N, 4]``.
        record: The objects of their image; difficult ones count.
        num_classes: Without background.
    """
    overlaps = torch.zeros(len(boxes), num_classes)
    labels = record.labels.expand(len(boxes), -1)
    return overlaps.scatter_reduce_(1, labels, box_iou(boxes, record.boxes), "amax")
