"""The regions behind the boxes: one hierarchy of an image, to be looked at from outside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RegionTree:
    """A hierarchy of regions: ``R`` initial ones, then ``R - 1`` unions in the order they arose.

    All is in pixels of the image that was searched, which is the given one resized to the
    search's ``width``.

    Attributes:
        labels: Initial region of each pixel, int32 ``[H, W]``.
        boxes: Half-open ``xyxy`` box of every region, int32 ``[2 R - 1, 4]``.
        sizes: Pixels of every region, int64 ``[2 R - 1]``.
        parents: The union that each region went into, -1 for the whole image, ``[2 R - 1]``.
        similarities: Of the two parts of each union, 0 for initial regions, ``[2 R - 1]``.
        colour_space: In which the image was segmented and compared.
        scale: Its ``(k, min_size)``.
        similarity: By which regions were joined.
    """

    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    sizes: NDArray[np.int64]
    parents: NDArray[np.int32]
    similarities: NDArray[np.float64]
    colour_space: str
    scale: tuple[int, int]
    similarity: str

    def __len__(self) -> int:
        """Return the number of regions, ``2 R - 1``."""
        return len(self.parents)

    @property
    def num_initial(self) -> int:
        """The number of initial regions, ``R``."""
        return (len(self) + 1) // 2

    @cached_property
    def levels(self) -> NDArray[np.int32]:
        """Merges on the longest way down from every region, 0 for initial ones, ``[2 R - 1]``."""
        levels = np.zeros(len(self), dtype=np.int32)
        for region, parent in enumerate(self.parents[:-1]):  # children come before their parents
            levels[parent] = max(levels[parent], levels[region] + 1)
        return levels

    def mask(self, region: int) -> NDArray[np.bool_]:
        """Return which pixels a region consists of, ``[H, W]``.

        Raises:
            IndexError: If there is no such region.
        """
        if not 0 <= region < len(self):
            raise IndexError(f"no region {region}: there are {len(self)}, from 0")
        inside = np.zeros(len(self), dtype=np.bool_)
        inside[region] = True
        for part in range(region - 1, -1, -1):
            inside[part] = inside[self.parents[part]]
        return np.asarray(inside[self.labels])

    def cut(self, num_regions: int) -> NDArray[np.int32]:
        """Return the segmentation of the moment when so many regions were left.

        Args:
            num_regions: From 1 to ``R``.

        Returns:
            The region of each pixel by its number in the tree, ``[H, W]``.

        Raises:
            ValueError: If ``num_regions`` is out of range.
        """
        if not 1 <= num_regions <= self.num_initial:
            raise ValueError(f"num_regions must be from 1 to {self.num_initial}: got {num_regions}")
        end = len(self) - num_regions + 1  # regions that had arisen
        top = np.arange(len(self), dtype=np.int32)
        for region in range(end - 1, -1, -1):
            parent = self.parents[region]
            if 0 <= parent < end:
                top[region] = top[parent]
        return np.asarray(top[self.labels])
