"""Time tools/detect.py as a whole process on VOC2007 photos, and score what it found.

    python benchmarks/detect.py VOC_ROOT [--photos 200] [--regions shared crops]

Everything counts: start, reading, proposals, classification, drawing, every results file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def detect(paths: list[str], regions: str, out: Path, options: list[str]) -> tuple[float, float]:
    """Run the tool; return the seconds of the whole process and its peak memory in GiB."""
    command = [sys.executable, str(ROOT / "tools" / "detect.py"), "-", f"out={out}"]
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(paths))
    start = time.perf_counter()
    with listing.open() as file:
        process = subprocess.Popen([*command, f"regions={regions}", *options], stdin=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"detection ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def score(names: list[str], voc: Path, out: Path) -> float:
    """Score the run's VOC files; return mAP."""
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(names))
    command = [sys.executable, str(ROOT / "tools" / "score.py"), "format=voc", f"out={out}"]
    command += [f"predictions={out / 'voc'}", f"annotations={voc / 'Annotations'}"]
    subprocess.run([*command, f"image_list={listing}"], check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((out / "scores.json").read_text())["mean_ap"])


def main() -> None:
    """Print a row for each way to cut regions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voc", type=Path, help="folder of VOC2007")
    parser.add_argument("--photos", type=int, default=200, help="the first N of val.txt")
    parser.add_argument("--regions", nargs="+", default=["shared"], choices=["shared", "crops"])
    parser.add_argument("options", nargs="*", help="settings passed on to tools/detect.py")
    arguments, options = parser.parse_known_args()
    voc = arguments.voc.resolve()
    names = (voc / "ImageSets/Main/val.txt").read_text().split()[: arguments.photos]
    paths = [str(voc / "JPEGImages" / f"{name}.jpg") for name in names]
    print(f"{machine()}; {len(names)} photos of VOC2007 val")
    print(f"{'regions':10}{'s a photo':>12}{'peak GiB':>12}{'mAP':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for regions in arguments.regions:
            out = Path(folder) / regions
            seconds, memory = detect(paths, regions, out, options + arguments.options)
            mean = score(names, voc, out)
            print(f"{regions:10}{seconds / len(names):12.2f}{memory:12.2f}{100 * mean:10.2f}")


def machine() -> str:
    """Name the processor, the cores, and how busy others keep them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
