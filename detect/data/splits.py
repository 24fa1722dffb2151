"""Parts of labelled photos: held back, of a few classes, or simply fewer.

What is drawn depends on the names of the photos and a seed alone: not on the order in which a disk
lists them, nor on a library's random numbers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from detect.data.labelled import LabelledPhotos, check_names
from detect.data.problems import InputError
from detect.data.records import Record

_Item = TypeVar("_Item")


def split_randomly(
    photos: LabelledPhotos, fraction: float, seed: int
) -> tuple[LabelledPhotos, LabelledPhotos]:
    """Hold a share of the photos back from training, to measure with.

    A photo stays on the training side if a class would have no object left to learn from there, so
    fewer than the share are held back where classes are rare.

    Args:
        photos: At least 2.
        fraction: Of the photos that are held back, between 0 and 1; at least 1 photo.
        seed: Another draws other photos.

    Returns:
        Those to train with and those held back, both in the order of ``photos``.

    Raises:
        InputError: If there is no such share, or every photo has the only object of some class.
    """
    if not 0 < fraction < 1 or len(photos.records) < 2:
        raise InputError(
            f"a share {fraction:g} of {len(photos.records)} photos cannot be held back; give one "
            "between 0 and 1, and at least 2 photos"
        )
    wanted = min(max(1, round(fraction * len(photos.records))), len(photos.records) - 1)
    classes = {r.name: set(r.labels[~r.difficult].tolist()) for r in photos.records}
    remaining = Counter(label for found in classes.values() for label in found)
    held: set[str] = set()
    for name in _drawn(photos.records, seed):
        if len(held) < wanted and all(remaining[label] > 1 for label in classes[name]):
            held.add(name)
            remaining.subtract(classes[name])
    if not held:
        raise InputError(
            "no photo can be held back: each has the only object of some class; label more"
        )
    return (
        replace(photos, records=[r for r in photos.records if r.name not in held]),
        replace(photos, records=[r for r in photos.records if r.name in held]),
    )


def only_classes(
    photos: LabelledPhotos, names: Sequence[str], *, photos_without: bool
) -> LabelledPhotos:
    """Keep the objects of some classes, for a small experiment.

    Args:
        photos: Of any classes.
        names: The classes to keep, in the order of their new labels.
        photos_without: Keep photos without an object of them too, which are all background.

    Raises:
        InputError: If a class is not among those of the photos, or no object is left.
    """
    chosen = check_names(names, photos.class_names)
    new_labels = torch.full((len(photos.class_names),), -1)
    for label, name in enumerate(chosen):
        new_labels[photos.class_names.index(name)] = label
    records, left_out = [], 0
    for record in photos.records:
        labels = new_labels[record.labels]
        keep = labels >= 0
        left_out += len(keep) - int(keep.sum())
        if photos_without or keep.any():
            records.append(
                replace(
                    record,
                    boxes=record.boxes[keep],
                    labels=labels[keep],
                    difficult=record.difficult[keep],
                )
            )
    if not any(len(record.labels) for record in records):
        raise InputError(f"no photo shows any of the classes {', '.join(chosen)}; choose others")
    gone = len(photos.records) - len(records)
    note = f"{left_out} objects of other classes and {gone} photos without the chosen ones left out"
    return LabelledPhotos(records, chosen, [*photos.notes, note])


def without_classes(photos: LabelledPhotos, names: Sequence[str]) -> LabelledPhotos:
    """Leave out the photos that show some classes, to see how well they are found unlearned.

    Raises:
        InputError: If a class is not among those of the photos, or no photo is left.
    """
    left_out = {photos.class_names.index(n) for n in check_names(names, photos.class_names)}
    records = [r for r in photos.records if not left_out & set(r.labels.tolist())]
    if not records:
        raise InputError(f"every photo shows {' or '.join(names)}; leave out fewer classes")
    gone = len(photos.records) - len(records)
    note = f"{gone} photos that show {', '.join(names)} left out"
    return replace(photos, records=records, notes=[*photos.notes, note])


def first(photos: LabelledPhotos, count: int, seed: int) -> LabelledPhotos:
    """Draw a number of photos; more of them include those that fewer are.

    Args:
        photos: Are all kept if they are no more.
        count: 1 or more.
        seed: Another draws other photos.

    Raises:
        InputError: If the number is less than 1.
    """
    if count < 1:
        raise InputError(f"{count} photos: give 1 or more")
    drawn = set(_drawn(photos.records, seed)[:count])
    return replace(photos, records=[r for r in photos.records if r.name in drawn])


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Choose so many items at equal distances; all if they are no more, or the number is 0."""
    if not count or len(items) <= count:
        return list(items)
    return [items[int(i * len(items) / count)] for i in range(count)]


def _drawn(records: Sequence[Record], seed: int) -> list[str]:
    """Return the names of the photos in random order."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()

    return sorted((record.name for record in records), key=key)
