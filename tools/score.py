"""Score a results file: format=ilsvrc|coco|voc|clsloc predictions=FILE annotations=... out=DIR."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import hydra
from omegaconf import DictConfig, OmegaConf

from detect.score_run import score_and_write
from detect.score_settings import ScoreConfig
from tools.command_line import CONFIGS, refusing, run
from tools.progress import progress


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="score")
def main(config: DictConfig) -> None:
    """Read, check, score, print the table and write the results."""
    with refusing("score", config):
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, ScoreConfig)
        print(score_and_write(settings, progress))


if __name__ == "__main__":
    run("score", main)
