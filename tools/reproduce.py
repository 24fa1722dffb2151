"""Measure the tables and claims of "Going deeper with convolutions" on the data at hand.

usage: python tools/reproduce.py [table=NAME] [key=value ...]

NAME: architecture, network, classification, proposals, detection, or all of them. Each row has the
paper's figure, ours, what it was measured on, and whether the two compare. Exit status: 0 done,
2 the request was wrong, 130 interrupted.
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
from detect.allocator import keep_freed_memory
from detect.reproduce_run import make_tables, write_tables
from detect.reproduce_settings import ReproduceConfig
from detect.run import versions
from tools.command_line import answer, read_data
from tools.progress import progress


def run(paths: list[str], overrides: list[str]) -> int:
    """Measure, print and write the tables; return the exit status."""
    if paths:
        raise ValueError(f"{paths[0]}: takes settings alone, key=value; --help explains")
    settings, _ = config.load_config("reproduce", overrides)
    records = read_data(settings.data).records if settings.data else []
    tables = []
    start = last = time.perf_counter()
    for table in make_tables(settings, records, progress):
        seconds, last = time.perf_counter() - last, time.perf_counter()
        print("\n".join([f"\n{table.name} ({seconds:.0f} s)\n", *table.lines]), flush=True)
        tables.append(table)
    facts = ", ".join(f"{name} {version}" for name, version in versions().items())
    write_tables(Path(settings.out), tables, f"{os.cpu_count()} cores; {facts}")
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{minutes:.1f} minutes; written to {settings.out}: tables.md, tables.json")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(ReproduceConfig)["template"], sep="\n")
        return 0
    keep_freed_memory()
    return answer("reproduce", lambda: run(*config.split_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
