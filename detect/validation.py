"""Mean average precision of a network in training, through the detector's own code, from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from detect.checkpoint import Checkpoint
from detect.data.records import Record
from detect.detections import Detections
from detect.engine import assemble
from detect.images import read_image
from detect.merging import MergeConfig, merge_detections
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.scoring import Scores, score_ilsvrc, score_voc
from detect.workers import CoreWorkers, share_cores

METRICS = ("voc", "ilsvrc")


@dataclass
class ValidationConfig:
    """When and on what a detector in training is measured.

    Raises:
        ValueError: If a number is out of range or the metric unknown.
    """

    split: str | None = None  # list of the data set; null: a share of the training photos
    fraction: float = 0.0  # of the training photos that are held back, where there is no split
    photos: int = 300  # at most, chosen at random; 0: all
    every: int = 2000  # steps between two validations, the last one at the end; 0: only then
    patience: int = 0  # validations without a better mAP after which training stops; 0: never
    metric: str = "voc"  # voc (area, IoU 0.5) or ilsvrc (easier for small objects)

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"validation.fraction must be from 0 to below 1: got {self.fraction}")
        if self.metric not in METRICS:
            raise ValueError(f"validation.metric={self.metric}: choose {' or '.join(METRICS)}")
        if min(self.photos, self.every, self.patience) < 0:
            raise ValueError("validation.photos, every and patience must not be negative")


class Validator:
    """Detects on photos and scores what it finds.

    Args:
        records: The photos, every one readable.
        proposals: Boxes of each photo by its name, ``[N, 4]``.
        merge: How scored boxes become detections.
        metric: ``voc`` or ``ilsvrc``.
        threads: Photos in work at the same time on a CPU; 0: one a core.
    """

    def __init__(
        self,
        records: Sequence[Record],
        proposals: Mapping[str, Tensor],
        *,
        merge: MergeConfig,
        metric: str = "voc",
        threads: int = 0,
    ) -> None:
        self.records, self.proposals = list(records), proposals
        self.merge, self.metric, self.threads = merge, metric, threads

    def detect(
        self, checkpoint: Checkpoint, on_done: Callable[[], object] = lambda: None
    ) -> list[Detections]:
        """Detect on every photo, in the precision in which tools/detect.py would.

        Args:
            checkpoint: Network and head as they are now; not changed.
            on_done: Called after each photo.
        """
        device = checkpoint.network.device
        network = prepare_network(checkpoint.network, dtype=best_precision(device), device=device)
        at_once, cores = share_cores(self.threads, len(self.records))
        at_once = 1 if device.type == "cuda" else at_once
        classifier = assemble(
            checkpoint, network, regions=checkpoint.regions, workers=CoreWorkers(cores)
        )

        def detect_on(record: Record) -> Detections:
            assert record.path is not None
            image = read_image(record.path)
            scored = classifier.score_regions(image, self.proposals[record.name])
            found = merge_detections(*scored, self.merge)
            on_done()
            return replace(found, class_names=checkpoint.class_names)

        return CoreWorkers(at_once).map(detect_on, self.records)

    def score(self, found: Sequence[Detections], class_names: Sequence[str]) -> Scores:
        """Score the detections of :meth:`detect`."""
        if self.metric == "ilsvrc":
            return score_ilsvrc(found, self.records, class_names)
        return score_voc(found, self.records, class_names)
