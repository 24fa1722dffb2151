"""Time the scoring of generated submissions as whole commands: ILSVRC DET, and COCO's size.

    python benchmarks/scoring.py ILSVRC --work out/scoring
    python benchmarks/scoring.py ILSVRC --work out/scoring --coco

ILSVRC is a folder with the devkit's ILSVRC2013_DET_bbox_val.tar.xz, val.txt, map_det.txt and
blacklist. With --coco, data of the size of COCO val (5,000 images, 36,000 objects, 500,000
detections) are scored by the product, by pycocotools and, where it is installed in the Python of
--anchor-python, by faster-coco-eval, in turn. Files are made once in --work and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the packages, not this folder's files

from detect.data.annotations import read_annotations
from detect.data.ilsvrc import read_image_list, read_synsets

SCORE = [sys.executable, str(ROOT / "tools" / "score.py")]
IMPORTS = "import detect.score_run, detect.scoring.files, tools.command_line, tools.progress"
# What others do with the same two files, as a process of its own.
ANCHOR = """
import sys, json
truth, results, engine = sys.argv[1:]
if engine == "pycocotools":
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
else:
    from faster_coco_eval import COCO, COCOeval_faster as COCOeval
truth = COCO(truth)
evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
evaluation.evaluate(); evaluation.accumulate(); evaluation.summarize()
print(json.dumps([float(value) for value in list(evaluation.stats)[:12]]))
"""


def run(command: Sequence[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, peak memory in MB and output."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:3])} ... failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6, output


def write_ilsvrc(folder: Path, path: Path, count: int) -> None:
    """Write a submission: a third of it near objects, the rest anywhere, six decimals."""
    rng = np.random.default_rng(0)
    ids = read_image_list(folder / "val.txt")
    labels = read_synsets(folder / "map_det.txt").label_of()
    annotations = read_annotations(folder / "ILSVRC2013_DET_bbox_val.tar.xz", list(ids))
    of_image = np.array([ids[name] for name in annotations.names])[annotations.images]
    of_class = np.array([labels[name] + 1 for name in annotations.classes])
    objects = np.column_stack([of_image, of_class, annotations.corners]).astype(np.float64)
    near: NDArray[np.float64] = objects[rng.integers(0, len(objects), count)]  # [N, 6]
    width, height = (near[:, 4:6] - near[:, 2:4] + 1).T
    near[:, 2:] += rng.normal(0, 0.15, (count, 4)) * np.stack([width, height] * 2, axis=1)
    elsewhere = rng.random(count) > 1 / 3
    near[elsewhere, 0] = rng.integers(1, len(ids) + 1, count)[elsewhere]
    near[elsewhere, 1] = rng.integers(1, len(labels) + 1, count)[elsewhere]
    scores = np.clip(rng.beta(1, 4, count) + 0.3 * ~elsewhere, 0, 1)
    table = np.column_stack([near[:, :2], scores, near[:, 2:]])
    np.savetxt(path, table, fmt=["%d", "%d", *["%.6f"] * 5])


def write_coco(truth_path: Path, results_path: Path) -> None:
    """Write ground truth and results of the size of COCO val."""
    rng = np.random.default_rng(0)
    images, objects, found = 5_000, 36_000, 500_000

    def boxes(count: int) -> NDArray[np.float64]:
        sides = 8 + 240 * rng.random((count, 2)) ** 2
        return np.concatenate([rng.random((count, 2)) * ([640, 480] - sides), sides], axis=1)

    of_object, label = rng.integers(1, images + 1, objects), rng.integers(1, 81, objects)
    bbox = boxes(objects).round(2)
    truth = {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, 81)],
        "annotations": [
            {"id": i + 1, "image_id": int(of_object[i]), "category_id": int(label[i])}
            | {"bbox": bbox[i].tolist(), "area": float(bbox[i, 2] * bbox[i, 3])}
            | {"iscrowd": int(i % 100 == 0)}
            for i in range(objects)
        ],
    }
    truth_path.write_text(json.dumps(truth))
    of_found, classes, places = (
        rng.integers(1, images + 1, found),
        rng.integers(1, 81, found),
        boxes(found),
    )
    near = rng.random(found) < 0.2
    chosen = rng.integers(0, objects, found)
    of_found[near], classes[near] = of_object[chosen[near]], label[chosen[near]]
    jitter = rng.normal(0, 0.1, (found, 4)) * np.tile(bbox[chosen, 2:], 2)
    places[near] = np.maximum(bbox[chosen] + jitter, 1)[near]
    scores = np.clip(rng.beta(1, 4, found) + 0.3 * near, 0, 1).round(4)
    results = [
        {"image_id": int(i), "category_id": int(c), "bbox": b, "score": s}
        for i, c, b, s in zip(
            of_found, classes, places.round(2).tolist(), scores.tolist(), strict=True
        )
    ]
    results_path.write_text(json.dumps(results))


def time_ilsvrc(args: argparse.Namespace) -> None:
    """Print a table of the times of whole commands."""
    folder, work = Path(args.ilsvrc), Path(args.work)
    sources = {"tar.xz": folder / "ILSVRC2013_DET_bbox_val.tar.xz"}
    if args.folder:
        sources["folder"] = work / "xml"
        if not sources["folder"].exists():
            with tarfile.open(sources["tar.xz"]) as tar:
                tar.extractall(sources["folder"], filter="data")
        sources["folder"] = next(path for path in sources["folder"].iterdir() if path.is_dir())
    bare = statistics.median(run([sys.executable, "-c", IMPORTS])[0] for _ in range(args.runs))
    print(f"imports alone {bare:.2f} s\n{'detections':>10} {'XML':>7}    s (min .. max)        MB")
    for count in args.detections:
        path = work / f"submission_{count}.txt"
        if not path.exists():
            write_ilsvrc(folder, path, count)
        for name, source in sources.items():
            settings = {
                "format": "ilsvrc",
                "predictions": path,
                "annotations": source,
                "image_list": folder / "val.txt",
                "classes": folder / "map_det.txt",
                "blacklist": folder / "ILSVRC2014_det_validation_blacklist.txt",
                "out": work / "scores",
            }
            command = [*SCORE, *(f"{key}={value}" for key, value in settings.items())]
            runs = [run(command) for _ in range(args.runs)]
            seconds = [seconds for seconds, _, _ in runs]
            print(
                f"{count:10,} {name:>7} {statistics.median(seconds):6.2f} "
                f"({min(seconds):.2f} .. {max(seconds):.2f}) {max(mb for _, mb, _ in runs):9.0f}"
            )


def time_coco(args: argparse.Namespace) -> None:
    """Print the product's, pycocotools' and faster-coco-eval's times, taken in turn."""
    work = Path(args.work)
    truth, results = work / "instances.json", work / "results.json"
    if not results.exists():
        write_coco(truth, results)
    ours = [*SCORE, "format=coco", f"predictions={results}", f"annotations={truth}"]
    commands = {
        "tools/score.py": [*ours, f"out={work / 'scores'}"],
        "pycocotools": [sys.executable, "-c", ANCHOR, str(truth), str(results), "pycocotools"],
    }
    if args.anchor_python:
        commands["faster-coco-eval"] = [
            args.anchor_python,
            "-c",
            ANCHOR,
            str(truth),
            str(results),
            "f",
        ]
    times: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, float] = {}
    stats: dict[str, list[float | None]] = {}
    for _ in range(max(1, args.runs // 2)):
        for name, command in commands.items():
            seconds, megabytes, output = run(command)
            times[name].append(seconds)
            peaks[name] = max(peaks.get(name, 0), megabytes)
            written = work / "scores" / "scores.json"
            stats[name] = (
                json.loads(written.read_text())["stats"]
                if name == "tools/score.py"
                else json.loads(output.splitlines()[-1])
            )
    reference = stats["pycocotools"]
    print("\nCOCO val's size: 5,000 images, 36,000 objects, 500,000 detections, whole processes")
    for name, seconds_of in times.items():
        ratios = [a / b for a, b in zip(times["pycocotools"], seconds_of, strict=True)]
        apart = max(abs((a or 0) - (b or 0)) for a, b in zip(stats[name], reference, strict=True))
        print(
            f"{name:18} {statistics.median(seconds_of):6.2f} s {statistics.median(ratios):6.1f}x "
            f"{peaks[name]:6.0f} MB, largest difference of the 12 numbers {apart:.1e}"
        )


def main() -> None:
    """Read the settings, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("ilsvrc", help="folder of the devkit's files")
    parser.add_argument("--work", default="out/scoring", help="folder for the generated files")
    parser.add_argument("--detections", type=int, nargs="*", default=[200_000, 2_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", action="store_true", help="with unpacked XML files as well")
    parser.add_argument("--coco", action="store_true", help="the COCO-sized comparison as well")
    parser.add_argument("--anchor-python", help="a Python that has faster-coco-eval")
    args = parser.parse_args()
    Path(args.work).mkdir(parents=True, exist_ok=True)
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores{load}, medians")
    time_ilsvrc(args)
    if args.coco:
        time_coco(args)


if __name__ == "__main__":
    main()
