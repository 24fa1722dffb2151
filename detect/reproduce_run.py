"""What tools/reproduce.py does: the paper's tables, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detect.checkpoint import BUNDLED, load_checkpoint
from detect.data.imagefolder import ClassifiedPhotos, image_folder
from detect.data.records import Record
from detect.data.splits import spread
from detect.files import split_paths, write_atomically
from detect.multi_crop import CROPS
from detect.multibox_proposals import default_proposals
from detect.paper_architecture import architecture, format_architecture
from detect.paper_claims import (
    Claim,
    classification_claims,
    detection_claims,
    format_claims,
    network_claims,
    proposal_claims,
)
from detect.progress import Progress
from detect.reproduce_settings import TABLES, ReproduceConfig
from proposals import SelectiveSearch, Union


@dataclass(frozen=True)
class Table:
    """A table of the paper, measured here.

    Attributes:
        name: As the setting ``table`` has it.
        lines: Of Markdown.
        rows: The same for programs.
    """

    name: str
    lines: list[str]
    rows: list[dict[str, Any]]


def make_tables(
    settings: ReproduceConfig, records: Sequence[Record], progress: Progress
) -> Iterator[Table]:
    """Yield the tables that are asked for; of those whose data is not given, a line says so.

    Args:
        settings: Of the tool.
        records: Photos with objects; none where no data set is given.
        progress: Makes a progress bar of a number of steps and what they are.

    Raises:
        ValueError: If a file cannot be used.
    """
    records = spread([r for r in records if len(r.boxes)], settings.photos)
    for name in TABLES if settings.table == "all" else (settings.table,):
        if name == "architecture":
            counted = architecture()
            yield Table(name, list(format_architecture(counted)), [asdict(row) for row in counted])
            continue
        claims = _claims(name, settings, records, progress)
        if isinstance(claims, str):
            yield Table(name, [claims], [])
        else:
            yield Table(name, list(format_claims(claims)), [asdict(claim) for claim in claims])


def _claims(
    name: str, settings: ReproduceConfig, records: Sequence[Record], progress: Progress
) -> list[Claim] | str:
    """Measure a table; or say what is missing for it."""
    if name == "network":
        return network_claims()
    if name == "classification":
        if settings.imagenet is None or settings.weights is None:
            return "not measured: give imagenet=FOLDER and weights=FILE"
        photos = image_folder(settings.imagenet)
        pairs = list(zip(photos.images, photos.labels, strict=True))
        chosen = spread(pairs, settings.photos)
        some = ClassifiedPhotos([image for image, _ in chosen], [label for _, label in chosen])
        with progress(len(chosen) * len(CROPS), "photos") as bar:
            return classification_claims(some, split_paths(settings.weights), bar.update)
    if not records:
        return "not measured: give data=voc data.root=VOC2007 data.split=val"
    checkpoints = [load_checkpoint(path) for path in settings.checkpoints or [str(BUNDLED)]]
    doubled = default_proposals(checkpoints[0], settings.multibox)
    with progress(len(records), "photos") as bar:
        if name == "proposals":
            if isinstance(doubled, Union):  # the paper cut nothing off
                doubled = Union(doubled.proposers, duplicate_iou=doubled.duplicate_iou)
            return proposal_claims(records, SelectiveSearch("fast"), doubled, bar.update)
        return detection_claims(records, checkpoints, doubled, bar.update)


def write_tables(out: Path, tables: Sequence[Table], facts: str) -> None:
    """Write ``tables.md``, headed by facts about the run, and ``tables.json``."""
    text = "".join(f"## {table.name}\n\n" + "\n".join(table.lines) + "\n\n" for table in tables)
    write_atomically(out / "tables.md", f"{facts}\n\n{text}")
    content = {table.name: table.rows for table in tables}
    write_atomically(out / "tables.json", json.dumps(content, indent=1) + "\n")
