"""Detection over many photos and videos: resumable, and one failure never ends it."""

from __future__ import annotations

import hashlib
import logging
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from detect.detections import Detections
from detect.images import ImageError, ImageSource, is_video, open_regular, read_image
from detect.ledger import Ledger
from detect.report import write_report
from detect.results import ImageResult, tell_skipped, write_results, write_skipped
from detect.videos import iterate_frames
from detect.visualize import draw_detections, save_jpeg
from proposals.proposer import check_threads

logger = logging.getLogger(__name__)

STAGES = ("read", "propose", "reject", "classify", "merge", "draw")
_FRAME = "#{:06d}"  # what a frame's name has behind its video's
_DRAWN = ".drawn.jpg"  # what the drawn copy of anything but a .jpg has behind its name


class OnImages(Protocol):
    """What works on images one by one: a detector, or a classifier of whole images."""

    device: torch.device

    def __call__(
        self, image: Tensor, clock: Callable[[str], AbstractContextManager[None]]
    ) -> Detections:
        """Return what is found on an RGB uint8 image ``[3, H, W]``."""
        ...


class StageClock:
    """Adds up the seconds that each stage takes, over all threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the ``with`` block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start


@dataclass
class RunOutcome:
    """What a run did.

    Attributes:
        results: One for each photo or frame that could be read, in the order of the sources.
        skipped: Name and reason of every source that could not.
        resumed: How many of the results an earlier run had left.
    """

    results: list[ImageResult] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    resumed: int = 0


@dataclass(frozen=True)
class _Done:
    """One photo or frame behind all stages."""

    result: ImageResult
    fingerprint: str
    resumed: bool


class DetectionRun:
    """Detects on sources in their order and notes each result at once.

    Args:
        detector: Detects on one image, such as a ``Detector``.
        ledger: Receives the results, and gives those of an earlier run.
        threads: Images in work at the same time. Every operation is computed by one core, so that
            the results do not depend on how many there are.
        frame_step: Every n-th frame of a video.
        drawn: Folder of the drawn photos, if they are wanted.
        draw_threshold: Least score of a drawn detection.
    """

    def __init__(
        self,
        detector: OnImages,
        ledger: Ledger,
        *,
        threads: int = 1,
        frame_step: int = 1,
        drawn: Path | None = None,
        draw_threshold: float = 0.5,
    ) -> None:
        check_threads(threads, getattr(detector, "proposer", None))
        self.detector = detector
        self.ledger = ledger
        self.threads = threads
        self.frame_step = frame_step
        self.drawn = drawn
        self.draw_threshold = draw_threshold
        self.clock = StageClock()

    def __call__(
        self, sources: Sequence[ImageSource], on_done: Callable[[], object] = lambda: None
    ) -> RunOutcome:
        """Detect on every source; call ``on_done`` after each photo or frame."""
        outcome = RunOutcome()
        on_cpu = self.detector.device.type == "cpu"
        pool = ThreadPoolExecutor(self.threads, initializer=_use_one_core if on_cpu else None)
        pending: deque[tuple[str, Future[_Done]]] = deque()
        try:
            for work in self._submit(sources, pool):
                pending.append(work)
                if len(pending) > 2 * self.threads:
                    self._collect(*pending.popleft(), outcome)
                    on_done()
            while pending:
                self._collect(*pending.popleft(), outcome)
                on_done()
        finally:
            pool.shutdown(cancel_futures=True)
        return outcome

    def _submit(
        self, sources: Sequence[ImageSource], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[str, Future[_Done]]]:
        for source in sources:
            if not is_video(source.path):
                yield source.name, pool.submit(self._do_photo, source)
                continue
            try:
                fingerprint = _fingerprint(source.path)
                for index, frame in iterate_frames(source.path, self.frame_step):
                    name = source.name + _FRAME.format(index)
                    yield (
                        name,
                        pool.submit(self._do_image, name, fingerprint, partial(_same, frame)),
                    )
            except ImageError as error:
                failed: Future[_Done] = Future()
                failed.set_exception(error)
                yield source.name, failed

    def _do_photo(self, source: ImageSource) -> _Done:
        fingerprint = _fingerprint(source.path)
        return self._do_image(source.name, fingerprint, lambda: read_image(source.path))

    def _do_image(self, name: str, fingerprint: str, load: Callable[[], Tensor]) -> _Done:
        target = self.drawn / drawn_name(name) if self.drawn else None
        known = self.ledger.get(name, fingerprint)
        if known and (target is None or target.exists()):
            return _Done(known, fingerprint, resumed=True)
        with self.clock("read"):
            image = load()
        detections = known.detections if known else self.detector(image, self.clock)
        if target:
            with self.clock("draw"):
                save_jpeg(target, draw_detections(image, detections, self.draw_threshold))
        height, width = image.shape[-2:]
        result = ImageResult(name, width, height, detections)
        return _Done(result, fingerprint, resumed=known is not None)

    def _collect(self, name: str, future: Future[_Done], outcome: RunOutcome) -> None:
        try:
            done = future.result()
        except ImageError as error:
            outcome.skipped.append((name, error.reason))
            return
        except Exception as error:  # whatever one photo does to us, the others are still wanted
            logger.debug("%s", name, exc_info=True)
            outcome.skipped.append((name, " ".join(f"{type(error).__name__}: {error}".split())))
            return
        if not done.resumed:
            self.ledger.append(done.result, done.fingerprint)
        outcome.results.append(done.result)
        outcome.resumed += done.resumed


def write_outputs(
    out: Path,
    outcome: RunOutcome,
    sources: Sequence[ImageSource],
    class_names: Sequence[str],
    run: DetectionRun,
    settings: Mapping[str, Any],
) -> None:
    """Write what a run found, in every format, and its page.

    Nothing in the files depends on when or how often the run was interrupted.

    Args:
        out: Folder of the run.
        outcome: What it found.
        sources: What it was asked to read, for the page's photos.
        class_names: Of the classes that labels index.
        run: What found it; says where the photos are drawn and from which score.
        settings: For the page.
    """
    write_results(out, outcome.results, class_names)
    write_skipped(out / "skipped.csv", outcome.skipped)
    names = [result.name for result in outcome.results]
    write_report(
        out / "report.html",
        outcome.results,
        class_names,
        load_photo=_photo_loader(sources),
        skipped=outcome.skipped,
        settings=settings,
        links={name: f"drawn/{drawn_name(name)}" for name in names} if run.drawn else {},
        score_threshold=run.draw_threshold,
    )


def summarise(outcome: RunOutcome, seconds: Mapping[str, float], wall: float, out: Path) -> str:
    """Return the closing lines of a run.

    Args:
        outcome: What it did.
        seconds: Spent in each stage, over all threads.
        wall: Seconds from start to end.
        out: Where the files are.
    """
    done, skipped = outcome.results, outcome.skipped
    boxes = sum(len(result.detections) for result in done)
    fresh = len(done) - outcome.resumed
    lines = [
        f"{len(done)} photos ({outcome.resumed} done before), {boxes} detections, "
        f"{len(skipped)} skipped, {wall:.1f} s"
    ]
    if fresh:
        lines[0] += f", {sum(seconds.values()) / fresh:.2f} core seconds a photo:"
        lines.append("  " + ", ".join(f"{s} {seconds[s] / fresh:.3f}" for s in STAGES))
    lines += tell_skipped(skipped, out / "skipped.csv")
    return "\n".join([*lines, f"results: {out}, to look at: {out / 'report.html'}"])


def drawn_name(name: str) -> str:
    """Return where a photo is drawn, relative to the folder of drawn photos, each elsewhere."""
    kept = name.endswith(".jpg") and not name.endswith(_DRAWN)
    return name if kept else name + _DRAWN


def _photo_loader(sources: Sequence[ImageSource]) -> Callable[[str], Tensor]:
    """Return a function that reads the photo or frame of a result again, by its name."""
    paths = {source.name: source.path for source in sources}

    def load(name: str) -> Tensor:
        if name in paths:
            return read_image(paths[name])
        video, _, index = name.rpartition("#")
        return next(frame for at, frame in iterate_frames(paths[video]) if at == int(index))

    return load


def versions() -> dict[str, str]:
    """Return the versions of everything that results may depend on."""
    packages = ("torch", "torchvision", "numpy", "numba", "opencv-python", "pillow")
    found = {package: metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **found}


def _same(image: Tensor) -> Tensor:
    return image


def _use_one_core() -> None:
    torch.set_num_threads(1)


def _fingerprint(path: Path) -> str:
    """Return a digest of a file's content."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        return digest.hexdigest()[:32]
