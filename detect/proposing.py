"""Proposals of photos and data sets: what proposals/ does not know, files and records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from detect.data.records import Record
from detect.images import ImageError, ImageSource, is_video, open_regular, read_image
from proposals.compute import PhotoSource, ProposalOutcome, UnreadableError


def photo_sources(images: Iterable[ImageSource]) -> list[PhotoSource]:
    """Say how photos are read and told from each other."""
    return [
        PhotoSource(image.name, partial(_digest, image.path), partial(_load, image.path))
        for image in images
    ]


def record_images(records: Sequence[Record]) -> list[ImageSource]:
    """List the photos of a data set, under their names in it.

    Raises:
        ValueError: If the data set's photos are not at hand.
    """
    images = [ImageSource(record.path, record.name) for record in records if record.path]
    if len(images) < len(records):
        raise ValueError("the data set has annotations without photos: give PATHs instead")
    return images


def summarise(outcome: ProposalOutcome, seconds: float, out: Path) -> str:
    """Return the closing lines of a run.

    Args:
        outcome: What it did.
        seconds: From start to end.
        out: The file of the proposals.
    """
    done, computed = outcome.num_photos, outcome.num_computed
    line = f"{done} photos ({done - computed} done before), {outcome.num_boxes} boxes"
    if done:
        line += f" ({outcome.num_boxes / done:.0f} a photo)"
    line += f", {len(outcome.skipped)} skipped, {seconds:.1f} s"
    if computed:
        line += f", {seconds / computed:.3f} s a photo"
    lines = [line, *(f"  skipped {name}: {why}" for name, why in outcome.skipped[:5])]
    if len(outcome.skipped) > 5:
        lines.append(f"  and {len(outcome.skipped) - 5} more, see {out.with_name('skipped.csv')}")
    return "\n".join([*lines, f"proposals: {out}"])


def _digest(path: Path) -> str:
    try:
        if is_video(path):
            raise ImageError(path, "a video: only photos have proposals")
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except ImageError as error:
        raise UnreadableError(error.reason) from error


def _load(path: Path) -> Tensor:
    try:
        return read_image(path)
    except ImageError as error:
        raise UnreadableError(error.reason) from error
