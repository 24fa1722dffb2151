"""Search photos of growing size at full resolution: seconds, and peak memory a pixel.

    python benchmarks/large_photo.py PHOTO [--megapixels 1 2 4 8] [--threads 1]

The photo is resized to each size. Every search is a process of its own; its memory is the peak of
resident memory less what the process held before, after a search of a small image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import cv2, numpy as np
from proposals import SelectiveSearch

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

cv2.setNumThreads(1)
photo, pixels, threads = cv2.imread(sys.argv[2]), float(sys.argv[3]) * 1e6, int(sys.argv[4])
scale = (pixels / (photo.shape[0] * photo.shape[1])) ** 0.5
size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
image = np.ascontiguousarray(cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)[..., ::-1])
search = SelectiveSearch(sys.argv[5], width=None, threads=threads)
search(image[:300, :400])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before, start = status("VmRSS"), time.perf_counter()
boxes = search(image)
seconds = time.perf_counter() - start
area = image.shape[0] * image.shape[1]
a_pixel = (status("VmHWM") - before) / area
print(f"{area / 1e6:10.1f} {seconds:8.2f} {len(boxes):8} {a_pixel:14.1f}")
"""


def main() -> None:
    """Read the settings, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photo", help="any photo, the larger the better")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", default="fast")
    args = parser.parse_args()
    print(f"{'megapixels':>10} {'seconds':>8} {'boxes':>8} {'bytes a pixel':>14}")
    for megapixels in args.megapixels:
        settings = [str(ROOT), args.photo, str(megapixels), str(args.threads), args.preset]
        subprocess.run([sys.executable, "-c", WORKER, *settings], check=True)


if __name__ == "__main__":
    main()
