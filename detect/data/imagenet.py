"""The 1000 classes of ImageNet's classification task, in the order in which networks have them."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the classes of ILSVRC 2012 to 2015, sorted, as Caffe has them."""
    path = Path(__file__).with_name("imagenet_wnids.txt")
    return tuple(path.read_text(encoding="ascii").split())


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return a name for each class: torchvision's, with the id where two have the same."""
    from torchvision.models import GoogLeNet_Weights

    names = GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"]
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(
        f"{name} ({wnid})" if name in repeated else name
        for name, wnid in zip(names, imagenet_wnids(), strict=True)
    )
