"""What this machine offers, and what stands in the way here, each with its remedy.

Nothing is imported at the top that may be broken: naming what is broken is the purpose.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Distribution -> what to import of it.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision.ops",
    "numpy": "numpy",
    "numba": "numba",
    "opencv-python": "cv2",
    "scikit-image": "skimage.segmentation",
    "pillow": "PIL.Image",
    "pycocotools": "pycocotools.mask",
    "hydra-core": "hydra",
    "safetensors": "safetensors",
}
OPENCV_PACKAGES = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
PRETRAINED = Path(__file__).parent / "pretrained"

_REINSTALL = "install the project anew: pip install --force-reinstall -c constraints.txt -e ."
_REMEDIES = (
    (
        r"libGL|libgthread|libglib",
        "apt-get install libgl1 libglib2.0-0, or pip uninstall opencv-python && "
        "pip install opencv-python-headless",
    ),
    (
        r"torchvision::nms|different CUDA|torchvision.*undefined symbol",
        "torch and torchvision are not of one build: install both from the same index in one "
        "command, such as pip install --force-reinstall torch torchvision",
    ),
    (r"multiarray|numpy\.dtype size|NumPy 1\.x", "it was built for another NumPy: " + _REINSTALL),
)


@dataclass(frozen=True)
class Problem:
    """Something that does not work.

    Attributes:
        what: What was found, one line.
        remedy: What to do about it, one line.
    """

    what: str
    remedy: str


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, ``None`` where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_machine() -> dict[str, str]:
    """Return versions, processor and accelerator by name, in the order to show them."""
    import torch

    versions = {name: installed_version(name) or "missing" for name in PACKAGES}
    for name in OPENCV_PACKAGES:
        if version := installed_version(name):
            versions["opencv-python"] = (
                version if name == "opencv-python" else f"{version} ({name})"
            )
    cuda = "no"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # find_problems reports them
        if torch.cuda.is_available():
            cuda = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        **versions,
        "cuda": cuda,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "bf16 in hardware": _bf16_support(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}",
    }


def _bf16_support() -> str:
    """Tell whether the processor multiplies bfloat16 itself; elsewhere it is slow."""
    import torch

    found = []
    for name in ("avx512_bf16", "amx_tile"):
        is_supported = getattr(torch.cpu, f"_is_{name}_supported", None)  # not in every version
        if is_supported is not None and is_supported():
            found.append(name)
    return ", ".join(found) or "no, as far as torch tells"


def find_problems() -> list[Problem]:
    """Run every check."""
    return [
        *(*check_imports(), *check_opencv(), *check_operators(), *check_hydra(), *check_cuda()),
        *(*check_checkpoints(), *check_numba_cache()),
    ]


def check_imports() -> Iterator[Problem]:
    """Import every package that the project needs."""
    for distribution, module in PACKAGES.items():
        if error := _import_error(module):
            yield Problem(f"{distribution} cannot be imported: {error}", _remedy(error))


def _import_error(module: str) -> str | None:
    """Return the first line of what an import raises, ``None`` where it works."""
    try:
        importlib.import_module(module)
    except Exception as error:  # broken packages raise RuntimeError, OSError, AttributeError, ...
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    """Shorten an exception to its type and the first line of its message."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _remedy(error: str) -> str:
    """Find the remedy for a message."""
    return next((text for pattern, text in _REMEDIES if re.search(pattern, error)), _REINSTALL)


def check_opencv() -> Iterator[Problem]:
    """Find several OpenCV packages, which overwrite one another's files."""
    found = [name for name in OPENCV_PACKAGES if installed_version(name)]
    if len(found) > 1:
        yield Problem(
            f"several OpenCV packages are installed: {', '.join(found)}",
            f"pip uninstall -y {' '.join(found)} && pip install {found[0]}",
        )


def check_operators() -> Iterator[Problem]:
    """Call a compiled operator of torchvision, which needs the torch that it was built for."""
    if _import_error("torchvision.ops"):
        return  # check_imports has named it
    import torch
    from torchvision.ops import nms

    try:
        nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    except Exception as error:
        yield Problem(f"torchvision does not work: {_one_line(error)}", _remedy("torchvision::nms"))


def check_hydra() -> Iterator[Problem]:
    """Find a Hydra that is too old for Python 3.11."""
    version = installed_version("hydra-core")
    if version and tuple(map(int, re.findall(r"\d+", version)[:3])) < (1, 3, 2):
        yield Problem(f"hydra-core {version} is too old", "pip install 'hydra-core>=1.3.2'")


def check_cuda() -> Iterator[Problem]:
    """Find a graphics card that torch complains about, an old driver for instance."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.is_available()
    for warning in caught:
        yield Problem(
            f"CUDA: {str(warning.message).splitlines()[0]}",
            "update the NVIDIA driver, or work on the processor with device=cpu",
        )


def check_checkpoints(folder: Path = PRETRAINED) -> Iterator[Problem]:
    """Open every bundled checkpoint."""
    if _import_error("safetensors"):
        return
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    file.get_slice(name)
        except Exception as error:
            yield Problem(
                f"{path} cannot be read: {_one_line(error)}",
                f"fetch it again: git checkout -- {path.name} (and git lfs pull, where used)",
            )


def check_numba_cache() -> Iterator[Problem]:
    """Ask numba for a place to keep compiled code in; it looks when a function is declared."""
    if _import_error("numba"):
        return
    import numba

    try:
        numba.njit(_nothing, cache=True)
    except Exception as error:
        yield Problem(
            f"numba finds no writable cache folder: {_one_line(error)}",
            "set NUMBA_CACHE_DIR to a folder that may be written",
        )


def _nothing() -> None:
    """Be declared, and never compiled."""
