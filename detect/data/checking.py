"""Annotated photos -> records to train with: every annotation is checked first, by stated rules.

docs/data.md has the rules in one table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data.annotated import AnnotatedPhotos
from detect.data.photos import read_photo_size
from detect.data.problems import SHOWN, InputError, Kind, Problems
from detect.data.records import Record, make_records

MISSING_PHOTO = Kind("missing_photo", "is not there", "give the folder of the photos, photos=")
UNREADABLE_PHOTO = Kind("unreadable_photo", "keeps its size from being known", "save it again")
REPEATED_PHOTO = Kind(
    "repeated_photo",
    "is the photo of an annotation before it too",
    "join the two, or drop=[repeated_photo] leaves the later one out",
)
EMPTY_BOX = Kind("empty_box", "has no area", "correct or remove it")
OUTSIDE = Kind("outside", "has no part inside its photo", "correct or remove it")
BEYOND_EDGE = Kind("beyond_edge", "reaches beyond the edge of its photo", "correct it")
_LEFT_OUT = {k.name for k in (MISSING_PHOTO, UNREADABLE_PHOTO, EMPTY_BOX, OUTSIDE)}


def checked_records(
    found: AnnotatedPhotos, class_names: Sequence[str] | None, *, drop: Collection[str] = ()
) -> tuple[list[Record], tuple[str, ...], list[str]]:
    """Make records of what can be trained with, and tell what was left out.

    Photos that are not there are left out with their annotations; of the others the objects of
    other classes and the boxes without a part inside the photo. Boxes that reach beyond the edge
    are clipped.

    Args:
        found: What the annotations say.
        class_names: Objects of other classes are left out; ``None`` for the classes found, in
            alphabetical order.
        drop: ``repeated_photo`` leaves out the later of two annotations of one photo.

    Returns:
        The records, their class names, and a sentence on each kind of thing that was left out.

    Raises:
        InputError: If a photo has two annotations, or no photo or no object is left.
    """
    problems = Problems(found.source, _LEFT_OUT | set(drop))
    kept = _photos_at_hand(found, problems)
    problems.raise_if_any()
    labels, class_notes = _choose_classes(found, kept, class_names)
    objects = kept[found.images] & (labels >= 0)
    sizes = _complete_sizes(found, kept, objects, problems)
    _check_left(kept, found, problems)
    objects &= kept[found.images]
    clipped = Problems(found.source, {BEYOND_EDGE.name}, verb="clipped")
    boxes = _clip_boxes(found, sizes, objects, problems, clipped)
    if not objects.any():
        asked = f" ({_named(class_names)})" if class_names else ""
        raise InputError(
            f"{found.source}: no object of any class{asked} on {np.count_nonzero(kept)} photos; "
            "are these the right classes?"
        )
    if class_names is None:
        labels, class_names = _sorted_classes(found.classes, labels, objects)
    rows = np.flatnonzero(kept).tolist()
    records = make_records(
        [found.names[i] for i in rows],
        [found.paths[i] for i in rows],
        sizes=sizes[kept],
        image_ids=[found.image_ids[i] for i in rows],
        images=(np.cumsum(kept) - 1)[found.images[objects]],
        boxes=boxes[objects],
        labels=labels[objects],
        difficult=found.difficult[objects],
    )
    notes = [*problems.notes(), *class_notes, *clipped.notes()]
    notes += _absent_classes(found.source, labels[objects], class_names)
    return records, tuple(class_names), notes


def _photos_at_hand(found: AnnotatedPhotos, problems: Problems) -> NDArray[np.bool_]:
    """Return which images have a photo that no image before them has, ``[I]``."""
    kept = np.ones(len(found.names), dtype=np.bool_)
    seen: set[Path] = set()
    for i, (name, path) in enumerate(zip(found.names, found.paths, strict=True)):
        if path is None:
            problems.add(MISSING_PHOTO, f"image {name}", "its photo")
        elif path in seen:
            problems.add(REPEATED_PHOTO, f"image {name}", str(path))
        else:
            seen.add(path)
            continue
        kept[i] = False
    _check_left(kept, found, problems)
    return kept


def _check_left(kept: NDArray[np.bool_], found: AnnotatedPhotos, problems: Problems) -> None:
    if not len(kept):
        raise InputError(f"{found.source}: no annotation of any photo is left; give others")
    if not kept.any():
        reasons = "".join(f"; {note}" for note in problems.notes())
        raise InputError(
            f"{found.source}: not one of the {len(kept)} photos can be used; "
            f"{MISSING_PHOTO.remedy}{reasons}"
        )


def _choose_classes(
    found: AnnotatedPhotos, kept: NDArray[np.bool_], class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return labels by the asked classes, -1 for others, ``[M]``, and a note on the others."""
    if class_names is None:
        return found.labels, []
    asked = {name: label for label, name in enumerate(class_names)}
    to_asked = np.array([asked.get(name, -1) for name in found.classes], dtype=np.int64)
    labels = to_asked[found.labels]
    others = Counter(found.labels[(labels < 0) & kept[found.images]].tolist()).most_common()
    if not others:
        return labels, []
    named = _named([f"{found.classes[label]} {count}" for label, count in others])
    total = sum(count for _, count in others)
    return labels, [f"{found.source}: {total} left out (unknown_class), of other classes: {named}"]


def _complete_sizes(
    found: AnnotatedPhotos,
    kept: NDArray[np.bool_],
    objects: NDArray[np.bool_],
    problems: Problems,
) -> NDArray[np.int64]:
    """Read the sizes that annotations lack from those photos that have boxes to check.

    Photos that cannot be read are taken out of ``kept``.
    """
    sizes = np.where((found.sizes > 0).all(axis=1, keepdims=True), found.sizes, 0)
    with_boxes = np.bincount(found.images[objects], minlength=len(kept)) > 0
    for i in np.flatnonzero(with_boxes & (sizes[:, 0] == 0)).tolist():
        path = found.paths[i]
        assert path is not None
        size = read_photo_size(path)
        if isinstance(size, str):
            problems.add(UNREADABLE_PHOTO, str(path), size)
            kept[i] = False
        else:
            sizes[i] = size
    return sizes


def _clip_boxes(
    found: AnnotatedPhotos,
    sizes: NDArray[np.int64],
    objects: NDArray[np.bool_],
    problems: Problems,
    clipped: Problems,
) -> NDArray[np.float32]:
    """Clip boxes to their photos, ``[M, 4]``; those of which nothing is left leave ``objects``."""
    limits = np.tile(sizes, 2)[found.images]  # [M, 4]
    inside = np.clip(found.boxes, 0, limits)
    boxes = inside.astype(np.float32)  # in which a sliver may lose its area
    empty = ~(found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    outside = ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1) & ~empty
    changed = (inside != found.boxes).any(axis=1) & ~outside & ~empty
    problems.add_rows(EMPTY_BOX, objects & empty, found.describe)
    problems.add_rows(OUTSIDE, objects & outside, found.describe)
    clipped.add_rows(BEYOND_EDGE, objects & changed, found.describe)
    objects &= ~(empty | outside)
    return boxes


def _sorted_classes(
    classes: Sequence[str], labels: NDArray[np.int64], objects: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return labels by the classes of these objects in alphabetical order, and their names."""
    names = sorted(classes[label] for label in np.unique(labels[objects]))
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of.get(name, -1) for name in classes], dtype=np.int64)[labels], names


def _absent_classes(
    source: str, labels: NDArray[np.int64], class_names: Sequence[str]
) -> list[str]:
    counts = np.bincount(labels, minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if not absent:
        return []
    return [f"{source}: no object of {len(absent)} classes is left: {_named(absent)}"]


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
