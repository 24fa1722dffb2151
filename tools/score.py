"""Score a results file: format=ilsvrc|coco|voc predictions=FILE annotations=... out=DIR."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import hydra
from omegaconf import DictConfig, OmegaConf

from detect.config import ScoreConfig, register
from detect.data.sources import InputError
from detect.data.voc import VOC_CLASSES, read_voc_classes
from detect.scoring.coco import score_coco_files
from detect.scoring.ilsvrc import score_ilsvrc_files
from detect.scoring.scores import Scores, format_table, write_scores
from detect.scoring.voc import score_voc_files
from tools.command_line import CONFIGS, refusing, run

register()


def score(settings: ScoreConfig) -> Scores:
    """Score the files that the settings name."""
    predictions, annotations = Path(settings.predictions), Path(settings.annotations)
    if settings.format == "coco":
        return score_coco_files(predictions, annotations)
    if settings.format not in ("ilsvrc", "voc"):
        raise InputError(f"format={settings.format}: choose ilsvrc, coco or voc")
    if settings.image_list is None:
        raise InputError(f"format={settings.format} needs image_list=FILE; --help explains it")
    image_list = Path(settings.image_list)
    classes = None if settings.classes is None else Path(settings.classes)
    if settings.format == "voc":
        class_names = read_voc_classes(classes) if classes else VOC_CLASSES
        metric = settings.voc_metric
        return score_voc_files(predictions, annotations, image_list, class_names, metric)
    if classes is None:
        raise InputError("format=ilsvrc needs classes=FILE, meta_det.mat or map_det.txt")
    blacklist = None if settings.blacklist is None else Path(settings.blacklist)
    return score_ilsvrc_files(predictions, annotations, image_list, classes, blacklist)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="score")
def main(config: DictConfig) -> None:
    """Read, score, print the table and write scores.json."""
    with refusing("score", config):
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, ScoreConfig)
        scores = score(settings)
        target = Path(settings.out) / "scores.json"
        write_scores(target, scores)
        print(format_table(scores))
        print(f"written to {target}")


if __name__ == "__main__":
    run("score", main)
