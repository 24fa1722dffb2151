"""Propose boxes for photos or a data set, and measure how well they cover its objects.

usage: python tools/propose.py PATH... [key=value ...]
       python tools/propose.py data=NAME data.root=FOLDER data.split=val [key=value ...]
       python tools/propose.py recall FILE... data=NAME data.root=FOLDER [key=value ...]

PATH: photos, folders, globs, or - for a list on standard input. FILE: what this tool wrote; several
are compared. NAME: voc, coco or ilsvrc; docs/data.md has their settings. The same command goes on
where an interrupted one stopped. Exit status: 0 done, 1 some inputs were skipped (skipped.csv names
them), 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detect import config, proposing
from detect.recall_report import format_table, measure_recall, open_files, write_recall_report
from detect.results import write_skipped
from detect.settings import ProposeConfig, RecallConfig
from proposals.compute import compute_proposals
from tools.command_line import answer, read_data
from tools.progress import progress


def propose(paths: list[str], overrides: list[str]) -> int:
    """Compute the file of proposals and print the summary; return the exit status."""
    settings, _ = config.load_config("propose", overrides)
    out, workers = Path(settings.out), settings.workers or os.cpu_count() or 1
    records = settings.data and read_data(settings.data).records
    sources = proposing.photo_sources(paths, records)
    proposer, again = config.build("proposer", settings.proposer), settings.overwrite
    with progress(len(sources), "photos") as bar:
        outcome = compute_proposals(
            sources, proposer, out, overwrite=again, workers=workers, on_progress=bar.update
        )
    write_skipped(out.with_name("skipped.csv"), outcome.skipped)
    print(proposing.summarise(outcome, out))
    return 1 if outcome.skipped else 0


def recall(paths: list[str], overrides: list[str]) -> int:
    """Measure files of proposals, print the table and write it; return the exit status."""
    settings, plain = config.load_config("recall", overrides)
    files, records = open_files(paths), read_data(settings.data).records
    rules = {name: plain[name] for name in ("budgets", "difficult", "plot_budget")}
    report = measure_recall(files, records, **rules)
    write_recall_report(Path(settings.out), report, plain)
    print(f"{format_table(report)}\n\nwritten to {settings.out}: recall.json, recall.png")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        helps = (ProposeConfig, RecallConfig)
        print(__doc__, *(config.settings_help(c)["template"] for c in helps), sep="\n")
        return 0 if arguments else 2
    command, given = (recall, arguments[1:]) if arguments[0] == "recall" else (propose, arguments)
    return answer("propose", lambda: command(*config.split_arguments(given)))


if __name__ == "__main__":
    sys.exit(main())
