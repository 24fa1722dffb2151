"""How well files of proposals cover the objects of a data set: a table, JSON and a picture."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from detect.data.records import Record
from detect.files import write_atomically
from detect.images import printable
from detect.results import list_names
from proposals.recall import (
    average_best_overlap,
    average_recall,
    best_overlaps,
    mean_average_best_overlap,
    recall,
)
from proposals.store import ProposalFile

THRESHOLDS = tuple(round(0.5 + 0.01 * i, 2) for i in range(51))  # of the curve over IoU
# Told apart by most kinds of colour vision (Okabe & Ito 2008), and by their dashes in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class BudgetRecall:
    """What the first proposals of every photo cover.

    Attributes:
        budget: How many of each photo may be used; ``None`` for all.
        boxes: How many were used, mean over photos.
        recall_50: Share of the objects covered with an IoU of 0.5 or more.
        recall_70: Likewise 0.7.
        average_recall: Mean recall over IoU 0.5, 0.55, ..., 0.95.
        abo: Mean best IoU of the objects.
        mabo: Mean over classes of each class's mean best IoU.
    """

    budget: int | None
    boxes: float
    recall_50: float
    recall_70: float
    average_recall: float
    abo: float
    mabo: float


@dataclass(frozen=True)
class FileRecall:
    """What one file of proposals covers.

    Attributes:
        name: Of the file in the report.
        path: Of the file.
        settings: It was made with.
        budgets: Rising, all proposals last.
        curve: Recall at ``THRESHOLDS`` under the budget of the picture.
    """

    name: str
    path: str
    settings: Mapping[str, Any]
    budgets: tuple[BudgetRecall, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class RecallReport:
    """Several files on the same objects.

    Attributes:
        num_photos: Of the data set, those without objects among them.
        num_objects: That were looked for.
        difficult: Whether objects marked difficult are among them.
        plot_budget: Proposals a photo behind the curves over IoU.
        files: One for each file, in their order.
    """

    num_photos: int
    num_objects: int
    difficult: bool
    plot_budget: int
    files: tuple[FileRecall, ...]


def measure_recall(
    files: Mapping[str, ProposalFile],
    records: Sequence[Record],
    *,
    budgets: Sequence[int],
    difficult: bool = True,
    plot_budget: int = 1000,
) -> RecallReport:
    """Measure how well files of proposals cover the objects of a data set.

    Args:
        files: By the names they get in the report. Photos are found by their name in the data set,
            with or without the suffix of their file.
        records: The data set.
        budgets: Numbers of proposals a photo, each 1 or more.
        difficult: Whether objects marked difficult count.
        plot_budget: The one of the curve over IoU.

    Raises:
        ValueError: If a file lacks photos of the data set, there are no objects, or a budget is
            less than 1.
    """
    if min([*budgets, plot_budget]) < 1:
        raise ValueError(f"budgets={list(budgets)}, plot_budget={plot_budget}: 1 box or more")
    kept = [torch.ones_like(r.difficult) if difficult else ~r.difficult for r in records]
    truth = [record.boxes[keep] for record, keep in zip(records, kept, strict=True)]
    labels = torch.cat([torch.zeros(0, dtype=torch.int64)] + [r.labels for r in records])
    labels = labels[torch.cat([torch.zeros(0, dtype=torch.bool), *kept])]
    if not len(labels):
        raise ValueError("the data set has no object to cover")
    steps: list[int | None] = [*sorted(set(budgets)), None]
    found = []
    for name, file in files.items():
        columns, counts = _overlaps(file, records, truth, [*steps, plot_budget])
        rows = [
            _measure(step, overlaps, labels, counts)
            for step, overlaps in zip(steps, columns[:-1], strict=True)
        ]
        curve = tuple(recall(columns[-1], THRESHOLDS).tolist())
        found.append(FileRecall(name, printable(file.path), file.settings, tuple(rows), curve))
    return RecallReport(len(records), len(labels), difficult, plot_budget, tuple(found))


def open_files(paths: Sequence[str]) -> dict[str, ProposalFile]:
    """Open files of proposals, under their names without folder and suffix where these differ.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is given twice, none is, or one holds no proposals.
    """
    if not paths:
        raise ValueError("no FILE given: name files that tools/propose.py wrote")
    stems = [printable(Path(path).stem) for path in paths]
    names = [
        stem if stems.count(stem) == 1 else printable(Path(path).with_suffix(""))
        for stem, path in zip(stems, paths, strict=True)
    ]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two files have the name {repeated[0]}: name each once")
    return {name: ProposalFile.open(path) for name, path in zip(names, paths, strict=True)}


def format_table(report: RecallReport) -> str:
    """Return the numbers as text, a line for each file and budget."""
    marked = "counted" if report.difficult else "left out"
    width = max(len("proposals"), *(len(file.name) for file in report.files))
    titles = ("boxes", "R@0.5", "R@0.7", "AR", "ABO", "MABO")
    head = f"{'proposals':{width}}  {'budget':>6}  " + "  ".join(f"{t:>6}" for t in titles)
    lines = [
        f"{report.num_photos} photos, {report.num_objects} objects (difficult ones {marked})",
        "",
        head,
    ]
    for file in report.files:
        for row in file.budgets:
            measures = (row.recall_50, row.recall_70, row.average_recall, row.abo, row.mabo)
            numbers = "  ".join(f"{number:6.3f}" for number in measures)
            budget = "all" if row.budget is None else row.budget
            lines.append(f"{file.name:{width}}  {budget:>6}  {row.boxes:6.0f}  {numbers}")
        lines.append("")
    return "\n".join(lines[:-1])


def write_recall_report(
    out: Path, report: RecallReport, settings: Mapping[str, Any] | None = None
) -> None:
    """Write recall.json and recall.png into a folder, each atomically.

    Args:
        out: The folder.
        report: The numbers.
        settings: What they were asked for with, such as the data set.
    """
    content = {
        "rules": "IoU of half-open boxes; an object at the threshold is covered; average recall "
        "over IoU 0.5, 0.55, ..., 0.95; MABO over the classes that occur",
        "settings": settings or {},
        "thresholds": THRESHOLDS,
        **asdict(report),
    }
    write_atomically(out / "recall.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(out / "recall.png", _draw(report))


def _overlaps(
    file: ProposalFile,
    records: Sequence[Record],
    truth: Sequence[Tensor],
    budgets: Sequence[int | None],
) -> tuple[Tensor, Tensor]:
    """Return each object's best IoU under each budget, and each photo's number of proposals."""
    names = _find_photos(file, records)
    counts, columns = [], []
    for name, objects in zip(names, truth, strict=True):
        boxes = file[name]
        counts.append(len(boxes))
        columns.append(best_overlaps(boxes, objects, budgets))
    return torch.cat(columns, dim=1), torch.tensor(counts)


def _find_photos(file: ProposalFile, records: Sequence[Record]) -> list[str]:
    """Return the name of each record's photo in the file.

    Raises:
        ValueError: If some are not there; names the first.
    """
    known = dict(zip(list_names(file.names), file.names, strict=True))
    known |= {name: name for name in file.names}
    missing = [record.name for record in records if record.name not in known]
    if missing:
        held = f"it holds {file.names[0]!r}, ..." if file.names else "it holds none"
        raise ValueError(
            f"{file.path}: {len(missing)} of the data set's {len(records)} photos are missing, "
            f"the first is {missing[0]!r} ({held})"
        )
    return [known[record.name] for record in records]


def _measure(budget: int | None, overlaps: Tensor, labels: Tensor, counts: Tensor) -> BudgetRecall:
    half, tight = recall(overlaps, (0.5, 0.7)).tolist()
    used = counts if budget is None else counts.clamp(max=budget)
    return BudgetRecall(
        budget,
        used.float().mean().item(),
        half,
        tight,
        average_recall(overlaps).item(),
        average_best_overlap(overlaps).item(),
        mean_average_best_overlap(overlaps, labels).item(),
    )


def _draw(report: RecallReport) -> bytes:
    """Draw the report as PNG: recall and average recall over budgets, recall over IoU."""
    figure = Figure(figsize=(13, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    at_half, average, over_iou = figure.subplots(1, 3)
    for number, file in enumerate(report.files):
        style = {
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": _DASHES[number % len(_DASHES)],
        }
        boxes = [max(row.boxes, 1) for row in file.budgets]  # the axis has no place for 0
        for panel, measure in ((at_half, "recall_50"), (average, "average_recall")):
            values = [getattr(row, measure) for row in file.budgets]
            panel.plot(boxes, values, marker="o", markersize=4, label=_legend(file.name), **style)
            panel.plot(boxes[-1:], values[-1:], "o", markersize=8, mfc="none", color=style["color"])
        over_iou.plot(THRESHOLDS, file.curve, **style)
    _label(at_half, "recall at IoU 0.5", "proposals a photo, mean (circle: all)")
    _label(average, "average recall, IoU 0.5 to 0.95", "proposals a photo, mean (circle: all)")
    _label(over_iou, f"recall, first {report.plot_budget:,} proposals", "IoU")
    for panel in (at_half, average):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.xaxis.set_minor_locator(NullLocator())
    over_iou.set_xlim(0.5, 1)
    figure.suptitle(f"{report.num_photos:,} photos, {report.num_objects:,} objects", fontsize=11)
    columns = max(1, min(4, 120 // max(len(file.name) for file in report.files)))
    handles, names = at_half.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in a name: drawn as a box
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _legend(name: str) -> str:
    """Write a name so that matplotlib neither leaves it out for ``_`` nor sets it as a formula."""
    return " " + name.replace("$", r"\$")


def _label(panel: Axes, title: str, x_label: str) -> None:
    panel.set_title(title)
    panel.set_xlabel(x_label)
    panel.set_ylim(0, 1)
    panel.set_yticks([i / 10 for i in range(11)])
    panel.grid(alpha=0.3)
