"""What every source of candidate boxes looks like."""

from __future__ import annotations

import json
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

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


def check_threads(images: int, proposer: Proposer | None) -> None:
    """Refuse to spread work over images and, inside each, over the proposer's own threads.

    Args:
        images: How many are in work at the same time.
        proposer: What searches them, if anything; its attribute ``threads``, if any, counts.

    Raises:
        ValueError: If both are more than one.
    """
    threads = getattr(proposer, "threads", 1)
    if images > 1 and threads > 1:
        raise ValueError(
            f"{images} images at a time with threads={threads} for each would share the cores "
            "twice: set the proposer's threads=1, or work on one image at a time"
        )


def proposer_settings(proposer: Proposer) -> dict[str, Any]:
    """Describe a proposer by its class, and by its ``settings()`` or public attributes.

    ``threads`` is none of them, for no box depends on it.

    Raises:
        ValueError: If these are not plain values, or there are none.
    """
    kind, tell = type(proposer).__qualname__, getattr(proposer, "settings", None)
    values = tell() if tell else vars(proposer)
    values = {k: v for k, v in values.items() if k != "threads" and not k.startswith("_")}
    try:
        if isinstance(proposer, FunctionType) or not values:
            raise TypeError("no attributes")
        described: dict[str, Any] = json.loads(json.dumps({"class": kind, **values}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the attributes of a {kind} do not tell its settings ({error}): give settings="
        ) from error
    return described
