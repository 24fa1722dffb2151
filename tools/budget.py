"""Count and measure what a detector costs: parameters, multiply-adds, bytes, seconds a stage."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detect import config
from detect.allocator import keep_freed_memory
from detect.budget_report import format_budget, to_json
from detect.budget_run import run_budget
from detect.budget_settings import BudgetConfig
from detect.files import write_atomically
from tools.command_line import answer


def budget(arguments: list[str]) -> int:
    """Count, measure, print and write what was asked for; return the exit status."""
    paths, overrides = config.split_arguments(arguments)
    if paths:
        raise ValueError(f"{paths[0]}: give settings as name=value; --help shows them")
    settings, _ = config.load_config("budget", overrides)
    run = run_budget(settings)
    print(format_budget(run, layers=settings.layers))
    if settings.out:
        write_atomically(Path(settings.out), to_json(run, layers=settings.layers))
        print(f"\nwritten to {settings.out}")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(BudgetConfig)["template"], sep="\n")
        return 0
    keep_freed_memory()
    return answer("budget", lambda: budget(arguments))


if __name__ == "__main__":
    sys.exit(main())
