"""Detect objects in photos and videos.

usage: python tools/detect.py PATH... [key=value ...]

PATH: photos, videos, folders, globs, or - for a list on standard input. The same command goes on
where an interrupted one stopped. Exit status: 0 done, 1 some inputs were skipped (out/skipped.csv
names them), 2 the request was wrong, 130 interrupted.
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

from detect import config
from detect.allocator import keep_freed_memory, keep_kernels
from detect.images import find_images, is_video
from detect.ledger import Ledger
from detect.run import DetectionRun, summarise, versions, write_outputs
from detect.settings import DetectConfig, build_detector, decisive_settings, tell_cost
from detect.workers import share_cores
from tools.command_line import answer
from tools.progress import progress


def run(paths: list[str], overrides: list[str]) -> int:
    """Detect, write every file and print the summary; return the exit status."""
    start = time.perf_counter()
    settings, plain = config.load_config("detect", overrides)
    out = Path(settings.out)
    sources = [s for s in find_images(paths) if out.resolve() not in s.path.resolve().parents]
    if not sources:
        raise ValueError(f"{' '.join(paths) or 'no PATH given'}: no photo or video there")
    videos = any(is_video(source.path) for source in sources)
    at_once, cores = share_cores(settings.threads, None if videos else len(sources))
    if cost := tell_cost(settings):
        print(cost, file=sys.stderr)
    detector = build_detector(settings, cores)
    names, decisive = detector.class_names, decisive_settings(settings, plain, detector.proposer)
    with Ledger.open(
        out / "detections.jsonl", decisive, names, overwrite=settings.overwrite
    ) as ledger:
        config.write_yaml(out / "run.yaml", plain | decisive | {"versions": versions()})
        detection = DetectionRun(
            detector,
            ledger,
            threads=at_once,
            frame_step=settings.frame_step,
            drawn=out / "drawn" if settings.drawn else None,
            draw_threshold=settings.draw_threshold,
        )
        with progress(None if videos else len(sources), "photos") as bar:
            outcome = detection(sources, bar.update)
        ledger.compact([result.name for result in outcome.results])
    write_outputs(out, outcome, sources, names, detection, plain)
    print(summarise(outcome, detection.clock.seconds, time.perf_counter() - start, out))
    return 1 if outcome.skipped else 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(DetectConfig)["template"], sep="\n")
        return 0 if arguments else 2
    keep_freed_memory()
    keep_kernels(4_000)
    return answer("detect", lambda: run(*config.split_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
