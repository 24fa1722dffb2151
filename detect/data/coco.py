"""COCO: photos and annotations of an ``instances`` file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from detect.data.coco_instances import ANNOTATION_IDS, Instances, read_instances
from detect.data.records import Record


def read_coco(
    annotations: Path, image_root: Path | None = None
) -> tuple[list[Record], tuple[str, ...]]:
    """Read a COCO ground truth for training.

    A record's name is the stem of the file name. Crowds become difficult objects; boxes without
    any area are left out. Labels follow the order of the category ids, which need not be dense.

    Args:
        annotations: An ``instances`` file, plain, .gz or .xz.
        image_root: Folder of the photos; the records have no path without it.

    Returns:
        One record an image, in the order of the file, and the class names ``[C]``.

    Raises:
        InputError: If the file is malformed.
    """
    found = read_instances(annotations, repair=[ANNOTATION_IDS])  # training needs none
    starts = np.searchsorted(found.images, np.arange(len(found.names) + 1))
    records = [
        _record(found, int(i), slice(starts[i], starts[i + 1]), image_root)
        for i in np.argsort(found.positions)
    ]
    return records, found.class_names


def _record(found: Instances, i: int, own: slice, image_root: Path | None) -> Record:
    import torch  # takes longer to load than scoring

    boxes = torch.from_numpy(found.boxes[own].copy())
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    boxes = boxes.float()
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    name = found.names[i]
    return Record(
        name=PurePosixPath(name).stem,
        path=None if image_root is None else image_root / name,
        width=int(found.sizes[i, 0]),
        height=int(found.sizes[i, 1]),
        boxes=boxes[keep],
        labels=torch.from_numpy(found.labels[own].astype(np.int64))[keep],
        difficult=torch.from_numpy(found.crowd[own].copy())[keep],
        image_id=int(found.image_ids[i]),
    )
