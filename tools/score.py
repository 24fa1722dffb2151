"""Score a results file: format=ilsvrc|coco|voc|clsloc predictions=FILE annotations=... out=DIR."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from detect import config
from detect.score_run import score_and_write
from detect.score_settings import ScoreConfig
from tools.command_line import answer
from tools.progress import progress


def score(arguments: list[str]) -> int:
    """Read, check, score, print the table and write the results; return the exit status."""
    paths, overrides = config.split_arguments(arguments)
    if paths:
        raise ValueError(f"{paths[0]}: give settings as name=value; --help shows them")
    settings, _ = config.load_config("score", overrides)
    print(score_and_write(settings, progress))
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(ScoreConfig)["template"], sep="\n")
        return 0 if arguments else 2
    # Hardly anything is freed before the end; looking for it takes a fifth of a short run.
    gc.disable()
    return answer("score", lambda: score(arguments))


if __name__ == "__main__":
    sys.exit(main())
