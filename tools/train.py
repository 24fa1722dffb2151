"""Train a detector on labelled photos: data.root=VOC2007 weights=GOOGLENET out=DIR.

With --multirun seed=1,2,3 'out=out/member-${seed}', one after the other, members of an ensemble.
"""

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
from detect.train_run import run_training
from detect.train_settings import SoftmaxConfig, TrainConfig
from tools.command_line import CONFIGS, refusing, run, settings_of, tell_status
from tools.progress import progress


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def main(config: DictConfig) -> None:
    """Train; the status will be 1 where photos had to be left out."""
    with refusing("train", config):
        tell_status(train(config))


def train(config: DictConfig) -> int:
    """Turn the settings into objects and train; return the exit status."""
    keep_freed_memory()
    settings, plain = settings_of(config)
    assert isinstance(settings, TrainConfig)
    settings.head = instantiate(config.head, _convert_="all")
    if settings.regions == "shared" and isinstance(settings.head, SoftmaxConfig):
        keep_kernels()
    return run_training(
        settings,
        plain,
        build_data=partial(instantiate, config.data, _convert_="all"),
        proposer=instantiate(config.proposer, _convert_="all"),
        progress=progress,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    run("train", main)
