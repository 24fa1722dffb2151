"""Region classification with a shared trunk: convolutions once an image, inception 5 a region.

As SPPnet (He et al. 2014) and Fast R-CNN (Girshick 2015) do, conv1 .. 4e run once on the whole
image; every region then samples 14 x 14 points of that map, which is what 4e holds for a 224 x 224
crop, and pool4, 5a, 5b go on as if it had been cropped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from detect.googlenet import PREPROCESSING, GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.imagenet import load_imagenet
from detect.map_operations import CompiledMaxPool
from detect.region_batches import RegionBatches, upload
from detect.region_sampling import sample_and_pool, sample_regions
from detect.shared_geometry import SharedTrunkConfig, map_boxes, resize_image
from detect.workers import CoreWorkers


class SharedTrunk(nn.Module):
    """The whole-image part and the per-region part of one GoogLeNet.

    Args:
        network: A GoogLeNet without classifier.
        preprocessing: What the network expects of its input.
        config: Scale of the image and context of the regions.
    """

    def __init__(
        self, network: GoogLeNet, preprocessing: Preprocessing, config: SharedTrunkConfig
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.config = config

    @classmethod
    def from_imagenet(cls, weights: str | Path, config: SharedTrunkConfig) -> SharedTrunk:
        """Make a trunk of a GoogLeNet trained on ImageNet, without its classifier.

        Args:
            weights: As ``load_imagenet`` takes them.
            config: Scale of the image and context of the regions.

        Raises:
            ValueError: If the file holds no GoogLeNet.
        """
        network = load_imagenet(weights)
        network.fc = nn.Identity()
        network.to(memory_format=torch.channels_last)
        return cls(network, PREPROCESSING[network.layout], config)

    def stem_map(self, image: Tensor, *, mirror: bool = False) -> Tensor:
        """Run conv1 .. pool3 on a uint8 image ``[3, H, W]``: ``[1, 480, h, w]``, channels last."""
        resized = resize_image(image.flip(-1) if mirror else image, self.config)
        inputs = self.preprocessing(resized).to(self.network.device, self.network.dtype)
        return self.network.stem(inputs)

    def image_map(self, image: Tensor) -> Tensor:
        """Run conv1 .. 4e on a uint8 image ``[3, H, W]``: ``[1, 832, h, w]``, channels last."""
        return self.network.inception4(self.stem_map(image))

    def pooled_regions(self, maps: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Sample regions of a map after 4e and run pool4 on them.

        Args:
            maps: The image's map, ``[1, 832, h, w]``.
            boxes: Regions in pixels of the original image, ``[N, 4]``.
            image_size: Its height and width.

        Returns:
            What inception 5 takes, ``[N, 832, 7, 7]``.
        """
        boxes = map_boxes(boxes, image_size, self.config)
        pool = self.network.pool4
        if isinstance(pool, CompiledMaxPool):
            return sample_and_pool(maps, boxes, pool.kernel_size)
        return pool(sample_regions(maps, boxes))  # type: ignore[no-any-return]


class SharedTrunkClassifier(nn.Module):
    """Scores every region of an image from one pass of the trunk.

    Args:
        trunk: The network in its two parts.
        head: Softmax and box regression.
        batch_size: Regions that pass through inception 5 together.
        workers: Cores that share the batches on a CPU.
    """

    def __init__(
        self, trunk: SharedTrunk, head: RegionHead, *, batch_size: int, workers: CoreWorkers
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.batches = RegionBatches(
            self, device=trunk.network.device, batch_size=batch_size, workers=workers
        )

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, C + 1]`` and box offsets ``[N, C, 4]`` of pooled regions."""
        logits, offsets = self.head(self.trunk.network.inception5(regions).float())
        return logits, offsets

    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an RGB uint8 image: see ``detect.engine.Classifier``."""
        size = (image.shape[-2], image.shape[-1])
        image = upload(image, self.trunk.network.device)
        maps = self._image_map(image)

        def cut(part: Tensor) -> Tensor:
            return self.trunk.pooled_regions(maps, part.to(maps.device, non_blocking=True), size)

        return self.batches.score(boxes, cut, size)

    def _image_map(self, image: Tensor) -> Tensor:
        workers = self.batches.workers
        if isinstance(self.trunk.network.pool4, CompiledMaxPool):
            return workers.together(self.trunk.image_map, image)
        # Plain convolutions round differently on one core.
        [maps] = workers.map(self.trunk.image_map, [image])
        return maps
