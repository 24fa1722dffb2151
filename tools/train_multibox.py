"""Train MultiBox proposals on labelled photos: data.root=VOC2007 out=DIR."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from detect.allocator import keep_freed_memory, keep_kernels
from detect.multibox_run import train_multibox
from detect.multibox_settings import MultiBoxTrainConfig
from tools.command_line import CONFIGS, refusing, run, settings_of, tell_status
from tools.progress import progress


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train_multibox")
def main(config: DictConfig) -> None:
    """Train; the status will be 1 where photos had to be left out."""
    with refusing("train_multibox", config):
        keep_freed_memory()
        keep_kernels()
        settings, plain = settings_of(config)
        assert isinstance(settings, MultiBoxTrainConfig)
        status = train_multibox(
            settings,
            plain,
            build_data=partial(instantiate, config.data, _convert_="all"),
            progress=progress,
            say=partial(print, flush=True),
        )
        tell_status(status)


if __name__ == "__main__":
    run("train_multibox", main)
