"""Selective search for object recognition (Uijlings et al., IJCV 2013)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proposals.cells import Cells, overlay
from proposals.colour import COLOUR_SPACES
from proposals.compiling import prepare_process
from proposals.evidence import Evidence, describe
from proposals.exact_segmentation import segment_exactly
from proposals.grouping import Hierarchy, group
from proposals.neighbours import Neighbours, find_neighbours, merge_neighbours
from proposals.pixels import Pixels, as_pixels
from proposals.ranking import order_by_evidence, order_by_rcnn
from proposals.region_tree import RegionTree
from proposals.regions import Regions, measure, merge_regions
from proposals.segmentation import edge_weights, segment
from proposals.similarity import compare, parse_similarity
from proposals.texture import texture_codes

_T = TypeVar("_T")
ORDERS = ("evidence", "rcnn")
_MAX_SCALE = 10**8  # far above any use; thresholds stay within 32 bits
_CTSF, _TSF = "colour+texture+size+fill", "texture+size+fill"


@dataclass(frozen=True)
class Preset:
    """What selective search varies: every combination makes one hierarchy of regions."""

    colour_spaces: tuple[str, ...]  # out of COLOUR_SPACES
    scales: tuple[tuple[int, int], ...]  # k and min_size of the segmentation, resized image
    similarities: tuple[str, ...]  # weighted terms: see parse_similarity
    min_side: int = 20  # shortest side of a box, pixels of the resized image (R-CNN)


PRESETS = {
    # What R-CNN used: 8 hierarchies.
    "fast": Preset(("hsv", "lab"), ((50, 50), (100, 100)), (_CTSF, _TSF)),
    # Superpixels twice as large: Szegedy et al. 2014, section 8.
    "googlenet": Preset(("hsv", "lab"), ((100, 100), (200, 200)), (_CTSF, _TSF)),
    # OpenCV's fast mode, which keeps small boxes as well: 12 hierarchies, about as many boxes.
    "opencv": Preset(
        ("hsv", "lab"), ((150, 100), (300, 100), (450, 100)), (_CTSF, _TSF), min_side=10
    ),
    # The "quality" setting of Uijlings et al.: 80 hierarchies.
    "quality": Preset(
        ("hsv", "lab", "rgi", "h", "i"),
        ((50, 50), (100, 100), (150, 150), (300, 300)),
        (_CTSF, _TSF, "fill", "size"),
    ),
}


class _Space(NamedTuple):
    """The image in one colour space and its segmentations, ready for grouping."""

    name: str
    cells: Cells
    regions: Regions  # the cells
    neighbours: Neighbours  # among the cells


class SelectiveSearch:
    """Propose boxes by grouping similar neighbouring regions, in several ways.

    The result depends on the image and the settings alone, not on ``threads``; one object may
    serve many threads.

    Args:
        preset: Name of the ``Preset`` to start from.
        width: Search in the image resized to this many pixels, so that scales mean the same in
            every image; ``None`` searches in the image as it is. Where that would make the height
            more than four times ``width``, the image is resized to that height instead.
        threads: Threads that share the work on one image. To search many images, give each one
            thread and use ``compute_proposals`` with workers.
        max_boxes: At most this many boxes, the best.
        order: ``evidence`` puts first what most looks like an object, ``rcnn`` mixes hierarchies
            at random, late merges first, as R-CNN did.
        seed: Of the random factors of ``order="rcnn"``.
        min_side: Shortest side of a box in pixels of the resized image, in place of the preset's.
            The box of the whole image is exempt, so that every image has at least one proposal.
        sigma: Of the Gaussian blur before the segmentation, in pixels of the resized image; 0
            leaves it out.
        connectivity: Neighbours of a pixel in the segmentation, 4 or 8.
        exact: Segment without rounding colour differences to 1/16 grey level; several times
            slower.
        colour_spaces: Out of hsv, lab, rgb, rgi, h and i (intensity), in place of the preset's.
        scales: ``(k, min_size)`` of each segmentation, in place of the preset's.
        similarities: Such as ``"colour+texture+size+fill"`` or ``"2*texture+fill"``, in place of
            the preset's.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        preset: str = "fast",
        *,
        width: int | None = 500,
        threads: int = 1,
        max_boxes: int | None = None,
        order: str = "evidence",
        seed: int = 0,
        min_side: int | None = None,
        sigma: float = 0.8,
        connectivity: int = 4,
        exact: bool = False,
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
        self.min_side = base.min_side if min_side is None else min_side
        self.width = width
        self.threads = threads
        self.max_boxes = max_boxes
        self.order = order
        self.seed = seed
        self.sigma = sigma
        self.connectivity = connectivity
        self.exact = exact
        self._check_settings()

    def __call__(self, image: Tensor | NDArray[Any]) -> Tensor:
        """Propose boxes.

        Args:
            image: RGB or grey; a tensor ``[3, H, W]``, ``[1, H, W]`` or ``[H, W]``, or an array
                ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``; uint8, or floats in 0..1.

        Returns:
            Distinct half-open ``xyxy`` boxes in pixels of ``image``, best first, float32
            ``[N, 4]`` on the image's device, ``N >= 1``.

        Raises:
            TypeError: If ``image`` is neither a tensor nor an array.
            ValueError: If it is of another shape or type, or out of range.
        """
        pixels = as_pixels(image)
        height, width = pixels.shape[:2]
        resized = self._resize(pixels)
        new_height, new_width = resized.shape[:2]
        size = (new_width, new_height)
        if self.order == "rcnn":
            hierarchies = self._over_segmentations(resized, self._build)
            boxes = order_by_rcnn(hierarchies, *size, seed=self.seed, min_side=self.min_side)
        else:
            evidence = self._over_segmentations(resized, self._describe)
            boxes = order_by_evidence(evidence, *size)
        scaled = boxes[: self.max_boxes] * np.array([width / new_width, height / new_height] * 2)
        clipped = np.clip(scaled, 0, [width, height] * 2).astype(np.float32)
        device = image.device if isinstance(image, Tensor) else None
        return torch.from_numpy(clipped).to(device)

    def region_trees(self, image: Tensor | NDArray[Any]) -> list[RegionTree]:
        """Return the hierarchies that the boxes come from.

        Args:
            image: As for ``__call__``.

        Returns:
            One tree for each colour space, scale and similarity, in this order of nesting.
        """
        return self._over_segmentations(self._resize(as_pixels(image)), self._plant)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"SelectiveSearch({settings})"

    def _check_settings(self) -> None:
        for name in self.colour_spaces:
            if name not in COLOUR_SPACES:
                raise ValueError(f"no colour space {name!r}: there are {', '.join(COLOUR_SPACES)}")
        for similarity in self.similarities:
            parse_similarity(similarity)
        for name in ("colour_spaces", "scales", "similarities"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        if not all(1 <= number <= _MAX_SCALE for scale in self.scales for number in scale):
            raise ValueError(
                f"scales are pairs (k, min_size) from 1 to {_MAX_SCALE}: got {self.scales}"
            )
        for name in ("width", "max_boxes", "threads", "min_side"):
            value = getattr(self, name)
            optional = name in ("width", "max_boxes")
            if not (value is None and optional) and value < 1:
                or_none = ", or None" if optional else ""
                raise ValueError(f"{name} must be 1 or more{or_none}: got {value}")
        if not self.sigma >= 0:
            raise ValueError(f"sigma must be 0 or more: got {self.sigma}")
        if self.connectivity not in (4, 8):
            raise ValueError(f"connectivity must be 4 or 8: got {self.connectivity}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}: got {self.order!r}")

    def _resize(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        if self.width is None:
            return image
        scale = min(self.width / width, 4 * self.width / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)

    def _over_segmentations(
        self, image: Pixels, function: Callable[[_Space, int], list[_T]]
    ) -> list[_T]:
        """Apply a function to every colour space and number of a scale; join what it returns.

        The order of the results does not depend on threads.
        """
        prepare_process()
        if self.threads == 1:
            spaces = (self._convert(image, name) for name in self.colour_spaces)
            return [
                r for space in spaces for i in range(len(self.scales)) for r in function(space, i)
            ]

        def convert(name: str) -> list[Future[list[_T]]]:
            space = self._convert(image, name)
            return [pool.submit(function, space, i) for i in range(len(self.scales))]

        with ThreadPoolExecutor(self.threads) as pool:
            started = [pool.submit(convert, name) for name in self.colour_spaces]
            return [r for parts in started for part in parts.result() for r in part.result()]

    def _convert(self, image: Pixels, name: str) -> _Space:
        """Do what all scales of a colour space share, which is most of their segmentations."""
        colours = COLOUR_SPACES[name](image)
        blurred: NDArray[np.float32] = colours.astype(np.float32)
        if self.sigma > 0:
            smooth = cv2.GaussianBlur(blurred, (0, 0), self.sigma)
            blurred = np.asarray(smooth, dtype=np.float32).reshape(colours.shape)
        weights = edge_weights(blurred, self.connectivity)
        if self.exact:
            options = {"connectivity": self.connectivity}
            maps = [segment_exactly(blurred, *scale, **options) for scale in self.scales]
            labels, numbers = overlay(np.stack(maps).reshape(len(maps), -1))
            cells = Cells(labels.reshape(maps[0].shape), numbers)
        else:
            cells = segment(weights, self.scales)
        count = cells.regions.shape[1]
        regions = measure(cells.labels, count, colours, texture_codes(colours))
        return _Space(name, cells, regions, find_neighbours(cells.labels, count, weights))

    def _grow(self, space: _Space, scale: int) -> tuple[Neighbours, list[Hierarchy]]:
        """Join the regions of one segmentation by every similarity."""
        into = space.cells.regions[scale]
        regions = merge_regions(space.regions, into)
        neighbours = merge_neighbours(space.neighbours, into)
        pairs = compare(regions, neighbours.pairs)
        weights = [parse_similarity(similarity) for similarity in self.similarities]
        return neighbours, [group(regions, pairs, w) for w in weights]

    def _build(self, space: _Space, scale: int) -> list[Hierarchy]:
        return self._grow(space, scale)[1]

    def _describe(self, space: _Space, scale: int) -> list[Evidence]:
        """Gather what speaks for each region."""
        neighbours, hierarchies = self._grow(space, scale)
        height, width = space.cells.labels.shape
        return [describe(h, neighbours, width, height, self.min_side) for h in hierarchies]

    def _plant(self, space: _Space, scale: int) -> list[RegionTree]:
        ways = zip(self.similarities, self._build(space, scale), strict=True)
        labels = space.cells.regions[scale][space.cells.labels]
        return [
            RegionTree(labels, *hierarchy, space.name, self.scales[scale], similarity)
            for similarity, hierarchy in ways
        ]
