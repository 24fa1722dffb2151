"""One self-contained HTML page of a run: the photos, their boxes, counts, settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detect.files import write_atomically
from detect.pages import jpeg_address, load_template, valid_text
from detect.results import ImageResult
from detect.visualize import Colour, class_colour, encode_jpeg, text_colour

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

PHOTOS_SHOWN = 200  # with thumbnail and boxes: about 60 kB each
PHOTOS_LISTED = 2000  # by name, the shown ones included
BOXES_A_PHOTO = 300  # the best ones
THUMBNAIL_SIDE = 640  # pixels of the longest side
SCORE_STEPS = 100

logger = logging.getLogger(__name__)


def write_report(
    path: Path,
    results: Sequence[ImageResult],
    class_names: Sequence[str],
    *,
    load_photo: Callable[[str], Tensor],
    skipped: Sequence[tuple[str, str]] = (),
    summary: Mapping[str, object] | None = None,
    settings: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
    score_threshold: float = 0.5,
) -> None:
    """Write the page, atomically. It fetches nothing, and equal input gives equal bytes.

    The page filters by score, class and name by itself. It shows the first ``PHOTOS_SHOWN`` photos,
    names the first ``PHOTOS_LISTED``, counts all, and says so.

    Args:
        path: The page to write.
        results: What was found, in the order of the photos.
        class_names: Names of the classes that labels index, ``[C]``.
        load_photo: Gives a photo by its name, RGB uint8 ``[3, H, W]``; asked for the photos shown
            only. Where it raises ``OSError`` or ``ValueError``, boxes stand on a blank ground.
        skipped: Photos that could not be read, each with the reason.
        summary: Facts for the head of the page, such as seconds a photo.
        settings: Settings of the run, nested.
        links: Path of a photo's file by its name, relative to the page.
        score_threshold: Where the score slider stands at first.
    """
    edges = _score_edges(results)
    start = min(int(np.searchsorted(edges, score_threshold)), SCORE_STEPS)
    classes, position = _describe_classes(results, class_names, edges, start)
    photos = []
    for i, result in enumerate(results[:PHOTOS_LISTED]):
        photos.append(_describe_photo(result, position, links or {}, placed=i < PHOTOS_SHOWN))
    for photo, result in zip(photos[:PHOTOS_SHOWN], results, strict=False):
        photo["thumbnail"] = _thumbnail(load_photo, result.name)
    html = load_template("report.html.j2").render(
        shown=photos[:PHOTOS_SHOWN],
        listed=photos[PHOTOS_SHOWN:],
        num_photos=len(results),
        classes=classes,
        num_unseen=len(class_names) - len(classes),
        start=start,
        steps=SCORE_STEPS,
        boxes_a_photo=BOXES_A_PHOTO,
        skipped=[(valid_text(name), valid_text(reason)) for name, reason in skipped],
        summary={key: valid_text(str(value)) for key, value in (summary or {}).items()},
        settings=dict(_flat(settings or {})),
        data={
            "edges": edges.tolist(),
            "start": start,
            "classes": classes,
            "photos": [{key: photo[key] for key in ("name", "boxes")} for photo in photos],
        },
    )
    write_atomically(path, html)


def _printed(scores: Tensor) -> Floats:
    """Return scores as the page prints them: its boxes and its counts must agree."""
    printed: Floats = scores.cpu().numpy().astype(np.float64)
    return printed.round(3)


def _score_edges(results: Sequence[ImageResult]) -> Floats:
    """Return the slider's thresholds, ``[SCORE_STEPS + 1]``: 0 to 1 unless scores leave it."""
    scores = [_printed(result.detections.scores) for result in results if len(result.detections)]
    low = min([0.0, *(float(of_photo.min()) for of_photo in scores)])
    high = max([1.0, *(float(of_photo.max()) for of_photo in scores)])
    edges: Floats = np.linspace(np.floor(low), np.ceil(high), SCORE_STEPS + 1, dtype=np.float64)
    return edges.round(4)


def _describe_classes(
    results: Sequence[ImageResult], class_names: Sequence[str], edges: Floats, start: int
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Describe the classes that were found, most frequent first, and map labels to their places."""
    objects, photos = _count(results, len(class_names), edges)
    found = np.flatnonzero(objects[:, 0]).tolist()
    order = sorted(found, key=lambda label: (-objects[label, start], -objects[label, 0], label))
    classes = [
        {
            "name": valid_text(class_names[label]),
            "colour": _css(class_colour(label)),
            "ink": _css(text_colour(class_colour(label))),
            "objects": objects[label].tolist(),
            "photos": photos[label].tolist(),
        }
        for label in order
    ]
    return classes, {label: place for place, label in enumerate(order)}


def _count(
    results: Sequence[ImageResult], num_classes: int, edges: Floats
) -> tuple[Counts, Counts]:
    """Count what each threshold leaves of a class: objects and photos, both ``[C, steps + 1]``."""
    objects = np.zeros((num_classes, len(edges)), dtype=np.int64)
    photos = np.zeros_like(objects)
    for result in results:
        labels = result.detections.labels.cpu().numpy()
        steps = np.searchsorted(edges, _printed(result.detections.scores), "right") - 1
        np.add.at(objects, (labels, steps), 1)
        best = np.full(num_classes, -1)
        np.maximum.at(best, labels, steps)
        present = np.flatnonzero(best >= 0)
        photos[present, best[present]] += 1
    return objects[:, ::-1].cumsum(axis=1)[:, ::-1], photos[:, ::-1].cumsum(axis=1)[:, ::-1]


def _describe_photo(
    result: ImageResult, position: Mapping[int, int], links: Mapping[str, str], *, placed: bool
) -> dict[str, Any]:
    """Describe a photo; its boxes are score, class and, where they are placed, corners."""
    best = result.detections
    best = best[best.scores.argsort(descending=True, stable=True)[:BOXES_A_PHOTO]]
    corners = np.round(best.boxes.cpu().numpy().astype(np.float64), 1).tolist()
    rows = zip(_printed(best.scores).tolist(), best.labels.tolist(), corners, strict=True)
    link = links.get(result.name)
    return {
        "name": valid_text(result.name),
        "width": max(1, result.width),
        "height": max(1, result.height),
        "link": None if link is None else quote(link.encode("utf-8", "surrogateescape")),
        "boxes": [[score, position[label], *(box if placed else ())] for score, label, box in rows],
    }


def _thumbnail(load_photo: Callable[[str], Tensor], name: str) -> str | None:
    """Return a small JPEG as a ``data:`` address, or ``None`` if the photo cannot be read."""
    try:
        jpeg = encode_jpeg(load_photo(name), quality=78, longest_side=THUMBNAIL_SIDE)
    except (OSError, ValueError) as error:
        logger.warning("%s is missing in the report: %s", name, error)
        return None
    return jpeg_address(jpeg)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """List nested settings as ``a.b`` and text."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{key}", valid_text(text)


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
