"""Memory and disk that head=svm takes on all of VOC2007 train: one process, one pass of mining.

    python benchmarks/svm_memory.py VOC_ROOT [--checkpoint FILE | --weights FILE] [--keep FOLDER]

Also prints the minutes and, on photos of val, the mAP of the SVMs on the checkpoint's network. A
run that was ended goes on with the same --keep; memory and minutes are of the last process then.
"""

from __future__ import annotations

import argparse
import os
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

MEMORY = Bar("GiB at the peak", 4.0, at_most=True, decimals=2)
DISK = Bar("GB, the largest file", 2.0, at_most=True, decimals=2)


def largest_file(folder: Path) -> int:
    """Return the size of the largest file of a folder now, bytes; files may vanish meanwhile."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def main() -> None:
    """Train, watch the folder and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--checkpoint",
        type=Path,
        default=TRAIN_CHECKPOINT,
        help="whose network stays; by default one that has not seen val",
    )
    network.add_argument(
        "--weights", type=Path, help="ImageNet weights, of a network not fine-tuned"
    )
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    parser.add_argument("--photos", type=int, default=0, help="of train, at most; 0: all")
    parser.add_argument("--others", type=int, default=200, help="of val, to measure on")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep.resolve() if arguments.keep else temporary
        command = [sys.executable, str(ROOT / "tools" / "train.py"), "head=svm"]
        command += [f"data.root={arguments.voc.resolve()}", f"photos={arguments.photos}"]
        command += [f"out={folder}", f"cache={folder}/cache"]
        command += ["validation.split=val", f"validation.photos={arguments.others}"]
        if arguments.weights:
            command.append(f"weights={arguments.weights.resolve()}")
        else:
            command.append(f"checkpoint={arguments.checkpoint.resolve()}")
        start, largest, ended = time.perf_counter(), 0, 0
        process = subprocess.Popen(command)
        while not ended:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            largest = max(largest, largest_file(Path(folder)))
            time.sleep(0.2)
        if status:
            sys.exit(f"training ended with status {os.waitstatus_to_exitcode(status)}")
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    print(MEMORY.verdict(usage.ru_maxrss / 2**20))
    print(DISK.verdict(largest / 1e9))


if __name__ == "__main__":
    main()
