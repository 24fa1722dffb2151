"""What tools/train_classifier.py does: photos of classes, training, the best network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from detect.classifier_settings import ClassifierTrainConfig, classifier_recipe
from detect.classifier_training import ClassifierObjective
from detect.classify_run import ErrorRates, judge
from detect.data.imagefolder import ClassifiedPhotos
from detect.data.imagenet import imagenet_names
from detect.data.problems import InputError
from detect.detections import Detections
from detect.devices import choose_device
from detect.distributed import process_group
from detect.files import write_atomically
from detect.googlenet import PREPROCESSING, GoogLeNet
from detect.image_classifier import ImageClassifier
from detect.imagenet import CLASSES_KEY, load_imagenet
from detect.images import ImageError, ImageSource, read_image
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.progress import Progress
from detect.results import ImageResult, write_skipped
from detect.training import epoch_order
from detect.training_loop import fit
from detect.workers import CoreWorkers

FILE_NAME = "googlenet.safetensors"


def train_classifier(
    settings: ClassifierTrainConfig,
    plain: dict[str, Any],
    *,
    read_photos: Callable[..., ClassifiedPhotos],
    progress: Progress,
    say: Callable[[str], object] = print,
) -> int:
    """Train what the settings describe, or go on with it.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
        read_photos: Reads the photos' names and classes, of another ``root`` where one is given.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.

    Returns:
        Exit status: 1 if photos had to be left out.

    Raises:
        ValueError: If a setting or a file cannot be used; nothing is trained then.
    """
    device = choose_device(settings.device)
    photos, held_back = divide(settings, read_photos)
    names = photos.class_names or imagenet_names()
    network = start_network(settings, len(names))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = classifier_recipe(settings, plain) | {"num_photos": len(photos.images)}
    with process_group(device) as group:
        tell = group.first_says(say)
        tell(
            f"{len(photos.images)} photos of {len(set(photos.labels))} classes, "
            f"{len(held_back.images)} held back"
        )
        objective = ClassifierObjective(
            network,
            photos,
            preprocessing=PREPROCESSING["paper"],
            config=settings.sampling,
            seed=settings.seed,
        )
        measured = Measured(network, names, held_back, settings.threads, progress)
        out = Path(settings.out)
        fit(
            settings,
            objective,
            recipe,
            group=group,
            measure=measured.measure if held_back.images else None,
            keep=lambda: save_network(out / FILE_NAME, network, names, recipe),
            progress=progress,
            say=tell,
            training=settings.training_in_draws,
        )
        broken = sorted((objective.broken | measured.broken).items())
        for name, why in broken:
            tell(f"left out: {name}: {why}")
        if group.rank == 0:
            write_skipped(out / "skipped.csv", broken)
            tell(f"weights: {out / FILE_NAME}")
        group.wait()
    return 1 if broken else 0


def start_network(settings: ClassifierTrainConfig, num_classes: int) -> GoogLeNet:
    """Make the network to start from: of nothing, or of weights whose last layers are made anew.

    Raises:
        ValueError: If the weights cannot be used.
    """
    torch.manual_seed(settings.seed)
    if settings.weights is None:
        return GoogLeNet(num_classes, auxiliary=True)
    network = load_imagenet(settings.weights, auxiliary=True)
    if network.layout != "paper":
        raise ValueError(
            f"{settings.weights}: of torchvision's layout, whose batch normalisation is not "
            "trained here; start from BVLC's weights, or from nothing"
        )
    if network.fc.out_features != num_classes:
        network.fc = nn.Linear(network.fc.in_features, num_classes)  # type: ignore[arg-type]
        for auxiliary in (network.aux1, network.aux2):
            auxiliary.fc2 = nn.Linear(auxiliary.fc2.in_features, num_classes)
    return network


def divide(
    settings: ClassifierTrainConfig, read_photos: Callable[..., ClassifiedPhotos]
) -> tuple[ClassifiedPhotos, ClassifiedPhotos]:
    """Read the photos' names; return those to learn from and those to measure on.

    Raises:
        InputError: If photos to measure on have other classes, or none are left to learn from.
    """
    photos, validation = read_photos(), settings.validation
    if validation.root:
        others = read_photos(root=validation.root)
        if others.class_names != photos.class_names:
            raise InputError(f"{validation.root}: has other classes than the training photos")
        return photos, choose(others, draw(len(others.images), validation.photos, settings.seed))
    wanted = math.ceil(validation.fraction * len(photos.images))
    held = draw(len(photos.images), wanted, settings.seed) if wanted else []
    left = sorted(set(range(len(photos.images))) - set(held))
    if not left:
        raise InputError(f"validation.fraction={validation.fraction} leaves no photo to learn from")
    measured = held[: validation.photos or None]
    return choose(photos, left), choose(photos, measured)


def draw(count: int, wanted: int, seed: int) -> list[int]:
    """Choose some of ``count`` places at random; 0: all."""
    return epoch_order(count, seed, -1)[: wanted or None].tolist()


def choose(photos: ClassifiedPhotos, places: Sequence[int]) -> ClassifiedPhotos:
    """Return some of the photos."""
    return ClassifiedPhotos(
        [photos.images[i] for i in places], [photos.labels[i] for i in places], photos.class_names
    )


class Measured:
    """Measures a network on photos, by the centre crop of each.

    Args:
        network: In training.
        names: Of its classes.
        photos: To measure on.
        threads: Photos at the same time on a CPU; 0: one a core.
        progress: Makes a progress bar of a number of steps and what they are.

    Attributes:
        broken: Reason by the name of each photo that cannot be read.
    """

    def __init__(
        self,
        network: GoogLeNet,
        names: Sequence[str],
        photos: ClassifiedPhotos,
        threads: int,
        progress: Progress,
    ) -> None:
        self.network, self.names, self.photos = network, names, photos
        self.threads, self.progress = threads, progress
        self.broken: dict[str, str] = {}

    def measure(self) -> dict[str, float | None]:
        """Return the shares of photos whose class is the best guess, or among the best five."""
        device = self.network.device
        prepared = prepare_network(self.network, dtype=best_precision(device), device=device)
        networks = [(prepared, PREPROCESSING[self.network.layout])]
        classifier = ImageClassifier(networks, self.names, crops=1)
        with self.progress(len(self.photos.images), "validation photos") as bar:

            def classify(source: ImageSource) -> ImageResult | None:
                bar.update()
                try:
                    image = read_image(source.path)
                except ImageError as error:
                    self.broken[source.name] = error.reason
                    return None
                found: Detections = classifier(image)
                return ImageResult(source.name, image.shape[-1], image.shape[-2], found)

            results = CoreWorkers(self.threads).map(classify, self.photos.images)
        pairs = zip(self.photos.images, self.photos.labels, strict=True)
        labels = {source.name: label for source, label in pairs}
        rates: ErrorRates = judge([r for r in results if r is not None], labels)
        return {"top1": 1 - rates.top1_error, "top5": 1 - rates.top5_error}


def save_network(
    path: Path, network: GoogLeNet, names: Sequence[str], recipe: dict[str, Any]
) -> None:
    """Write weights for ``load_imagenet``, with the names of the classes, atomically."""
    tensors: dict[str, Tensor] = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    described = {CLASSES_KEY: json.dumps(list(names)), "training": json.dumps(recipe)}
    write_atomically(path, save(tensors, described))
