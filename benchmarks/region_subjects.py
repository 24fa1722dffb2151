"""What benchmarks/regions.py measures: classifiers, and the images and photos given to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from benchmarks.contestants import Place
from detect.checkpoint import Checkpoint, load_checkpoint
from detect.classifier import RegionClassifier
from detect.engine import assemble
from detect.googlenet import PREPROCESSING, GoogLeNet, Layout
from detect.heads import RegionHead
from detect.prepare import prepare_network
from detect.shared_trunk import SharedTrunkClassifier
from proposals import Proposer

PHOTO_SIZE = (375, 500)  # height and width of VOC2007's usual photo
_COFFEE = Path(skimage.__file__).parent / "data" / "coffee.png"


def checkpoint_of(layout: Layout) -> Checkpoint:
    """Return the bundled checkpoint, or one of torchvision's layout that was never trained."""
    if layout == "paper":
        return load_checkpoint()
    network = GoogLeNet(0, layout=layout).eval()
    return Checkpoint(network, RegionHead(20), ("class",) * 20, PREPROCESSING[layout])


def crop_classifier(checkpoint: Checkpoint, dtype: torch.dtype, place: Place) -> RegionClassifier:
    """Return what classifies regions by their crops, with the prepared network."""
    network = prepare_network(checkpoint.network, dtype=dtype, device=place.device)
    classifier = assemble(checkpoint, network, regions="crops", workers=place.workers)
    assert isinstance(classifier, RegionClassifier)
    return classifier


def shared_classifier(
    checkpoint: Checkpoint, dtype: torch.dtype, place: Place
) -> SharedTrunkClassifier:
    """Return what classifies regions on a map of the image, with the prepared network."""
    network = prepare_network(checkpoint.network, dtype=dtype, device=place.device)
    classifier = assemble(checkpoint, network, regions="shared", workers=place.workers)
    assert isinstance(classifier, SharedTrunkClassifier)
    return classifier


def make_image(height: int, width: int) -> Tensor:
    """Resize one of scikit-image's photos: RGB uint8 ``[3, H, W]``, in a read photo's order."""
    return torch.from_numpy(np.array(_resized(height, width))).permute(2, 0, 1)


def find_photo(voc: Path | None, folder: Path) -> Path:
    """Return a photo of 500 x 375 pixels: VOC2007's first, or one that is made.

    Args:
        voc: Folder of VOC2007, if there is one.
        folder: Where to make it.

    Raises:
        SystemExit: If VOC2007 has none.
    """
    if voc is None:
        path = folder / "coffee.jpg"
        _resized(*PHOTO_SIZE).save(path, quality=95)
        return path
    for path in sorted((voc / "JPEGImages").glob("*.jpg")):
        with Image.open(path) as photo:
            if photo.size == PHOTO_SIZE[::-1]:
                return path
    raise SystemExit(f"{voc}: no JPEGImages/*.jpg of 500 x 375 pixels; give the folder of VOC2007")


def _resized(height: int, width: int) -> Image.Image:
    with Image.open(_COFFEE) as photo:
        return photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


class ExactlyThisMany:
    """A proposer's boxes, cut or repeated to a number.

    Args:
        proposer: Finds the boxes.
        count: How many are wanted.
    """

    def __init__(self, proposer: Proposer, count: int) -> None:
        self.proposer = proposer
        self.count = count

    def __call__(self, image: Tensor) -> Tensor:
        """Return so many boxes, best first, ``[N, 4]``.

        Raises:
            ValueError: If the proposer finds none at all.
        """
        boxes = self.proposer(image)
        if not len(boxes):
            raise ValueError("no proposals in this photo: take another one")
        return boxes.repeat(-(-self.count // len(boxes)), 1)[: self.count]
