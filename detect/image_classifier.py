"""Classification of whole images: several views of each, several networks, one average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detect.data.imagenet import imagenet_names
from detect.detections import Detections
from detect.googlenet import PREPROCESSING, GoogLeNet, Preprocessing
from detect.imagenet import class_names_of, load_imagenet
from detect.images import as_image
from detect.multi_crop import CROPS, crop_views
from detect.precision import choose_precision
from detect.prepare import prepare_network

TOP = 5  # classes an image that are kept; ILSVRC's guesses
_BATCH, _GPU_BATCH = 8, 144


class ImageClassifier:
    """Averages the probabilities of views and networks; see ``detect.multi_crop``.

    Args:
        networks: GoogLeNets with a classifier, prepared or not, all of the same classes and on the
            same device, and what each expects of its input.
        class_names: Name of each class, ``[C]``.
        crops: Views of an image: 1, 10 or 144.

    Raises:
        ValueError: If there is no network, classes differ or there is no such number of views.
    """

    def __init__(
        self,
        networks: Sequence[tuple[GoogLeNet, Preprocessing]],
        class_names: Sequence[str],
        *,
        crops: int = 144,
    ) -> None:
        if not networks:
            raise ValueError("weights: give one file at least")
        if crops not in CROPS:
            raise ValueError(f"crops={crops}: choose one of {', '.join(map(str, CROPS))}")
        self.networks, self.class_names, self.crops = list(networks), tuple(class_names), crops
        self.device = networks[0][0].device

    @classmethod
    def load(
        cls,
        weights: Sequence[str | Path],
        *,
        crops: int = 144,
        class_names: Sequence[str] = (),
        device: torch.device | str = "cpu",
        precision: str = "auto",
    ) -> ImageClassifier:
        """Load and prepare networks.

        Args:
            weights: As ``load_imagenet`` takes them, one or several.
            crops: Views of an image.
            class_names: Of the classes; by default those that a file names, or ImageNet's.
            device: Where to compute.
            precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where hardware multiplies it.

        Raises:
            ValueError: If a file cannot be used, or networks and names are of different classes.
        """
        place = torch.device(device)
        dtype = choose_precision(precision, place)
        networks = []
        class_names = tuple(class_names) or next(filter(None, map(class_names_of, weights)), ())
        for path in weights:
            network = load_imagenet(path)
            assert isinstance(network.fc, nn.Linear)
            names = class_names or (imagenet_names() if network.fc.out_features == 1000 else ())
            if network.fc.out_features != len(names):
                raise ValueError(
                    f"{path}: has {network.fc.out_features} classes, where {len(names)} are known"
                )
            prepared = prepare_network(network, dtype=dtype, device=place)
            networks.append((prepared, PREPROCESSING[network.layout]))
        return cls(networks, class_names or imagenet_names(), crops=crops)

    def __call__(
        self,
        image: Tensor | np.ndarray | str | Path,
        clock: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> Detections:
        """Find the most probable classes of an image.

        Args:
            image: A path, an RGB array ``[H, W, 3]`` or tensor ``[3, H, W]``, uint8.
            clock: Asked for a context around each stage, by its name.

        Returns:
            The five most probable classes, best first, their probabilities as scores, each in a box
            about the whole image.

        Raises:
            ImageError: If a path cannot be read as an image.
            ValueError: If an array or tensor is no uint8 RGB image.
        """
        image = as_image(image)
        with clock("classify"):
            probabilities = self.probabilities(image)
        scores, labels = probabilities.topk(min(TOP, len(self.class_names)))
        box = torch.tensor([0.0, 0.0, image.shape[-1], image.shape[-2]])
        found = Detections(box.repeat(len(scores), 1), scores, labels)
        return replace(found, class_names=self.class_names)

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """Return the mean probability of each class over views and networks, ``[C]``."""
        batch = _BATCH if self.device.type == "cpu" else _GPU_BATCH
        views = crop_views(image, self.crops)
        total = torch.zeros(len(self.class_names), device=self.device)
        for network, preprocessing in self.networks:
            for part in views.split(batch):
                inputs = preprocessing(part.to(self.device)).to(network.dtype)
                total += network(inputs).float().softmax(dim=1).sum(dim=0)
        return (total / (len(views) * len(self.networks))).cpu()
