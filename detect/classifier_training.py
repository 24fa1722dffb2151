"""What a draw of a classifier's training is: parts of photos as section 6 of the paper has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detect.data.imagefolder import ClassifiedPhotos
from detect.googlenet import GoogLeNet, Preprocessing
from detect.images import ImageError, read_image
from detect.objectives import drop, run_blocks
from detect.region_training import distort_colours
from detect.training import Part, epoch_order

SIDE = 224  # pixels of the network's input
_ATTEMPTS = 10  # at a part of the photo that fits into it, before the middle is taken
_INTERPOLATIONS = ("bilinear", "bicubic", "area", "nearest")


@dataclass
class ClassifierSamplingConfig:
    """Which part of a photo is seen, and how it is changed; Szegedy et al. 2014, section 6.

    Raises:
        ValueError: If a share is out of range or a draw has no photo.
    """

    photos_per_draw: int = 32  # that go through the network together, on one core of a CPU
    least_area: float = 0.08  # of the photo, of the smallest part; the paper's 8 %
    aspect: float = 4 / 3  # of the widest part, width by height; its inverse: of the highest
    mirror: bool = True  # every second photo left to right
    colour_jitter: float = 0.4  # brightness, contrast and saturation vary by this share
    interpolation: str = "random"  # bilinear, bicubic, area, nearest, or one of them at random
    dropout: float = 0.4  # share of the features dropped
    auxiliary_weight: float = 0.3  # of each auxiliary classifier's loss; 0: none

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1 or self.aspect < 1:
            raise ValueError(
                f"sampling.least_area={self.least_area} must be above 0, at most 1, and "
                f"sampling.aspect={self.aspect} 1 or more"
            )
        if self.interpolation not in ("random", *_INTERPOLATIONS):
            raise ValueError(
                f"sampling.interpolation={self.interpolation}: choose random or one of "
                f"{', '.join(_INTERPOLATIONS)}"
            )
        if self.photos_per_draw < 1 or self.auxiliary_weight < 0:
            raise ValueError(
                "sampling.photos_per_draw must be 1 or more, sampling.auxiliary_weight not negative"
            )


@dataclass(frozen=True)
class Views:
    """Photos as a draw sees them.

    Attributes:
        inputs: Preprocessed, ``[N, 3, 224, 224]``; fewer where photos cannot be read.
        labels: Their classes, int64 ``[N]``.
    """

    inputs: Tensor
    labels: Tensor


class ClassifierObjective:
    """A GoogLeNet with its auxiliary classifiers on parts of photos.

    Args:
        network: float32, channels last.
        photos: To learn from.
        preprocessing: What the network expects of its input.
        config: Which parts are seen.
        seed: Of the order of photos.

    Attributes:
        broken: Reason by the name of each photo that could not be read so far.
    """

    def __init__(
        self,
        network: GoogLeNet,
        photos: ClassifiedPhotos,
        *,
        preprocessing: Preprocessing,
        config: ClassifierSamplingConfig,
        seed: int = 0,
    ) -> None:
        self.network, self.photos, self.config = network, photos, config
        self.preprocessing, self.seed = preprocessing, seed
        # The trainer counts draws, of several photos each.
        self.num_photos = math.ceil(len(photos.images) / config.photos_per_draw)
        if not config.auxiliary_weight:
            for name in ("aux1", "aux2"):
                setattr(network, name, nn.Identity())
        network.requires_grad_(True)
        self.parts: Sequence[Part] = [Part(network)]
        self.broken: dict[str, str] = {}

    @torch.no_grad()
    def prepare(self, draw: int, generator: torch.Generator) -> Views:
        """Read and vary the photos of a draw: see ``detect.training.Objective``."""
        epoch, place = divmod(draw, self.num_photos)
        count = self.config.photos_per_draw
        order = epoch_order(len(self.photos.images), self.seed, epoch)
        views, labels = [], []
        for photo in order[place * count : (place + 1) * count].tolist():
            source = self.photos.images[photo]
            try:
                image = read_image(source.path)
            except ImageError as error:
                self.broken[source.name] = error.reason
                continue
            views.append(vary(image.to(self.network.device), self.config, generator))
            labels.append(self.photos.labels[photo])
        stacked = torch.cat(views) if views else torch.zeros(0, 3, SIDE, SIDE)
        inputs = self.preprocessing(stacked.to(self.network.device))
        return Views(inputs, torch.tensor(labels, dtype=torch.int64, device=inputs.device))

    def loss(self, prepared: Views, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a draw: see ``detect.training.Objective``."""
        labels, weight = prepared.labels, self.config.auxiliary_weight
        if not len(labels):  # none of them could be read
            nothing = next(self.network.parameters()).sum() * 0
            return nothing, {"loss": math.nan, "auxiliary_loss": math.nan, "top1": math.nan}
        features, auxiliary = run_blocks(
            self.network, prepared.inputs, "conv", generator if weight else None
        )
        logits = self.network.fc(drop(features.float(), self.config.dropout, generator))
        main = F.cross_entropy(logits, labels)
        others = [F.cross_entropy(other.float(), labels) for other in auxiliary]
        loss = main + weight * sum(others) if others else main
        return loss, {
            "loss": main.item(),
            "auxiliary_loss": sum(other.item() for other in others),
            "top1": (logits.argmax(dim=1) == labels).float().mean().item(),
        }


def vary(image: Tensor, config: ClassifierSamplingConfig, generator: torch.Generator) -> Tensor:
    """Show a part of an RGB uint8 image ``[3, H, W]``: 0..255, ``[1, 3, 224, 224]``."""
    top, left, height, width = draw_part((image.shape[-2], image.shape[-1]), config, generator)
    part = image[None, :, top : top + height, left : left + width].float()
    mode = config.interpolation
    if mode == "random":
        mode = _INTERPOLATIONS[int(torch.randint(len(_INTERPOLATIONS), (), generator=generator))]
    smooth = mode in ("bilinear", "bicubic")
    view = F.interpolate(part, (SIDE, SIDE), mode=mode, antialias=smooth).clamp(0, 255)
    if config.mirror and torch.rand((), generator=generator) < 0.5:
        view = view.flip(-1)
    return distort_colours(view, config.colour_jitter, generator)


def draw_part(
    image_size: tuple[int, int], config: ClassifierSamplingConfig, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a part of an image of this height and width: top, left, height, width.

    Its area is uniform between the least and all of the image, its aspect uniform by its
    logarithm. Where ten draws do not fit, it is the largest square in the middle.
    """
    height, width = image_size
    for _ in range(_ATTEMPTS):
        share, lean, x, y = torch.rand(4, generator=generator).tolist()
        area = height * width * (config.least_area + (1 - config.least_area) * share)
        aspect = config.aspect ** (2 * lean - 1)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return round((height - h) * y), round((width - w) * x), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
