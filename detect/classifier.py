"""Region classification by crops, as R-CNN and the paper do it."""

from __future__ import annotations

from torch import Tensor, nn

from detect.crops import CropConfig, crop_boxes
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.region_batches import RegionBatches, upload
from detect.workers import CoreWorkers


class RegionClassifier(nn.Module):
    """Scores regions of an image by warping each to the network's input size.

    Args:
        network: A GoogLeNet without classifier.
        head: Softmax and box regression.
        preprocessing: What the network expects of its input.
        crop: Size, context and fill of the crops.
        batch_size: Crops that pass through the network together.
        workers: Cores that share the batches on a CPU.
    """

    def __init__(
        self,
        network: GoogLeNet,
        head: RegionHead,
        *,
        preprocessing: Preprocessing,
        crop: CropConfig,
        batch_size: int,
        workers: CoreWorkers,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.preprocessing = preprocessing
        self.crop = crop
        self.batches = RegionBatches(
            self.score_inputs,
            device=network.device,
            batch_size=batch_size,
            workers=workers,
            probabilities=head.probabilities,
        )

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, C + 1]`` and box offsets ``[N, C, 4]`` of RGB crops 0..255."""
        return self.score_inputs(self.inputs(crops))

    def inputs(self, crops: Tensor) -> Tensor:
        """Make of RGB crops 0..255 what the network takes, ``[N, 3, S, S]``."""
        return self.preprocessing(crops.to(self.network.device)).to(self.network.dtype)

    def cut(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Warp regions ``[N, 4]`` of an image on the network's device to what it takes."""
        return self.inputs(crop_boxes(image, boxes, self.crop))

    def score_inputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run network and head on preprocessed crops; nothing in it waits for a GPU."""
        logits, offsets = self.head(self.network.features(inputs).float())
        return logits, offsets

    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an RGB uint8 image: see ``detect.engine.Classifier``."""
        image = upload(image, self.network.device)
        size = (image.shape[-2], image.shape[-1])

        return self.batches.score(boxes, lambda part: self.cut(image, part), size)
