"""Time experiment=quick from nothing to a detector, and measure it on other photos.

    python benchmarks/quick_training.py VOC_ROOT [--weights GOOGLENET] [--classes cat car dog]

Draws photos of some classes from VOC2007 train, trains as a newcomer would, proposals and start
included, and scores the detector on photos of val that show these classes. Without --weights it
starts from a detector that has seen these classes in train before: say so with the figure.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the packages, not this folder's files

from benchmarks.bars import Bar
from benchmarks.machine import describe_machine
from benchmarks.unseen import TRAIN_CHECKPOINT

MINUTES = Bar("minutes", 15, at_most=True, decimals=1)
MEAN_AP = Bar("mAP", 0.50, decimals=3)


def main() -> None:
    """Print the time and the mAP."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--weights", type=Path, help="GoogLeNet's ImageNet weights")
    parser.add_argument("--classes", nargs="+", default=["car", "cat", "dog"])
    parser.add_argument("--photos", type=int, default=250, help="to learn from")
    parser.add_argument("--others", type=int, default=100, help="to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="in place of the experiment's")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {arguments.photos} photos of {', '.join(arguments.classes)}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "tools" / "train.py"), "experiment=quick"]
        command += [f"data.root={arguments.voc.resolve()}", f"out={folder}/out"]
        command += [f"cache={folder}/cache", f"seed={arguments.seed}"]
        command += [f"only_classes=[{','.join(arguments.classes)}]", f"photos={arguments.photos}"]
        command += ["validation.split=val", f"validation.photos={arguments.others}"]
        if arguments.weights:
            command.append(f"weights={arguments.weights.resolve()}")
        else:
            command.append(f"checkpoint={TRAIN_CHECKPOINT}")
        if arguments.steps:
            command.append(f"training.steps={arguments.steps}")
        start = time.perf_counter()
        subprocess.run(command, check=True)
        minutes = (time.perf_counter() - start) / 60
        with (Path(folder) / "out" / "validation.csv").open() as file:
            best = max(csv.DictReader(file), key=lambda row: float(row["mAP"]))
    print(best)
    print(MINUTES.verdict(minutes))
    print(MEAN_AP.verdict(float(best["mAP"])))


if __name__ == "__main__":
    main()
