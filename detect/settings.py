"""Settings of the tools: a root dataclass each, from the dataclasses beside the code they steer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detect.augmentation import AugmentConfig
from detect.checkpoint import BUNDLED, file_digest
from detect.config import MISSING, build, register
from detect.detector import Detector
from detect.files import split_paths
from detect.merging import MergeConfig
from detect.onnx_files import DESCRIPTION
from detect.rejection import REJECTION_THRESHOLD
from proposals.proposer import Proposer, proposer_settings


@dataclass
class DetectConfig:
    """Settings of tools/detect.py."""

    out: str = "out"  # folder of the results
    checkpoint: str | None = None  # of tools/train.py; of a,b averaged; by default the bundled one
    regions: str | None = None  # shared (trunk once an image) or crops; by default as trained
    pyramid: list[float] = field(default_factory=list)  # levels, 1: 600 pixels; []: as trained
    proposer: Any = MISSING  # auto (googlenet where a MultiBox fits), superpixels_x2, fast, quality
    multibox: str | None = None  # of tools/train_multibox.py; by default the bundled one
    merge: MergeConfig = field(default_factory=MergeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # views that are averaged
    rejection_threshold: float = REJECTION_THRESHOLD  # at first sight, to be scored; 0: all are
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    precision: str = "auto"  # auto, float32 or bfloat16; auto: bfloat16 where hardware has it
    backend: str = "torch"  # torch, or onnxruntime: on the CPU in float32, needs the extra [onnx]
    compile: bool = False  # let torch.compile make the kernels, which takes a minute or more
    threads: int = 0  # cores to use, an image each, or more where images are few; 0: all
    frame_step: int = 1  # every n-th frame of a video
    drawn: bool = True  # whether to draw the detections on every photo
    draw_threshold: float = 0.5  # least score of a drawn detection, 0 to 1
    overwrite: bool = False  # start again where out/ holds results of other settings


@dataclass
class ProposeConfig:
    """Settings of tools/propose.py."""

    out: str = "proposals.npz"  # file of the proposals; skipped.csv lies beside it
    proposer: Any = MISSING  # fast (R-CNN's, the default), superpixels_x2, googlenet, multibox, ...
    multibox: str | None = None  # of tools/train_multibox.py; by default the bundled one
    checkpoint: str | None = None  # detector whose trunk that reads; by default the bundled one
    data: Any = None  # in place of PATHs: voc, coco or ilsvrc, data.root=FOLDER, data.split=val
    workers: int = 0  # photos in work at the same time, one core each; 0: one a core
    overwrite: bool = False  # start again where out= holds proposals of other settings


@dataclass
class RecallConfig:
    """Settings of tools/propose.py recall."""

    out: str = "recall"  # folder of recall.json and recall.png
    data: Any = MISSING  # voc (the default), coco or ilsvrc; data.root=FOLDER, data.split=val
    budgets: list[int] = field(default_factory=lambda: [100, 200, 500, 1000, 2000])  # boxes a photo
    difficult: bool = True  # whether objects marked difficult count
    plot_budget: int = 1000  # boxes a photo in the picture of recall over IoU


register("detect", DetectConfig)
register("propose", ProposeConfig)
register("recall", RecallConfig)


def build_detector(settings: DetectConfig, threads: int = 0) -> Detector:
    """Make the detector that the settings describe.

    Args:
        settings: Of tools/detect.py.
        threads: Cores that classify one image, on a CPU; 0: all.

    Raises:
        ValueError: If the checkpoint cannot be used or a setting is none of its choices.
    """
    files = split_paths(settings.checkpoint or str(BUNDLED))
    return Detector.load(
        files[0] if len(files) == 1 else files,
        regions=settings.regions,
        pyramid=settings.pyramid,
        proposer=build("proposer", settings.proposer),
        merge=settings.merge,
        augmentation=settings.augment,
        rejection_threshold=settings.rejection_threshold,
        device=settings.device,
        precision=settings.precision,
        backend=settings.backend,
        threads=threads,
        compiled=settings.compile,
    )


def tell_cost(settings: DetectConfig) -> str | None:
    """Say how often each photo is classified, where that is more than once."""
    networks = len(split_paths(settings.checkpoint or str(BUNDLED)))
    times = networks * settings.augment.views
    if times == 1:
        return None
    return (
        f"{networks} network(s), {settings.augment.views} view(s): classification takes about "
        f"{times} x as long as with one; tools/budget.py tells how long that is here"
    )


def decisive_settings(
    settings: DetectConfig, plain: dict[str, Any], proposer: Proposer
) -> dict[str, Any]:
    """Return what other detections would come from, if it were changed.

    Args:
        settings: Of tools/detect.py.
        plain: The same as plain dicts and lists.
        proposer: Made of them.
    """
    names = (
        "regions",
        "pyramid",
        "merge",
        "augment",
        "rejection_threshold",
        "device",
        "precision",
        "backend",
        "compile",
    )
    decisive = {name: plain[name] for name in names}
    decisive["proposer"] = proposer_settings(proposer)
    files = [Path(text) for text in split_paths(settings.checkpoint or str(BUNDLED))]
    # A folder's description has the digests of its models.
    digests = [file_digest(f / DESCRIPTION if f.is_dir() else f) for f in files]
    return decisive | {"checkpoint_sha256": ",".join(digests)}
