"""Photos, objects and proposals of a training, checked and complete before it starts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from detect.data.labelled import LabelledPhotos
from detect.data.problems import InputError
from detect.data.records import Record
from detect.data.splits import first, only_classes, split_randomly
from detect.distributed import Group
from detect.progress import Progress
from detect.proposing import photo_sources
from detect.train_settings import TrainConfig
from detect.workers import available_cores
from proposals import Proposer
from proposals.compute import PhotoSource, compute_proposals, proposer_settings
from proposals.proposer import check_threads
from proposals.store import ProposalFile

_TIMED = 3  # photos from which the cost of the others is estimated


BuildData = Callable[..., LabelledPhotos]


@dataclass(frozen=True)
class TrainingData:
    """What a training needs of its photos.

    Attributes:
        train: Photos to learn from.
        validation: Photos to measure on; none where nothing is held back.
        class_names: ``[C]``.
        proposals: Boxes of every photo by its name, ``[N, 4]``.
        notes: What was left out of the data and why, a sentence each.
        skipped: Name and reason of photos that could not be read.
    """

    train: list[Record]
    validation: list[Record]
    class_names: tuple[str, ...]
    proposals: Mapping[str, Tensor]
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class TrainingRun:
    """One training: its settings and what belongs to it for as long as it takes.

    Attributes:
        settings: Of the tool.
        recipe: What the weights depend on.
        data: Photos, objects and proposals.
        group: The processes that train together.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.
    """

    settings: TrainConfig
    recipe: dict[str, Any]
    data: TrainingData
    group: Group
    progress: Progress
    say: Callable[[str], object]

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return Path(self.settings.out)

    @property
    def checkpoint_path(self) -> Path:
        """The best checkpoint so far."""
        return self.out / "checkpoint.safetensors"


class Division(Protocol):
    """How a data set is divided in photos to learn from and photos to measure on."""

    split: str | None
    fraction: float
    photos: int


class PhotoChoice(Protocol):
    """Settings that choose photos."""

    photos: int
    only_classes: list[str]
    seed: int

    @property
    def validation(self) -> Division:
        """Of the photos to measure on."""
        ...


def choose_photos(
    settings: PhotoChoice, build_data: BuildData
) -> tuple[LabelledPhotos, LabelledPhotos | None]:
    """Read the data set and divide it in photos to learn from and photos to measure on.

    Args:
        settings: Of the tool.
        build_data: Reads the data set, with other settings than the chosen ones where given.

    Raises:
        InputError: If files are missing or malformed, or no photo is left.
    """
    photos, held_back = build_data(), None
    if not isinstance(photos, LabelledPhotos):
        raise InputError("data=imagefolder has no objects; choose voc, coco or ilsvrc")
    if settings.only_classes:
        photos = only_classes(photos, settings.only_classes, photos_without=False)
    if settings.validation.split is not None:
        # The same classes in the same order, even where a split lacks some of them.
        names = list(photos.class_names)
        held_back = build_data(split=settings.validation.split, class_names=names)
        if settings.only_classes:
            held_back = only_classes(held_back, names, photos_without=False)
    elif settings.validation.fraction:
        photos, held_back = split_randomly(photos, settings.validation.fraction, settings.seed)
    if settings.photos:
        photos = first(photos, settings.photos, settings.seed)
    if held_back is not None and settings.validation.photos:
        held_back = first(held_back, settings.validation.photos, settings.seed)
    if not photos.records:
        raise InputError("no photo to train on is left; see data=..., photos= and only_classes=")
    return photos, held_back


def load_training_data(
    settings: TrainConfig,
    build_data: BuildData,
    proposer: Proposer,
    *,
    group: Group,
    progress: Progress,
    say: Callable[[str], object],
) -> TrainingData:
    """Read the data set and propose boxes on its photos, where that was not done before.

    Args:
        settings: Of the tool.
        build_data: See ``choose_photos``.
        proposer: Finds the candidate boxes.
        group: The processes that train together; the first one proposes.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.

    Raises:
        InputError: If files are missing or malformed, or no photo is left.
    """
    photos, held_back = choose_photos(settings, build_data)
    validation = [] if held_back is None else list(held_back.records)
    records = _distinct([*photos.records, *validation])
    notes = [*photos.notes, *(held_back.notes if settings.validation.split and held_back else [])]
    path = _proposal_path(Path(settings.cache), records, proposer)
    skipped: list[tuple[str, str]] = []
    if group.rank == 0:
        for note in notes:
            say(f"note: {note}")
        skipped = _propose(records, proposer, path, settings.threads, progress, say)
    group.wait()
    skipped = group.from_first(skipped)
    proposals = ProposalFile.open(path)
    readable = [r for r in photos.records if r.name in proposals]
    if not readable:
        raise InputError(f"none of the {len(photos.records)} training photos can be read")
    return TrainingData(
        train=readable,
        validation=[record for record in validation if record.name in proposals],
        class_names=photos.class_names,
        proposals=proposals,
        notes=notes,
        skipped=skipped,
    )


def _propose(
    records: list[Record],
    proposer: Proposer,
    path: Path,
    threads: int,
    progress: Progress,
    say: Callable[[str], object],
) -> list[tuple[str, str]]:
    """Compute what is missing in the file of proposals; return the photos that were skipped."""
    workers = threads or available_cores()
    check_threads(workers, proposer)
    sources = photo_sources([], records)
    if not path.exists():
        say(f"{len(sources)} photos to propose boxes on: {_estimate(sources, proposer, workers)}")
    with progress(len(sources), "photos") as bar:
        outcome = compute_proposals(
            sources, proposer, path, workers=workers, on_progress=bar.update
        )
    for name, reason in outcome.skipped:
        say(f"left out: {name}: {reason}")
    say(
        f"{outcome.num_photos} photos with {outcome.num_boxes:,} proposals in {path}"
        f" ({outcome.num_computed} photos new, {outcome.seconds:.0f} s)"
    )
    return outcome.skipped


def _estimate(sources: list[PhotoSource], proposer: Proposer, workers: int) -> str:
    """Say what proposals will cost, from the first photos that can be read."""
    counts, seconds = [], []
    for source in sources[: 2 * _TIMED]:
        try:
            image = source.load()
        except ValueError:  # named later, with all others
            continue
        proposer(image)  # the first call compiles
        start = time.perf_counter()
        counts.append(len(proposer(image)))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == _TIMED:
            break
    if not seconds:
        return "none of the first can be read"
    minutes = sum(seconds) / len(seconds) * len(sources) / workers / 60
    megabytes = 16 * sum(counts) / len(counts) * len(sources) / 1e6
    return f"about {minutes:.1f} minutes, {megabytes:.0f} MB"


def _proposal_path(folder: Path, records: list[Record], proposer: Proposer) -> Path:
    """Name a file after the photos and the settings of the proposer; it checks their contents."""
    content = [proposer_settings(proposer), *(record.name for record in records)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return folder / f"proposals-{digest[:12]}.npz"


def _distinct(records: list[Record]) -> list[Record]:
    """Drop photos that come twice.

    Raises:
        InputError: If two photos have one name.
    """
    found: dict[str, Record] = {}
    for record in records:
        other = found.setdefault(record.name, record)
        if other.path != record.path:
            raise InputError(
                f"{other.path} and {record.path} are both called {record.name!r}; rename one"
            )
    return list(found.values())
