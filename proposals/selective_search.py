"""Selective search for object recognition (Uijlings et al., IJCV 2013)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proposals.grouping import find_neighbours, group
from proposals.segmentation import segment
from proposals.similarity import measure, texture_codes

Pixels = NDArray[np.uint8]

SIMILARITIES = ("colour", "texture", "size", "fill")
_MAX_SCALE = 10**8  # far above any use; thresholds stay within 32 bits
_CTSF, _TSF = "colour+texture+size+fill", "texture+size+fill"


@dataclass(frozen=True)
class Preset:
    """What selective search varies: every combination makes one hierarchy of regions."""

    colour_spaces: tuple[str, ...]  # out of COLOUR_SPACES
    scales: tuple[tuple[int, int], ...]  # k and min_size of the segmentation, resized image
    similarities: tuple[str, ...]  # terms out of SIMILARITIES joined by "+", equal weights


PRESETS = {
    # What R-CNN used: 8 hierarchies.
    "fast": Preset(("hsv", "lab"), ((50, 50), (100, 100)), (_CTSF, _TSF)),
    # Superpixels twice as large: Szegedy et al. 2014, section 8.
    "googlenet": Preset(("hsv", "lab"), ((100, 100), (200, 200)), (_CTSF, _TSF)),
    # The scales and similarities of OpenCV's fast mode: 12 hierarchies.
    "opencv": Preset(("hsv", "lab"), ((150, 100), (300, 100), (450, 100)), (_CTSF, _TSF)),
    # The "quality" setting of Uijlings et al.: 80 hierarchies.
    "quality": Preset(
        ("hsv", "lab", "rgi", "h", "i"),
        ((50, 50), (100, 100), (150, 150), (300, 300)),
        (_CTSF, _TSF, "fill", "size"),
    ),
}


class SelectiveSearch:
    """Propose boxes by grouping similar neighbouring regions, in several ways.

    The result depends on the image and the settings alone; one object may serve many threads.

    Args:
        preset: Name of the ``Preset`` to start from.
        width: Search in the image resized to this many pixels, so that scales mean the same in
            every image; ``None`` searches in the image as it is. Where that would make the height
            more than four times ``width``, the image is resized to that height instead.
        max_boxes: At most this many boxes, the best.
        seed: Of the random factors that mix the hierarchies.
        min_side: Shortest side of a box in pixels of the resized image. The box of the whole
            image is exempt, so that every image has at least one proposal.
        sigma: Of the Gaussian blur before the segmentation, in pixels of the resized image.
        colour_spaces: In place of the preset's.
        scales: In place of the preset's.
        similarities: In place of the preset's.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        preset: str = "fast",
        *,
        width: int | None = 500,
        max_boxes: int | None = None,
        seed: int = 0,
        min_side: int = 20,
        sigma: float = 0.8,
        colour_spaces: Sequence[str] | None = None,
        scales: Sequence[tuple[int, int]] | None = None,
        similarities: Sequence[str] | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}: got {preset!r}")
        base = PRESETS[preset]
        self.colour_spaces = tuple(base.colour_spaces if colour_spaces is None else colour_spaces)
        self.scales = tuple((k, size) for k, size in (base.scales if scales is None else scales))
        self.similarities = tuple(base.similarities if similarities is None else similarities)
        self.width = width
        self.max_boxes = max_boxes
        self.seed = seed
        self.min_side = min_side
        self.sigma = sigma
        self._check_settings()

    def __call__(self, image: Tensor) -> Tensor:
        """Propose boxes.

        Args:
            image: RGB, uint8 ``[3, H, W]``.

        Returns:
            Distinct half-open ``xyxy`` boxes in pixels of ``image``, best first, float32
            ``[N, 4]`` on the image's device, ``N >= 1``.

        Raises:
            TypeError: If ``image`` is no tensor.
            ValueError: If its type or shape is another, or it has no pixels.
        """
        _check_image(image)
        height, width = image.shape[1:]
        pixels = self._resize(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        new_height, new_width = pixels.shape[:2]
        boxes = self._rank(self._hierarchies(pixels), new_width, new_height)
        scaled = boxes * np.array([width / new_width, height / new_height] * 2)
        clipped = np.clip(scaled, 0, [width, height] * 2).astype(np.float32)
        return torch.from_numpy(clipped).to(image.device)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"SelectiveSearch({settings})"

    def _check_settings(self) -> None:
        for name in self.colour_spaces:
            if name not in COLOUR_SPACES:
                raise ValueError(f"no colour space {name!r}: there are {', '.join(COLOUR_SPACES)}")
        for name in "+".join(self.similarities).split("+"):
            if name not in SIMILARITIES:
                raise ValueError(f"no similarity {name!r}: there are {', '.join(SIMILARITIES)}")
        if not (self.colour_spaces and self.scales):
            raise ValueError("colour_spaces and scales must not be empty")
        if not all(1 <= number <= _MAX_SCALE for scale in self.scales for number in scale):
            raise ValueError(
                f"scales are pairs (k, min_size) from 1 to {_MAX_SCALE}: got {self.scales}"
            )
        for name in ("width", "max_boxes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, or None: got {value}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be more than 0: got {self.sigma}")

    def _resize(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        if self.width is None:
            return image
        scale = min(self.width / width, 4 * self.width / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)

    def _hierarchies(self, image: Pixels) -> list[NDArray[np.int32]]:
        """Return the boxes of every hierarchy, in the order in which regions arise."""
        hierarchies = []
        for name in self.colour_spaces:
            colours = COLOUR_SPACES[name](image)
            codes = texture_codes(colours)
            blurred = cv2.GaussianBlur(colours.astype(np.float32), (0, 0), self.sigma)
            for labels in segment(np.asarray(blurred, dtype=np.float32), self.scales):
                num_regions = int(labels.max()) + 1
                regions = measure(labels, num_regions, colours, codes)
                pairs = find_neighbours(labels, num_regions)
                hierarchies += [group(regions, pairs, _weights(s)) for s in self.similarities]
        return hierarchies

    def _rank(
        self, hierarchies: list[NDArray[np.int32]], width: int, height: int
    ) -> NDArray[np.int32]:
        """Mix the hierarchies as R-CNN does, drop small boxes and duplicates, cut to the budget.

        The last merge of a hierarchy has rank 1, the initial regions the highest ranks; boxes are
        sorted by rank times a random number.
        """
        boxes = np.concatenate(hierarchies)
        ranks = np.concatenate([np.arange(len(h), 0, -1) for h in hierarchies])
        keys = ranks * np.random.default_rng(self.seed).random(len(ranks))
        boxes = boxes[np.argsort(keys, kind="stable")]
        sides = boxes[:, 2:] - boxes[:, :2]
        whole = (sides == [width, height]).all(axis=1)
        boxes = boxes[whole | (sides.min(axis=1) >= self.min_side)]
        # One number for each box, to find duplicates fast.
        x1, y1, x2, y2 = boxes.T.astype(np.int64)
        corners = (x1 * height + y1) * (width * height) + (x2 - 1) * height + (y2 - 1)
        _, first = np.unique(corners, return_index=True)
        return np.asarray(boxes[np.sort(first)][: self.max_boxes])


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a uint8 tensor [3, H, W]: got {type(image).__name__}")
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"image must be a uint8 tensor [3, H, W], H and W >= 1: got {found}")


def _weights(similarity: str) -> NDArray[np.float64]:
    return np.array([float(term in similarity.split("+")) for term in SIMILARITIES])


def _hsv(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)


def _lab(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), dtype=np.uint8)


def _rgi(image: Pixels) -> Pixels:
    """Return red and green as shares of the sum, and the intensity."""
    total = image.sum(axis=2, dtype=np.float32)
    shares = image[..., :2] * (255 / np.maximum(total, 1))[..., None]
    return np.dstack([shares, total / 3]).round().astype(np.uint8)


def _hue(image: Pixels) -> Pixels:
    return np.repeat(_hsv(image)[..., :1], 3, axis=2)


def _intensity(image: Pixels) -> Pixels:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.uint8)


# Each maps RGB to three channels of 0..255, so that one set of scales fits all.
COLOUR_SPACES: dict[str, Callable[[Pixels], Pixels]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgb": np.ascontiguousarray,
    "rgi": _rgi,
    "h": _hue,
    "i": _intensity,
}
