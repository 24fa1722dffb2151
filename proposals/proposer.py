"""What every source of candidate boxes looks like."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Proposer(Protocol):
    """Anything that turns an image into candidate object boxes."""

    def __call__(self, image: Tensor) -> Tensor:
        """Propose where objects may be.

        Args:
            image: RGB, uint8 ``[3, H, W]``.

        Returns:
            Half-open ``xyxy`` boxes in pixels of ``image``, best first, float32 ``[N, 4]``.
        """
        ...
