"""Proposals of many photos, several at a time: interrupted and resumed at will."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proposals.proposer import Proposer, check_threads, proposer_settings
from proposals.store import ProposalFile, StoredPhoto, write_proposal_file
from proposals.working_file import REMEDY, SettingsMismatch, WorkingFile, check_settings

logger = logging.getLogger(__name__)

_Result = tuple[StoredPhoto, Tensor | None]  # no boxes: they are stored already


class UnreadableError(ValueError):
    """A photo that cannot be used; the message is the reason, without the photo's name."""


@dataclass(frozen=True)
class PhotoSource:
    """A photo to propose boxes for; where it comes from is not this package's business.

    Attributes:
        name: Different from that of every other photo.
        digest: Gives the SHA-256 of its file, hexadecimal.
        load: Reads it, RGB uint8 ``[3, H, W]``.
    """

    name: str
    digest: Callable[[], str]
    load: Callable[[], Tensor]


@dataclass
class ProposalOutcome:
    """What a computation did.

    Attributes:
        num_photos: In the file.
        num_boxes: Of all photos together.
        num_computed: Photos that were not in the file before.
        seconds: From start to end.
        skipped: Name and reason of every photo that could not be used.
    """

    num_photos: int = 0
    num_boxes: int = 0
    num_computed: int = 0
    seconds: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def compute_proposals(
    sources: Sequence[PhotoSource],
    proposer: Proposer,
    path: str | Path,
    *,
    workers: int = 1,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[], object] = lambda: None,
) -> ProposalOutcome:
    """Propose boxes for every photo and write them into one file.

    Photos whose content the file, or what an interrupted computation left of it, already knows are
    not computed again. The finished file has the same bytes for any number of workers and after
    any interruptions. It holds these photos and no others; until it is finished, the disk holds
    them twice. A photo that cannot be used is left out and named.

    Args:
        sources: The photos, in the order they get in the file.
        proposer: Finds the boxes; several threads call it at the same time.
        path: The file; ``ProposalFile.open`` reads it.
        workers: Photos in work at the same time, one core each.
        settings: What the boxes depend on beside the photo, as JSON can hold it; by default
            ``proposer_settings(proposer)``.
        overwrite: Replace proposals that were made with other settings.
        on_progress: Called after each photo.

    Raises:
        SettingsMismatch: If proposals on disk were made with other settings.
        FileBusy: If another process computes the same file.
        ValueError: If two photos have the same name, ``workers`` is no positive number or more
            than one while the proposer has threads of its own, or the file is no file of proposals.
    """
    start = time.perf_counter()
    path = Path(path)
    _check_request(sources, proposer, workers)
    settings = dict(proposer_settings(proposer) if settings is None else settings)
    outcome = ProposalOutcome()
    partial_path = path.with_name(f"{path.name}.partial")
    with WorkingFile.open(partial_path, settings, overwrite=overwrite) as working:
        finished = _open_finished(path, settings, overwrite)
        before = [] if finished is None else finished.photos()
        known = working.photos, {photo.name: photo for photo in before}
        photos = []
        with closing(_in_turn(sources, partial(_propose, proposer, known), workers)) as turns:
            for name, future in turns:
                photo = _collect(name, future, working, outcome)
                if photo is not None:
                    photos.append(photo)
                on_progress()
        if finished is None or photos != before:
            boxes = (_stored_boxes(photo, working, finished) for photo in photos)
            write_proposal_file(path, settings, photos, boxes)
        working.remove()
    outcome.seconds = time.perf_counter() - start
    outcome.num_photos = len(photos)
    outcome.num_boxes = sum(photo.num_boxes for photo in photos)
    return outcome


def _check_request(sources: Sequence[PhotoSource], proposer: Proposer, workers: int) -> None:
    """Refuse what cannot be served, before anything is written."""
    if workers < 1:
        raise ValueError(f"workers must be 1 or more: got {workers}")
    check_threads(workers, proposer)
    names = Counter(source.name for source in sources)
    repeated = next((name for name, count in names.items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"two photos have the name {repeated!r}: names must differ")


def _open_finished(path: Path, settings: Mapping[str, Any], overwrite: bool) -> ProposalFile | None:
    """Open the file of an earlier computation, if there is one to go on from."""
    try:
        finished = ProposalFile.open(path)
        check_settings(path, finished.settings, settings)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if overwrite:
            return None
        if isinstance(error, SettingsMismatch):
            raise
        raise ValueError(f"{error}: {REMEDY}") from error
    return finished


def _in_turn(
    sources: Sequence[PhotoSource], work: Callable[[PhotoSource], _Result], workers: int
) -> Generator[tuple[str, Future[_Result]], None, None]:
    """Do the work for every source in threads; give the results in the order of the sources.

    Only a few are ahead of the one that is waited for: results take memory until they are stored.
    """
    # One core each: no thread waits for another's, and sums are taken in the same order.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[tuple[str, Future[_Result]]] = deque()
    try:
        for source in sources:
            pending.append((source.name, pool.submit(work, source)))
            if len(pending) > 2 * workers:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _propose(
    proposer: Proposer, known: Sequence[Mapping[str, StoredPhoto]], source: PhotoSource
) -> _Result:
    """Return a photo with its boxes, or without where it is known."""
    digest = source.digest()
    for photos in known:
        photo = photos.get(source.name)
        if photo is not None and photo.digest == digest:
            return photo, None
    image = source.load()
    boxes = proposer(image)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TypeError(f"the proposer gave {list(boxes.shape)} in place of boxes [N, 4]")
    height, width = image.shape[-2:]
    return StoredPhoto(source.name, digest, (height, width), len(boxes)), boxes


def _collect(
    name: str, future: Future[_Result], working: WorkingFile, outcome: ProposalOutcome
) -> StoredPhoto | None:
    """Store what was found on a photo, or note why nothing could be."""
    try:
        photo, boxes = future.result()
    except UnreadableError as error:
        outcome.skipped.append((name, str(error)))
        return None
    except Exception as error:  # whatever one photo does to us, the others are still wanted
        logger.debug("%s", name, exc_info=True)
        outcome.skipped.append((name, " ".join(f"{type(error).__name__}: {error}".split())))
        return None
    if boxes is not None:
        working.append(photo, boxes)
        outcome.num_computed += 1
    return photo


def _stored_boxes(
    photo: StoredPhoto, working: WorkingFile, finished: ProposalFile | None
) -> Tensor:
    if finished is None or working.photos.get(photo.name) == photo:
        return working.boxes(photo.name)
    return finished[photo.name]
