"""What tools/train_multibox.py does: data, features, training, the best MultiBox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from detect.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from detect.data.problems import InputError
from detect.data.records import Record
from detect.data.splits import without_classes
from detect.devices import choose_device
from detect.distributed import Group, process_group
from detect.googlenet import MAP_CHANNELS, NUM_FEATURES
from detect.images import ImageError, read_image
from detect.multibox_file import MultiBoxFile, load_multibox, save_multibox
from detect.multibox_proposals import make_proposer
from detect.multibox_settings import MultiBoxTrainConfig, multibox_recipe
from detect.multibox_store import FeatureStore
from detect.multibox_training import (
    LevelShow,
    MultiBoxObjective,
    PartShow,
    Show,
    grid_priors,
    whole_priors,
)
from detect.multibox_trunk import WholeImageFeatures, trunk_digest
from detect.precision import best_precision
from detect.prepare import prepare_network
from detect.progress import Progress
from detect.results import write_skipped
from detect.shared_trunk import SharedTrunk
from detect.train_data import BuildData, choose_photos
from detect.training_loop import fit
from detect.workers import CoreWorkers
from proposals.multibox import MultiBox
from proposals.proposer import Proposer
from proposals.recall import average_recall, best_overlaps, recall

FILE_NAME = "multibox.safetensors"
BUDGET = 200  # boxes a photo that recall is measured with; Szegedy et al. 2014, section 8
_SIZED = 16  # photos from which the size of all features is estimated


def train_multibox(
    settings: MultiBoxTrainConfig,
    plain: dict[str, Any],
    *,
    build_data: BuildData,
    progress: Progress,
    say: Callable[[str], object] = print,
) -> int:
    """Train what the settings describe, or go on with it.

    Args:
        settings: Of the tool.
        plain: The same as plain dicts and lists.
        build_data: Reads the data set, with other settings than the chosen ones where given.
        progress: Makes a progress bar of a number of steps and what they are.
        say: Tells the user a line.

    Returns:
        Exit status: 1 if photos had to be left out.

    Raises:
        ValueError: If a setting or a file cannot be used; nothing is trained then.
    """
    device = choose_device(settings.device)
    detector = load_checkpoint(settings.checkpoint or BUNDLED)
    made = describe_multibox(settings, detector)
    head = load_head(settings, made) if settings.start else None
    with process_group(device) as group:
        tell = group.first_says(say)
        records, held_back, skipped = read_photos(settings, build_data, progress, tell)
        made.multibox = (head or make_head(settings, made, records)).to(device)
        made.training = multibox_recipe(settings, plain) | {"num_photos": len(records)}
        show = make_show(settings, made, detector, device)
        objective = MultiBoxObjective(
            made.multibox,
            show,
            records,
            sampling=settings.sampling,
            loss=settings.loss,
            store=_open_store(settings, made, show, records, group, tell),
            seed=settings.seed,
        )
        out = Path(settings.out)
        _fit(settings, made, detector, objective, held_back, group, progress, tell)
        if group.rank == 0:
            write_skipped(out / "skipped.csv", skipped)
            tell(f"multibox: {out / FILE_NAME}")
        group.wait()
    return 1 if skipped else 0


def _fit(
    settings: MultiBoxTrainConfig,
    made: MultiBoxFile,
    detector: Checkpoint,
    objective: MultiBoxObjective,
    held_back: Sequence[Record],
    group: Group,
    progress: Progress,
    say: Callable[[str], object],
) -> None:
    """Train to the end; keep the MultiBox with the best recall on held-back photos."""

    def measure() -> dict[str, float | None]:
        proposer = make_proposer(made, detector, device=made.multibox.priors.device)
        proposer.max_boxes = BUDGET
        return measure_recall(proposer, held_back, settings.threads, progress)

    fit(
        settings,
        objective,
        made.training,
        group=group,
        measure=measure if held_back else None,
        keep=lambda: save_multibox(Path(settings.out) / FILE_NAME, made),
        progress=progress,
        say=say,
    )


def describe_multibox(settings: MultiBoxTrainConfig, detector: Checkpoint) -> MultiBoxFile:
    """Describe the MultiBox that is trained on a detector's trunk; its head is yet to be made.

    Raises:
        ValueError: If the trunk's pyramid lacks a level.
    """
    head, shared = settings.multibox, detector.shared
    shared.check_levels(head.levels)
    return MultiBoxFile(
        MultiBox(1, torch.ones(1, 4)),
        "grid" if head.form == "grid" else "whole",
        trunk_digest(detector.network, head.form),
        replace(shared, pyramid=list(head.levels or shared.pyramid)),
        tuple(head.crop_scales),
    )


def make_head(
    settings: MultiBoxTrainConfig, made: MultiBoxFile, records: Sequence[Record]
) -> MultiBox:
    """Make a head that knows nothing but the priors of the photos' objects."""
    head, seed = settings.multibox, settings.seed
    if made.form == "grid":
        channels, priors = MAP_CHANNELS, grid_priors(records, made.shared, head.num_priors, seed)
    else:
        channels, priors = NUM_FEATURES, whole_priors(records, head.num_priors, seed)
    torch.manual_seed(seed)
    return MultiBox(channels, priors, hidden=head.hidden, kernel=head.kernel)


def load_head(settings: MultiBoxTrainConfig, made: MultiBoxFile) -> MultiBox:
    """Load the head that is to be trained further; its priors stay.

    Raises:
        ValueError: If the file cannot be used, or its MultiBox is not as the settings describe it.
    """
    assert settings.start is not None
    found, wanted = load_multibox(settings.start), settings.multibox
    head = found.multibox
    for name, own, asked in (
        ("form", found.form, made.form),
        ("hidden", head.hidden, wanted.hidden),
        ("kernel", head.kernel, wanted.kernel),
        ("levels", list(found.shared.pyramid), list(made.shared.pyramid)),
    ):
        if own != asked:
            raise ValueError(
                f"start={settings.start}: its {name} is {own}; set multibox.{name}={own}"
                f" in place of {asked}"
            )
    return head.train()


def make_show(
    settings: MultiBoxTrainConfig, made: MultiBoxFile, detector: Checkpoint, device: torch.device
) -> Show:
    """Make what shows a MultiBox photos: the detector's network, prepared, and the variations."""
    network = prepare_network(detector.network, dtype=best_precision(device), device=device)
    if made.form == "grid":
        trunk = SharedTrunk(network, detector.preprocessing, made.shared)
        return LevelShow(trunk, settings.sampling)
    return PartShow(WholeImageFeatures(network, detector.preprocessing), settings.sampling)


def measure_recall(
    proposer: Proposer, records: Sequence[Record], threads: int, progress: Progress
) -> dict[str, float | None]:
    """Return the recall at IoU 0.5 and 0.7 and the average recall of proposals of photos."""
    workers = CoreWorkers(threads)
    with progress(len(records), "validation photos") as bar:

        def overlaps(record: Record) -> torch.Tensor:
            assert record.path is not None
            found = best_overlaps(proposer(read_image(record.path)), record.boxes)[0]
            bar.update()
            return found

        best = torch.cat(workers.map(overlaps, records))
    if not len(best):
        return {"R@0.5": None, "R@0.7": None, "AR": None}
    at_half, at_seven = recall(best, (0.5, 0.7)).tolist()
    return {"R@0.5": at_half, "R@0.7": at_seven, "AR": average_recall(best).item()}


def read_photos(
    settings: MultiBoxTrainConfig,
    build_data: BuildData,
    progress: Progress,
    say: Callable[[str], object],
) -> tuple[list[Record], list[Record], list[tuple[str, str]]]:
    """Read the data set and see which of its photos can be read.

    Returns:
        Photos to learn from, photos to measure on, and name and reason of those not readable.

    Raises:
        InputError: If files are missing or malformed, or no photo is left.
    """
    photos, held_back = choose_photos(settings, build_data)
    if settings.without_classes:
        photos = without_classes(photos, settings.without_classes)
    for note in photos.notes:
        say(f"note: {note}")
    measured = [] if held_back is None else held_back.records
    with progress(len(photos.records) + len(measured), "photos") as bar:

        def problem(record: Record) -> str | None:
            assert record.path is not None
            bar.update()
            try:
                read_image(record.path)
            except ImageError as error:
                return error.reason
            return None

        records = [*photos.records, *measured]
        problems = CoreWorkers(settings.threads).map(problem, records)
    broken = {r.name: why for r, why in zip(records, problems, strict=True) if why is not None}
    for name, why in broken.items():
        say(f"left out: {name}: {why}")
    readable = [record for record in photos.records if record.name not in broken]
    if not readable:
        raise InputError(f"none of the {len(photos.records)} training photos can be read")
    return readable, [r for r in measured if r.name not in broken], list(broken.items())


def _open_store(
    settings: MultiBoxTrainConfig,
    made: MultiBoxFile,
    show: Show,
    records: Sequence[Record],
    group: Group,
    say: Callable[[str], object],
) -> FeatureStore | None:
    """Open the folder of features of these photos; say how large all of them are."""
    if settings.cache_gigabytes <= 0:
        return None
    content = {
        "trunk": made.trunk,
        "shared": asdict(made.shared),
        "sampling": {k: v for k, v in asdict(settings.sampling).items() if k != "variants"},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(settings.cache) / f"features-{digest}"
    every = max(1, len(records) // _SIZED)
    sizes = []
    for place, record in enumerate(records[::every][:_SIZED]):
        assert record.path is not None
        image = read_image(record.path)
        shown = show(image, record.boxes, torch.Generator().manual_seed(place))
        sizes.append(2 * shown.features.values.numel())
    total = sum(sizes) / len(sizes) * len(records) * settings.sampling.variants
    share = min(1.0, settings.cache_gigabytes * 1e9 / max(total, 1.0))
    say(
        f"features of {len(records)} photos, {settings.sampling.variants} variants: about "
        f"{total / 1e9:.1f} GB, of which {100 * share:.0f} % are kept in {folder}"
    )
    limit = int(settings.cache_gigabytes * 1e9 / group.size)
    return FeatureStore(folder, limit)
