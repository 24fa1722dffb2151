"""The files of an exported detector: its models and ``detector.json``, which says how to use them.

Nothing here needs onnx or onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detect.crops import CropConfig
from detect.files import write_atomically
from detect.googlenet import Preprocessing
from detect.heads import BOX_UNITS, MAX_LOG_SCALE
from detect.region_sampling import POINTS
from detect.shared_geometry import FIRST_CENTRE, STRIDE, SharedTrunkConfig

FORMAT, VERSION = "going-deeper-detection onnx", 2  # 2: with pyramid and region_side
DESCRIPTION = "detector.json"
DEFAULT_OPSET = 17  # known to onnxruntime since 1.12
CLASSIFIER, TRUNK, REGIONS = "classifier.onnx", "trunk.onnx", "regions.onnx"
FILES: dict[str, tuple[str, ...]] = {"crops": (CLASSIFIER,), "shared": (TRUNK, REGIONS)}

# What stays outside of the models, for who runs them in another language.
_CROPS = (
    "Stretch each box (x1, y1, x2, y2; pixels, the first one's centre at 0.5) to the middle "
    "size - 2 * context pixels of a square of size: the centre of crop pixel i lies at "
    "x1 + (i + 0.5 - context) * step, step = (x2 - x1) / (size - 2 * context); y alike, with its "
    "own step. Outside of the image is fill. Interpolate bilinearly; in a direction whose step is "
    "2 or more, first average the image over blocks of 2 ** floor(log2(step)) pixels. RGB, 0..255, "
    "into classifier.onnx."
)
_SHARED = (
    "For each factor of pyramid, resize the RGB image (0..255) by factor * min(shorter_side / its "
    "shorter side, max_side / its longer side), bilinear with antialiasing, to whole sides of at "
    "least 3 * stride, into trunk.onnx. For each box take the map of one factor: where factor * "
    "the square root of the box's area, in pixels of the image as resized by factor 1, is nearest "
    "to region_side in ratio, the first of equals. "
    "Take the box to that resized image, divide its sides by 1 - 2 * context around its centre, "
    "and to the map: u = (x - first_centre + stride / 2) / stride. Sample points x points of the "
    "map: point i of a box from u1 to u2 lies at p = u1 + (i + 0.5) / points * (u2 - u1) - 0.5, "
    "where p = 0 is the map's first column; it is 0 where p < -1 or p > width, else clamp p to "
    "0 .. width - 1 and interpolate bilinearly; rows alike. Into regions.onnx."
)
_RESULTS = (
    " Offsets (dx, dy, dw, dh) times units move a box of centre (x, y) and sides (w, h) to centre "
    "(x + dx * w, y + dy * h) and sides (w * exp(dw), h * exp(dh)), dw and dh at most "
    "max_log_scale; clip it to the image. NMS a class comes last."
)
HOW_TO: dict[str, str] = {"crops": _CROPS + _RESULTS, "shared": _SHARED + _RESULTS}


@dataclass(frozen=True)
class ExportedDetector:
    """A region classifier as ONNX models, and what is needed to feed them.

    Attributes:
        models: The content of each file, by its name.
        regions: How regions are cut: ``crops`` or ``shared``.
        class_names: Classes without background, ``[C]``.
        preprocessing: What the models do to their input, for the record.
        crop: The square that a region is warped to, for ``crops``.
        shared: Scales of the image and context of the regions, for ``shared``.
        activation: What made the probabilities, inside of the models, for the record.
    """

    models: Mapping[str, bytes]
    regions: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    crop: CropConfig
    shared: SharedTrunkConfig
    activation: str = "softmax"


def write_folder(folder: Path, exported: ExportedDetector, record: Mapping[str, Any]) -> None:
    """Write models and ``detector.json``, each atomically, that which names the others last.

    Args:
        folder: Made where it is absent.
        exported: The models.
        record: What ``detector.json`` tells besides: opset, versions, checkpoint, comparison.
    """
    for name, content in exported.models.items():
        write_atomically(folder / name, content)
    text = json.dumps(_describe(exported) | dict(record), indent=1, ensure_ascii=False)
    write_atomically(folder / DESCRIPTION, text + "\n")


def _describe(exported: ExportedDetector) -> dict[str, Any]:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in exported.models.items()}
    cut: dict[str, Any] = {"crops": asdict(exported.crop)}
    if exported.regions == "shared":
        grid = {"stride": STRIDE, "first_centre": FIRST_CENTRE, "points": POINTS}
        cut = {"shared": asdict(exported.shared), "map": grid}
    return {
        "format": FORMAT,
        "version": VERSION,
        "regions": exported.regions,
        "files_sha256": digests,
        "class_names": list(exported.class_names),
        "background": len(exported.class_names),  # its place among the probabilities
        "activation": exported.activation,  # of the probabilities, inside of the models
        "preprocessing": asdict(exported.preprocessing) | {"inside_the_models": True},
        **cut,
        "box_offsets": {"units": list(BOX_UNITS), "max_log_scale": MAX_LOG_SCALE},
        "how_to": HOW_TO[exported.regions],
    }


def read_folder(folder: Path) -> ExportedDetector:
    """Read what ``write_folder`` wrote, and check that no file is another's or damaged.

    Raises:
        ValueError: If a file is absent, damaged or none of ours, naming it.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{path}: no such file; tools/export.py writes it and the models")
    try:
        described = json.loads(path.read_bytes())
        if described["format"] != FORMAT:
            raise ValueError(f"its format is {described['format']!r}")
        if described["version"] > VERSION:
            raise ValueError(f"version {described['version']} is newer than this code's {VERSION}")
        exported = _exported(described)
        digests = {name: str(described["files_sha256"][name]) for name in exported.models}
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path}: not as tools/export.py writes it ({reason}); export again"
        ) from error
    models = {name: _read_model(folder / name, digest) for name, digest in digests.items()}
    return replace(exported, models=models)


def _exported(described: dict[str, Any]) -> ExportedDetector:
    """Return what ``detector.json`` describes, its models empty."""
    regions = described["regions"]
    preprocessing, crop, shared = described["preprocessing"], CropConfig(), SharedTrunkConfig()
    if regions == "crops":
        given = described["crops"]
        crop = CropConfig(given["size"], given["context"], tuple(given["fill"]))
    else:
        shared = SharedTrunkConfig.from_file(described["shared"])
    return ExportedDetector(
        dict.fromkeys(FILES[regions], b""),
        regions,
        tuple(described["class_names"]),
        Preprocessing(tuple(preprocessing["mean"]), tuple(preprocessing["std"])),
        crop,
        shared,
        described.get("activation", "softmax"),  # not in the first files
    )


def _read_model(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; tools/export.py writes all of them") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path}: not the file that {DESCRIPTION} names (damaged?); export again")
    return content
