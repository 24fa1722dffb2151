"""Classify photos into ImageNet's 1000 classes, and count the errors where the classes are known.

usage: python tools/classify.py PATH... weights=FILE [key=value ...]
       python tools/classify.py data=imagefolder data.root=FOLDER weights=FILE [key=value ...]

PATH: photos, videos, folders, globs, or - for a list on standard input. FOLDER: a folder for each
class, named by its WordNet id; or photos, with a list of lines 'name label', data.list=FILE. The
same command goes on where an interrupted one stopped. Exit status: 0 done, 1 some inputs were
skipped (out/skipped.csv names them), 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detect import classify_run, config
from detect.allocator import keep_freed_memory
from detect.classify_settings import ClassifyConfig
from detect.data.imagefolder import ClassifiedPhotos
from detect.devices import choose_device
from detect.files import split_paths
from detect.image_classifier import ImageClassifier
from detect.images import find_images
from detect.ledger import Ledger
from detect.results import write_skipped
from detect.run import DetectionRun, versions
from detect.workers import available_cores
from tools.command_line import answer
from tools.progress import progress


def run(paths: list[str], overrides: list[str]) -> int:
    """Classify, write every file and print the summary; return the exit status."""
    start = time.perf_counter()
    settings, plain = config.load_config("classify", overrides)
    if bool(paths) == bool(settings.data):
        raise ValueError("give either PATHs or data=imagefolder data.root=...; --help explains")
    photos = config.build("data", settings.data) if settings.data else ClassifiedPhotos([], [])
    sources = photos.images or find_images(paths)
    if not sources:
        raise ValueError(f"{' '.join(paths)}: no photo or video there")
    out, device = Path(settings.out), choose_device(settings.device)
    weights = split_paths(settings.weights)
    classifier = ImageClassifier.load(
        weights,
        crops=settings.crops,
        class_names=photos.class_names,
        device=device,
        precision=settings.precision,
    )
    classify_run.check_labels(photos, len(classifier.class_names))
    ids = classify_run.class_ids(settings.classes, len(classifier.class_names))
    decisive = {name: plain[name] for name in ("crops", "device", "precision")}
    decisive["weights"] = classify_run.digests(weights)
    path = out / "classes.jsonl"
    with Ledger.open(
        path, decisive, classifier.class_names, overwrite=settings.overwrite
    ) as ledger:
        config.write_yaml(out / "run.yaml", plain | decisive | {"versions": versions()})
        at_once = settings.threads or available_cores()
        classification = DetectionRun(classifier, ledger, threads=at_once)
        with progress(len(sources), "photos") as bar:
            outcome = classification(sources, bar.update)
        ledger.compact([result.name for result in outcome.results])
    labels = {i.name: label for i, label in zip(photos.images, photos.labels, strict=True)}
    rates = classify_run.judge(outcome.results, labels) if photos.images else None
    classify_run.write_predictions(out, outcome.results, ids, rates, labels)
    write_skipped(out / "skipped.csv", outcome.skipped)
    print(classify_run.summarise(outcome, rates, time.perf_counter() - start, out))
    return 1 if outcome.skipped else 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(ClassifyConfig)["template"], sep="\n")
        return 0 if arguments else 2
    keep_freed_memory()
    return answer("classify", lambda: run(*config.split_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
