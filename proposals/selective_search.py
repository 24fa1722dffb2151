"""Selective search for object recognition (Uijlings et al., IJCV 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proposals.grouping import find_neighbours, group
from proposals.segmentation import segment
from proposals.similarity import count_features, texture_codes

SIMILARITIES = ("colour", "texture", "size", "fill")


@dataclass(frozen=True)
class Preset:
    """What selective search varies; every combination makes one hierarchy of regions.

    Attributes:
        colour_spaces: Names out of ``COLOUR_SPACES``.
        scales: Pairs ``(k, min_size)`` of the segmentation, in pixels of the resized image.
        similarities: Terms out of ``SIMILARITIES``, joined by ``+``.
    """

    colour_spaces: tuple[str, ...]
    scales: tuple[tuple[int, int], ...]
    similarities: tuple[str, ...]


_FAST = ("colour+texture+size+fill", "texture+size+fill")
PRESETS = {
    # R-CNN's: 8 hierarchies.
    "fast": Preset(("hsv", "lab"), ((50, 50), (100, 100)), _FAST),
    # Superpixels twice as large ("Going deeper with convolutions", section 8).
    "googlenet": Preset(("hsv", "lab"), ((100, 100), (200, 200)), _FAST),
    # Uijlings et al., table 5, "Quality": 80 hierarchies.
    "quality": Preset(
        ("hsv", "lab", "rgi", "h", "i"),
        ((50, 50), (100, 100), (150, 150), (300, 300)),
        (*_FAST, "fill", "size"),
    ),
}


def _rgi(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red and green shares of the intensity, and the intensity."""
    total = image.sum(axis=2, dtype=np.float32)
    shares = image[..., :2] * (255 / np.maximum(total, 1))[..., None]
    return np.dstack([shares, total / 3]).round().astype(np.uint8)


def _repeat(channel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.repeat(channel[..., None], 3, axis=2))


COLOUR_SPACES = {
    "hsv": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL),
    "lab": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2Lab),
    "rgb": lambda image: image,
    "rgi": _rgi,
    "h": lambda image: _repeat(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[..., 0]),
    "i": lambda image: _repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)),
}


class SelectiveSearch:
    """Propose boxes by grouping similar neighbouring regions, in several ways."""

    def __init__(
        self,
        preset: str = "fast",
        *,
        width: int | None = 500,
        max_boxes: int | None = None,
        seed: int = 0,
        min_side: int = 20,
        sigma: float = 0.8,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}: got {preset!r}")
        self.preset = PRESETS[preset]
        self.width = width
        self.max_boxes = max_boxes
        self.seed = seed
        self.min_side = min_side
        self.sigma = sigma

    def __call__(self, image: Tensor) -> Tensor:
        """Propose boxes for an RGB image, uint8 ``[3, H, W]`` -> float32 ``[N, 4]``."""
        _check_image(image)
        height, width = image.shape[1:]
        pixels = self._resize(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        hierarchies = self._hierarchies(pixels)
        boxes = self._rank(hierarchies, pixels.shape[1], pixels.shape[0])
        scale = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2)
        scaled = np.clip(boxes * scale, 0, [width, height] * 2).astype(np.float32)
        return torch.from_numpy(scaled).to(image.device)

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if self.width is None or width == self.width:
            return image
        # A very tall image must not grow without bound.
        scale = min(self.width / width, 4 * self.width / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)

    def _hierarchies(self, image: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
        """Return the boxes of every hierarchy, the initial regions first, ``[2 R - 1, 4]``."""
        hierarchies = []
        weights = [_weights(terms) for terms in self.preset.similarities]
        for name in self.preset.colour_spaces:
            colours = COLOUR_SPACES[name](image)
            codes = texture_codes(colours)
            blurred = cv2.GaussianBlur(colours.astype(np.float32), (0, 0), self.sigma)
            for labels in segment(blurred, self.preset.scales):
                num_regions = int(labels.max()) + 1
                features = count_features(labels, num_regions, colours, codes)
                pairs = find_neighbours(labels, num_regions)
                hierarchies += [group(*features, pairs, w) for w in weights]
        return hierarchies

    def _rank(
        self, hierarchies: Sequence[NDArray[np.int32]], width: int, height: int
    ) -> NDArray[np.int32]:
        """Mix the hierarchies as R-CNN does: early merges late, by a random factor."""
        boxes = np.concatenate(hierarchies)
        ranks = np.concatenate([np.arange(len(h), 0, -1) for h in hierarchies])
        ranks = ranks * np.random.default_rng(self.seed).random(len(ranks))
        boxes = boxes[np.argsort(ranks, kind="stable")]
        sides = boxes[:, 2:] - boxes[:, :2]
        whole = (sides == [width, height]).all(axis=1)
        boxes = boxes[whole | (sides.min(axis=1) >= self.min_side)]
        x1, y1, x2, y2 = boxes.T.astype(np.int64)
        keys = (x1 * (height + 1) + y1) * ((width + 1) * (height + 1)) + x2 * (height + 1) + y2
        _, first = np.unique(keys, return_index=True)
        return boxes[np.sort(first)][: self.max_boxes]


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a uint8 tensor [3, H, W]: got {type(image).__name__}")
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"image must be a uint8 tensor [3, H, W]: got {image.dtype} {list(image.shape)}"
        )


def _weights(terms: str) -> NDArray[np.float64]:
    names = terms.split("+")
    return np.array([float(name in names) for name in SIMILARITIES])
