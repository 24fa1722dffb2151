"""Proposals of photos and data sets: what proposals/ does not know, files and records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from detect.data.records import Record
from detect.images import (
    ImageError,
    ImageSource,
    find_images,
    is_video,
    open_regular,
    printable,
    read_image,
)
from detect.results import tell_skipped
from proposals.compute import PhotoSource, ProposalOutcome, UnreadableError


def photo_sources(paths: Sequence[str], records: Sequence[Record] | None) -> list[PhotoSource]:
    """List photos from paths, or those of a data set under their names in it.

    Args:
        paths: Files, folders, globs, or ``-`` for a list on standard input.
        records: The data set, in place of paths.

    Raises:
        ValueError: If both are given or neither, there is no photo, or the data set's are not at
            hand.
        FileNotFoundError: If a path does not exist.
    """
    if bool(paths) == (records is not None):
        raise ValueError("give either PATHs or data=...; --help explains")
    images = find_images(paths) if records is None else _record_images(records)
    if not images:
        raise ValueError(f"{' '.join(paths)}: no photo there")
    return [
        PhotoSource(image.name, partial(_digest, image.path), partial(_load, image.path))
        for image in images
    ]


def summarise(outcome: ProposalOutcome, out: Path) -> str:
    """Return the closing lines of a run that wrote the file ``out``."""
    done, computed = outcome.num_photos, outcome.num_computed
    line = f"{done} photos ({done - computed} done before), {outcome.num_boxes} boxes"
    if done:
        line += f" ({outcome.num_boxes / done:.0f} a photo)"
    line += f", {len(outcome.skipped)} skipped, {outcome.seconds:.1f} s"
    if computed:
        line += f", {outcome.seconds / computed:.3f} s a photo"
    lines = [line, *tell_skipped(outcome.skipped, printable(out.with_name("skipped.csv")))]
    return "\n".join([*lines, f"proposals: {printable(out)}"])


def _record_images(records: Sequence[Record]) -> list[ImageSource]:
    images = [ImageSource(record.path, record.name) for record in records if record.path]
    if len(images) < len(records):
        raise ValueError("the data set has annotations without photos: give PATHs instead")
    return images


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
