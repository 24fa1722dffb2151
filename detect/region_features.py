"""Features of regions, cut and computed as detection does it."""

from __future__ import annotations

from torch import Tensor, nn

from detect.checkpoint import Checkpoint, Regions
from detect.engine import assemble
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.precision import choose_precision
from detect.prepare import prepare_network
from detect.shared_geometry import SharedTrunkConfig
from detect.workers import CoreWorkers


class RegionFeatures:
    """Computes what a head takes of each region, with a network that stays as it is.

    Args:
        network: Trained, without classifier; not changed. Where it lies, it computes.
        preprocessing: What the network expects of its input.
        regions: ``shared`` (from maps of the whole image) or ``crops``.
        shared: Scale and context of shared maps.
        precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where hardware multiplies it.
        workers: Cores for the batches of regions.

    Raises:
        ValueError: If the precision is unknown.
    """

    def __init__(
        self,
        network: GoogLeNet,
        preprocessing: Preprocessing,
        *,
        regions: Regions = "shared",
        shared: SharedTrunkConfig | None = None,
        precision: str = "auto",
        workers: CoreWorkers | None = None,
    ) -> None:
        dtype = choose_precision(precision, network.device)
        prepared = prepare_network(network, dtype=dtype, device=network.device)
        # Detection's own classifier, so that training and detection see the same features.
        self._classifier = assemble(
            Checkpoint(network, _PassOn(), (), preprocessing, shared=shared or SharedTrunkConfig()),
            prepared,
            regions=regions,
            workers=workers or CoreWorkers(),
        )

    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Return features of regions, float32 on the CPU, ``[N, 1024]``.

        Args:
            image: RGB uint8, ``[3, H, W]``.
            boxes: Regions in pixels, ``[N, 4]``.
        """
        _, features = self._classifier.score_regions(image, boxes)
        return features


class _PassOn(RegionHead):
    """A head that returns the features in place of probabilities, and moves no boxes."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # no layers
        self.num_classes = 0

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[N, D]`` and no box offsets, ``[N, 0, 4]``."""
        return features, features.new_zeros(len(features), 0, 4)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what it is given."""
        return logits
