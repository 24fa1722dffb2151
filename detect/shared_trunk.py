"""Region classification with a shared trunk: convolutions once an image, inception 5 a region.

As SPPnet (He et al. 2014) and Fast R-CNN (Girshick 2015) do, conv1 .. 4e run once on the whole
image, at one size or at several; every region then samples 14 x 14 points of one of these maps,
which is what 4e holds for a 224 x 224 crop, and pool4, 5a, 5b go on as if it had been cropped.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from detect.googlenet import PREPROCESSING, GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.imagenet import load_imagenet
from detect.map_operations import CompiledMaxPool
from detect.region_batches import RegionBatches, upload
from detect.region_sampling import sample_and_pool, sample_regions
from detect.shared_geometry import SharedTrunkConfig, place_regions, resize_image, split_levels
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

    def stem_map(self, image: Tensor, factor: float = 1.0) -> Tensor:
        """Run conv1 .. pool3 on a uint8 image ``[3, H, W]``: ``[1, 480, h, w]``, channels last."""
        inputs = self.preprocessing(resize_image(image, self.config, factor))
        return self.network.stem(inputs.to(self.network.device, self.network.dtype))

    def image_map(self, image: Tensor, factor: float = 1.0) -> Tensor:
        """Run conv1 .. 4e on a uint8 image ``[3, H, W]``: ``[1, 832, h, w]``, channels last."""
        return self.network.inception4(self.stem_map(image, factor))

    def pooled_boxes(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Sample regions of a map after 4e and run pool4 on them.

        Args:
            maps: The image's map at one level, ``[1, 832, h, w]``.
            boxes: Regions in the coordinates of the map, as ``map_boxes`` makes them, ``[N, 4]``.

        Returns:
            What inception 5 takes, ``[N, 832, 7, 7]``.
        """
        pool = self.network.pool4
        if isinstance(pool, CompiledMaxPool):
            return sample_and_pool(maps, boxes, pool.kernel_size)
        return pool(sample_regions(maps, boxes))  # type: ignore[no-any-return]

    def pyramid_regions(self, maps: Mapping[int, Tensor], regions: Tensor) -> Tensor:
        """Do the same for regions that each come from their own level.

        Args:
            maps: The image's map at every level that a region is cut from.
            regions: Level and box, on the CPU, as ``place_regions`` makes them, ``[N, 5]``.
        """
        parts = [
            self.pooled_boxes(maps[level], boxes.to(maps[level].device, non_blocking=True))
            for level, boxes in split_levels(regions)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # which would copy a single one


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
        self._known = _KnownMaps()
        self.batches = RegionBatches(
            self,
            device=trunk.network.device,
            batch_size=batch_size,
            workers=workers,
            probabilities=head.probabilities,
        )

    def zoomed(self, zoom: float) -> SharedTrunkClassifier:
        """Return one with the same network whose regions are this much larger on their maps."""
        own, config = self.trunk, self.trunk.config
        config = replace(config, region_side=config.region_side * zoom)
        trunk = SharedTrunk(own.network, own.preprocessing, config)
        batches = self.batches
        return SharedTrunkClassifier(
            trunk, self.head, batch_size=batches.batch_size, workers=batches.workers
        )

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, C + 1]`` and box offsets ``[N, C, 4]`` of pooled regions."""
        logits, offsets = self.head(self.trunk.network.inception5(regions).float())
        return logits, offsets

    @torch.inference_mode()
    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an RGB uint8 image: see ``detect.engine.Classifier``."""
        size = (image.shape[-2], image.shape[-1])
        regions, places, cut = self._place(image, boxes)
        moved, scores = self.batches.score(boxes[places], cut, size, regions=regions)
        self._known.forget()
        back = places.argsort()
        return moved[back], scores[back]

    @torch.inference_mode()
    def on_regions(
        self, image: Tensor, boxes: Tensor, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Apply a function to what inception 5 would take of regions, batch by batch.

        The image's maps stay known to the calling thread.

        Args:
            image: RGB, uint8 ``[3, H, W]``.
            boxes: Regions, ``[N, 4]``.
            compute: Takes ``[n, 832, 7, 7]`` and returns ``[n, ...]``.

        Returns:
            What it returned of every region, on the CPU, ``[N, ...]``.
        """
        regions, places, cut = self._place(image, boxes)
        results = self.batches.apply(lambda part: compute(cut(part)), regions)
        return results[places.argsort()]

    def _place(
        self, image: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return what ``place_regions`` does, and what pools such regions from the image's maps."""
        size = (image.shape[-2], image.shape[-1])
        regions, places = place_regions(boxes, size, self.trunk.config)
        maps = self.image_maps(image, [level for level, _ in split_levels(regions)])
        return regions, places, partial(self.trunk.pyramid_regions, maps)

    @torch.inference_mode()
    def image_maps(self, image: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        """Run the trunk on an RGB uint8 image at some levels of the pyramid.

        Maps of the image that the calling thread asked for last are not made again, until its
        regions are scored: a MultiBox may have read them before.

        A level that is more than one core's share of all the work is shared by a CPU's cores,
        operator by operator; the others are computed side by side, the largest first.

        Args:
            image: ``[3, H, W]``.
            levels: Places in the pyramid.

        Returns:
            The maps, ``[1, 832, h, w]``, by level.
        """
        known = self._known.of(image)
        known |= self._run_trunk(image, [level for level in levels if level not in known])
        return {level: known[level] for level in levels}

    def _run_trunk(self, image: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        workers, pyramid = self.batches.workers, self.trunk.config.pyramid
        image = upload(image, self.trunk.network.device)

        def image_map(level: int) -> Tensor:
            return self.trunk.image_map(image, pyramid[level])

        if image.device.type != "cpu":
            return {level: image_map(level) for level in levels}
        work = {level: pyramid[level] ** 2 for level in levels}
        largest_first = sorted(work, key=work.__getitem__, reverse=True)
        share = sum(work.values()) / workers.threads
        # Plain convolutions round differently on one core: those run on one alone.
        packed = isinstance(self.trunk.network.pool4, CompiledMaxPool)
        shared = [level for level in largest_first if packed and work[level] > share]
        alone = [level for level in largest_first if level not in shared]
        maps = {level: workers.together(image_map, level) for level in shared}
        return maps | dict(zip(alone, workers.map(image_map, alone), strict=True))


class _KnownMaps(threading.local):
    """Maps of the image that each thread works on."""

    def __init__(self) -> None:
        self._image: weakref.ref[Tensor] | None = None
        self._maps: dict[int, Tensor] = {}

    def of(self, image: Tensor) -> dict[int, Tensor]:
        """Return the maps of an image by level, to be added to."""
        if self._image is None or self._image() is not image:
            self._image, self._maps = weakref.ref(image), {}
        return self._maps

    def forget(self) -> None:
        """Let go of all maps."""
        self._image, self._maps = None, {}
