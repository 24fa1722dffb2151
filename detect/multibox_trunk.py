"""Maps of features that a MultiBox reads: of a detector's shared trunk, or of GoogLeNet's end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detect.googlenet import GoogLeNet, Preprocessing
from detect.shared_geometry import FIRST_CENTRE, STRIDE, SharedTrunkConfig, resized_size
from proposals.multibox import FeatureMap

INPUT_SIDE = 224  # pixels, of the image or a crop of it in the form of the 2014 paper
_LAST_BLOCKS = {"grid": "inception4e", "whole": "inception5b"}  # what a digest is made of


class PyramidMaps:
    """The maps after 4e at some levels of a shared trunk's pyramid.

    Args:
        image_maps: Runs the trunk: takes an image and places in the pyramid, returns the maps,
            ``[1, C, h, w]``, by place; see ``SharedTrunkClassifier.image_maps``.
        config: Of the trunk.
        factors: The levels, by their factors in the pyramid.
        digest: Tells the trunk from others; see ``trunk_digest``.

    Raises:
        ValueError: If the pyramid lacks a level.
    """

    def __init__(
        self,
        image_maps: Callable[[Tensor, Sequence[int]], Mapping[int, Tensor]],
        config: SharedTrunkConfig,
        factors: Sequence[float],
        digest: str = "",
    ) -> None:
        config.check_levels(factors)
        self.image_maps, self.config, self.digest = image_maps, config, digest
        self.factors = tuple(factors)
        self.levels = [config.pyramid.index(factor) for factor in factors]

    def are_those_of(self, config: SharedTrunkConfig, digest: str) -> bool:
        """Tell whether another trunk makes the same maps, and perhaps more."""
        sizes = (self.config.shorter_side, self.config.max_side)
        return (
            digest == self.digest
            and sizes == (config.shorter_side, config.max_side)
            and set(self.factors) <= set(config.pyramid)
        )

    def __call__(self, image: Tensor) -> list[FeatureMap]:
        """Return the map of every level of an RGB uint8 image ``[3, H, W]``, in their order."""
        size = (image.shape[-2], image.shape[-1])
        maps = self.image_maps(image, self.levels)
        pyramid = self.config.pyramid
        return [locate_map(maps[level], size, self.config, pyramid[level]) for level in self.levels]


def locate_map(
    values: Tensor, image_size: tuple[int, int], config: SharedTrunkConfig, factor: float = 1.0
) -> FeatureMap:
    """Say where in an image of this height and width a level's map lies."""
    height, width = resized_size(image_size, config, factor)
    x, y = image_size[1] / width, image_size[0] / height  # pixels of the image for one at the level
    return FeatureMap(values, (FIRST_CENTRE * x, FIRST_CENTRE * y), (STRIDE * x, STRIDE * y))


class WholeImageFeatures:
    """One vector of features of the image, and of crops of it: the form of the 2014 paper.

    Args:
        network: Where they come from, without classifier.
        preprocessing: What the network expects of its input.
        crop_scales: Share of the image's sides that crops have; 1 is the image itself. Crops of
            less overlap by half.
    """

    def __init__(
        self,
        network: GoogLeNet,
        preprocessing: Preprocessing,
        crop_scales: Sequence[float] = (1.0,),
    ) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.crop_scales = tuple(crop_scales)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> list[FeatureMap]:
        """Return a map of one point for each crop of an RGB uint8 image ``[3, H, W]``."""
        windows = place_crops((image.shape[-2], image.shape[-1]), self.crop_scales)
        inputs = torch.cat([warp(image, window) for window in windows])
        inputs = self.preprocessing(inputs.to(self.network.device)).to(self.network.dtype)
        features = self.network.features(inputs)  # [N, 1024]
        return [whole_map(row[None], window) for row, window in zip(features, windows, strict=True)]


Window = tuple[int, int, int, int]  # left, top, width, height, pixels


def place_crops(image_size: tuple[int, int], scales: Sequence[float]) -> list[Window]:
    """Return the crops of an image of this height and width."""
    windows = []
    for scale in scales:
        steps = max(1, round(2 * (1 / scale - 1)) + 1)
        height, width = (max(1, round(side * scale)) for side in image_size)
        for i in range(steps):
            for k in range(steps):
                top = round((image_size[0] - height) * i / max(1, steps - 1))
                left = round((image_size[1] - width) * k / max(1, steps - 1))
                windows.append((left, top, width, height))
    return windows


def warp(image: Tensor, window: Window) -> Tensor:
    """Bring a part of an image to the network's input size, float32 0..255, ``[1, 3, S, S]``."""
    left, top, width, height = window
    part = image[None, :, top : top + height, left : left + width].float()
    return F.interpolate(part, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True)


def whole_map(features: Tensor, window: Window) -> FeatureMap:
    """Make a map of one point, in the middle of a window, of its features ``[1, 1024]``."""
    left, top, width, height = window
    return FeatureMap(
        features[:, :, None, None], (left + width / 2, top + height / 2), (width, height)
    )


def trunk_digest(network: GoogLeNet, form: str) -> str:
    """Return a digest of the trunk's last block, by which a MultiBox knows what it learned from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if key.startswith(_LAST_BLOCKS[form]):
            digest.update(tensor.half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
