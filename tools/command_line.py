"""What the Hydra tools share: one line and status 2 for a request that cannot be served."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from detect.config import ConfigError, build, check_keys
from detect.data.problems import InputError
from proposals.files import FileBusy

if TYPE_CHECKING:  # what loads torch, which scoring does without
    from detect.data.labelled import LabelledPhotos

CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")


# Whether what a Hydra main did was done but for some inputs, which it named. Hydra does not hand
# back what a main returns, and leaving it would end a --multirun before its other runs.
_skipped_some = False


def tell_status(status: int) -> None:
    """Let ``run`` leave with status 1 in the end, if this is one."""
    global _skipped_some
    _skipped_some = _skipped_some or status == 1


@contextmanager
def refusing(tool: str, config: DictConfig) -> Iterator[None]:
    """Turn what is wrong with the request into one line and exit status 2, Ctrl-C into 130."""
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ValueError(f"set {', '.join(f'{key}=...' for key in missing)}; --help explains")
        yield
    except (ValueError, OSError, FileBusy) as error:
        sys.exit(_refuse(tool, error))
    except InstantiationException as error:  # around what a reader or a proposer refused
        sys.exit(_refuse(tool, error.__cause__ or error))
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def settings_of(config: DictConfig) -> tuple[Any, dict[str, Any]]:
    """Return a tool's root dataclass, and the same as plain dicts and lists."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.to_object(config), {str(key): value for key, value in plain.items()}


def run(tool: str, main: Callable[[], None]) -> None:
    """Call a Hydra main; Hydra leaves with 1 where a setting is wrong, which is 2 in every tool."""
    global _skipped_some
    _skipped_some = False
    # Settings that stand before --multirun would not be understood.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: text not in ("-m", "--multirun"))
    try:
        check_keys(tool, [text for text in sys.argv[1:] if "=" in text and text[0] != "-"])
        main()
    except ConfigError as error:
        sys.exit(_refuse(tool, error))
    except SystemExit as stop:
        sys.exit(2 if stop.code == 1 else stop.code)
    if _skipped_some:
        sys.exit(1)


def answer(tool: str, request: Callable[[], int]) -> int:
    """Serve a tool that is no Hydra application; return its exit status.

    Args:
        tool: Its name.
        request: Does the work and returns the status.
    """
    try:
        return request()
    except (ValueError, OSError, FileBusy) as error:
        return _refuse(tool, error)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130


def read_data(chosen: Any) -> LabelledPhotos:
    """Read the data set that a file of configs/data and its settings choose; print its notes."""
    photos: LabelledPhotos = build("data", chosen)
    if not hasattr(photos, "records"):
        raise InputError("data=imagefolder has no objects; choose voc, coco or ilsvrc")
    for note in photos.notes:
        print(f"note: {note}", file=sys.stderr)
    return photos


def _refuse(tool: str, error: BaseException) -> int:
    lines = str(error).splitlines() if isinstance(error, InputError) else [str(error)]
    print(f"{tool}:", "\n".join(" ".join(line.split()) for line in lines), file=sys.stderr)
    return 2
