"""The worst errors of a scored data set, with the piece of the photo that shows each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detect.pages import jpeg_address
from detect.scoring.errors import ERRORS, ErrorAnalysis
from detect.scoring.matches import Matches

if TYPE_CHECKING:
    from torch import Tensor

CROP_SIDE = 240  # pixels of a crop's longest side
SURROUNDINGS = 1.5  # side of a crop, in longest sides of what it shows
SMALLEST_CROP = 64  # pixels of the photo, so that a tiny object is seen with its surroundings

Box = tuple[float, float, float, float]  # half-open x1, y1, x2, y2


@dataclass(frozen=True)
class Example:
    """One error.

    Attributes:
        kind: One of ``ERRORS``.
        image: Name of the image.
        size: Width and height of the image in pixels, 0 where unknown.
        detected: Class that was detected; ``None`` of a missed object.
        score: Of the detection, if there is one.
        box: Of the detection, if there is one.
        target: Class of the object that the error is about, if it is about one.
        target_box: Of the object.
        overlap: IoU of both boxes, 0 where either is missing.
    """

    kind: str
    image: str
    size: tuple[int, int]
    detected: str | None
    score: float | None
    box: Box | None
    target: str | None
    target_box: Box | None
    overlap: float

    @property
    def boxes(self) -> list[Box]:
        """The boxes there are, one or two."""
        return [box for box in (self.box, self.target_box) if box is not None]


@dataclass(frozen=True)
class Crop:
    """A piece of a photo.

    Attributes:
        region: What it shows, half-open pixels of the photo.
        address: The JPEG as a ``data:`` address; ``None`` where the photo is not at hand.
    """

    region: Box
    address: str | None


def worst_errors(
    matches: Matches, errors: ErrorAnalysis, count: int
) -> dict[str, tuple[Example, ...]]:
    """Return the false positives of each kind with the best scores, and the largest missed objects.

    Of equal ones, the first in the order of the matches comes first.

    Args:
        matches: What became of every detection.
        errors: Why the false ones are false.
        count: Errors of each kind.
    """
    worst = {}
    for kind, name in enumerate(ERRORS[:-1]):
        chosen = np.flatnonzero(errors.kinds == kind)
        chosen = chosen[_largest(matches.found.scores[chosen], count)]
        targets = errors.targets[chosen]
        worst[name] = _examples(matches, name, chosen, targets, errors.overlaps[chosen])
    missed = np.flatnonzero(errors.missed)
    sides = matches.truth.corners[missed, 2:] - matches.truth.corners[missed, :2] + 1
    missed = missed[_largest(sides.prod(axis=1), count)]
    none = np.full(len(missed), -1)
    worst[ERRORS[-1]] = _examples(matches, ERRORS[-1], none, missed, np.zeros(len(missed)))
    return worst


def cut_crops(
    examples: Sequence[Example],
    photos: Path,
    on_progress: Callable[[], object] = lambda: None,
) -> tuple[list[Crop], dict[str, str]]:
    """Cut what each example is about out of its photo.

    Args:
        examples: The errors.
        photos: Folder of the photos, searched to its depths; see ``find_photos`` for the names.
        on_progress: Called after each photo.

    Returns:
        One crop an example, and the reason of every photo that is not at hand by its name.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    found = find_photos(photos, {example.image for example in examples})
    crops: list[Crop | None] = [None] * len(examples)
    problems = {}
    for name in dict.fromkeys(example.image for example in examples):
        members = [i for i, example in enumerate(examples) if example.image == name]
        photo, reason = _read(found[name], examples[members[0]].size)
        if photo is None:
            problems[name] = reason
        for i in members:
            crops[i] = _cut(photo, examples[i])
        on_progress()
    return [crop for crop in crops if crop is not None], problems


def find_photos(folder: Path, names: Collection[str]) -> dict[str, Path | str]:
    """Find photos by their names in the ground truth.

    The path in the folder counts more than the file's name, and either more with its suffix than
    without.

    Args:
        folder: Searched to its depths.
        names: With or without suffix and folders.

    Returns:
        The path of each, or the reason why there is none.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    from detect.images import IMAGE_SUFFIXES, find_images  # loads torch, which scoring needs not

    def bare(name: str) -> str:
        suffix = Path(name).suffix
        return name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name

    def keys(name: str) -> list[str]:
        last = name.rpartition("/")[2]
        return [name, bare(name), last, bare(last)]

    wanted = {key for name in names for key in keys(name)}
    by_key: list[dict[str, list[Path]]] = [{}, {}, {}, {}]
    for source in find_images(folder):
        if source.path.suffix.lower() in IMAGE_SUFFIXES:
            for index, key in zip(by_key, keys(source.name), strict=True):
                if key in wanted:
                    index.setdefault(key, []).append(source.path)
    return {name: _choose([i.get(k) for i, k in _trials(by_key, keys(name))]) for name in names}


def crop_region(boxes: Sequence[Box], width: int = 0, height: int = 0) -> Box:
    """Return the square around boxes and their surroundings, as far as it lies in the photo.

    Args:
        boxes: What is to be seen, at least one.
        width: Of the photo in pixels, 0 where unknown.
        height: Likewise.

    Returns:
        Whole pixels, half-open ``x1, y1, x2, y2``, at least one; all of the photo if no box is
        in it.
    """
    corners = np.array(boxes, dtype=np.float64)
    limits = np.array([width or np.inf, height or np.inf])
    low = np.clip(corners[:, :2].min(axis=0), 0, limits)
    high = np.clip(corners[:, 2:].max(axis=0), 0, limits)
    if not (high > low).all():
        low, high = np.zeros(2), np.where(np.isfinite(limits), limits, np.maximum(high, 1))
    side = max(SMALLEST_CROP, SURROUNDINGS * float((high - low).max()))
    start = np.maximum((low + high - side) / 2, 0)
    start = np.maximum(np.minimum(start, limits - side), 0)  # rather moved than cut
    end = np.minimum(np.ceil(start + side), limits)
    x1, y1, x2, y2 = (float(part) for part in (*np.floor(start), *end))
    return x1, y1, x2, y2


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return where the largest values are, largest first, of equal ones the first first."""
    if len(values) > count > 0:  # of millions, sort only those that may be among them
        least = np.partition(values, len(values) - count)[len(values) - count]
        candidates = np.flatnonzero(values >= least)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


def _examples(
    matches: Matches,
    kind: str,
    detections: NDArray[np.integer],
    targets: NDArray[np.integer],
    overlaps: NDArray[np.float64],
) -> tuple[Example, ...]:
    """Describe errors by their detections and objects, -1 where there is none."""
    found, truth, names = matches.found, matches.truth, matches.class_names
    examples = []
    for i, j, overlap in zip(detections.tolist(), targets.tolist(), overlaps.tolist(), strict=True):
        image = int(found.images[i] if i >= 0 else truth.images[j])
        examples.append(
            Example(
                kind=kind,
                image=truth.names[image],
                size=(int(truth.sizes[image, 0]), int(truth.sizes[image, 1])),
                detected=names[found.labels[i]] if i >= 0 else None,
                score=float(found.scores[i]) if i >= 0 else None,
                box=_half_open(found.corners[i]) if i >= 0 else None,
                target=names[truth.labels[j]] if j >= 0 else None,
                target_box=_half_open(truth.corners[j]) if j >= 0 else None,
                overlap=overlap,
            )
        )
    return tuple(examples)


def _half_open(corners: NDArray[np.float64]) -> Box:
    """Turn 1-based inclusive corners into a half-open box."""
    x1, y1, x2, y2 = corners.tolist()
    return x1 - 1, y1 - 1, x2, y2


def _trials(
    by_key: Sequence[Mapping[str, list[Path]]], keys: Sequence[str]
) -> list[tuple[Mapping[str, list[Path]], str]]:
    """Return where to look for which key, best first: both with suffix, one without, then names."""
    full, bare, last, bare_last = keys
    return [
        (by_key[0], full),
        (by_key[1], full),
        (by_key[1], bare),
        (by_key[2], last),
        (by_key[3], last),
        (by_key[3], bare_last),
    ]


def _choose(trials: Sequence[list[Path] | None]) -> Path | str:
    """Return the only path of the first trial that found any, or what is wrong."""
    from detect.images import printable

    paths = next((paths for paths in trials if paths), [])
    if not paths:
        return "no such photo in the folder"
    if len(paths) > 1:
        shown = ", ".join(printable(path) for path in paths[:2])
        return f"{len(paths)} files have this name: {shown}{', ...' if len(paths) > 2 else ''}"
    return paths[0]


def _read(path: Path | str, size: tuple[int, int]) -> tuple[Tensor | None, str]:
    """Return a photo, or the reason why its boxes cannot be shown on it."""
    from detect.images import ImageError, read_image

    if isinstance(path, str):
        return None, path
    try:
        photo = read_image(path)
    except ImageError as error:
        return None, error.reason
    height, width = photo.shape[-2:]
    if all(size) and size != (width, height):
        reason = f"is {width} x {height} pixels, and {size[0]} x {size[1]} in the annotations"
        return None, reason
    return photo, ""


def _cut(photo: Tensor | None, example: Example) -> Crop:
    from detect.visualize import encode_jpeg

    if photo is None:
        return Crop(crop_region(example.boxes, *example.size), None)
    height, width = photo.shape[-2:]
    region = crop_region(example.boxes, width, height)
    x1, y1, x2, y2 = (int(part) for part in region)
    jpeg = encode_jpeg(photo[:, y1:y2, x1:x2], quality=80, longest_side=CROP_SIDE)
    return Crop(region, jpeg_address(jpeg))
