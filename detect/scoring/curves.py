"""Precision-recall curves: one a class and their mean, as numbers and as pictures."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detect.files import write_atomically
from detect.scoring.average_precision import (
    COCO_RECALLS,
    TRUE_POSITIVE,
    precision_at,
    precision_recall,
)
from detect.scoring.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERSION = 1  # of curves.npz
NAMED_ALL = 8  # up to this many classes are all named in a picture
NAMED_ENDS = 4  # of more classes, so many of the best and of the worst
NAME_LENGTH = 26  # letters of a class's name in a picture
# Told apart by most kinds of colour vision (Okabe & Ito 2008), by their dashes too: best, worst.
COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#7A6FBE", "#D55E00", "#E69F00", "#CC79A7", "#8C564B")


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class at the first IoU threshold.

    The points are those after each true positive: no recall lies between them, and the best
    precision from a recall on is always one of theirs.

    Attributes:
        label: The class from 0.
        id: Its number in the results files.
        name: Its name.
        ap: Average precision of this very curve, 0..1; for COCO that at IoU 0.5.
        precision: After each true positive, 0..1, ``[P]``.
        recall: Likewise, rising, 0..1, ``[P]``.
        scores: Of the true positives, falling, ``[P]``.
        best_precision: Best precision from the recalls 0, 0.01, ..., 1 on, ``[101]``.
    """

    label: int
    id: int
    name: str
    ap: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]
    best_precision: NDArray[np.float64]


def class_curves(scores: Scores) -> tuple[Curve, ...]:
    """Return the curve of every class that has objects to be found, in the order of the classes."""
    matches = scores.matches
    curves = []
    for label, score in enumerate(scores.classes):
        positives = int(matches.positives[label])
        ap = score.ap if score.ap50 is None else score.ap50
        if not positives or ap is None:
            continue
        start, end = matches.class_starts[label : label + 2]
        outcomes = matches.outcomes[0, start:end]  # [n]
        precision, recall = precision_recall(outcomes, positives)
        at = np.flatnonzero(outcomes == TRUE_POSITIVE)
        curves.append(
            Curve(
                label=label,
                id=score.id,
                name=score.name,
                ap=ap,
                precision=precision[at],
                recall=recall[at],
                scores=matches.found.scores[start:end][at],
                best_precision=precision_at(precision[at], recall[at], COCO_RECALLS),
            )
        )
    return tuple(curves)


def mean_curve(curves: Sequence[Curve]) -> NDArray[np.float64]:
    """Return the mean over classes of the best precision from 101 recalls on, ``[101]``.

    It is 0 where there is no class. Its mean over the recalls is COCO's average precision.
    """
    if not curves:
        return np.zeros(len(COCO_RECALLS))
    rows = np.stack([curve.best_precision for curve in curves])  # [K, 101]
    return np.asarray(rows.mean(axis=0))


def named_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Choose the curves that a picture names, best first.

    All of them up to ``NAMED_ALL``; of more, ``NAMED_ENDS`` at either end. Of equal classes the
    earlier counts as better.
    """
    ranked = sorted(curves, key=lambda curve: -curve.ap)
    return ranked if len(ranked) <= NAMED_ALL else ranked[:NAMED_ENDS] + ranked[-NAMED_ENDS:]


def write_curves(folder: Path, scores: Scores) -> None:
    """Write curves.npz, curves.png and curves.svg, each atomically.

    Classes without objects to be found are left out; equal scores give equal bytes. The arrays of
    curves.npz:

    - ``version``, ``format``, ``protocol``, ``rule``: what it is, and how ``ap`` was made of it;
    - ``iou_threshold``: the largest IoU that any object asked for (ILSVRC asks less of small ones);
    - ``class_ids`` ``[K]``, ``class_names`` ``[K]``, ``ap`` ``[K]`` and ``positives`` ``[K]``;
    - ``precision``, ``recall`` and ``score`` after each true positive, ``[P]``, class by class:
      those of class ``k`` stand at ``starts[k]:starts[k + 1]``;
    - ``recalls`` ``[101]``, ``precision_at_recalls`` ``[K, 101]``, the best precision from each
      recall on, and ``mean_precision`` ``[101]``.

    Args:
        folder: Made if need be.
        scores: What was scored.
    """
    curves = class_curves(scores)
    write_atomically(folder / "curves.npz", _archive(scores, curves))
    png, svg = _draw(scores, curves)
    write_atomically(folder / "curves.png", png)
    write_atomically(folder / "curves.svg", svg)


def curve_title(scores: Scores) -> str:
    """Return what the curves are of, one line."""
    of = "at IoU 0.5, " if len(scores.matches.outcomes) > 1 else ""
    return f"Precision and recall, {of}{scores.protocol}"


def short_name(name: str, length: int = NAME_LENGTH) -> str:
    """Return a name on one line, without letters that no picture can hold, cut to a length."""
    valid = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in name)
    line = " ".join(valid.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _archive(scores: Scores, curves: Sequence[Curve]) -> bytes:
    """Return the content of curves.npz; it holds no objects, so that no pickle is read."""
    matches = scores.matches
    lengths = [len(curve.recall) for curve in curves]
    thresholds = matches.iou_thresholds[:1]
    labels = np.array([curve.label for curve in curves], dtype=np.intp)
    rows = [curve.best_precision for curve in curves]
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        version=np.array(VERSION),
        format=np.array(scores.format),
        protocol=np.array(scores.protocol),
        rule=np.array(matches.rule),
        iou_threshold=np.array(thresholds.max() if thresholds.size else np.nan),
        class_ids=np.array([curve.id for curve in curves], dtype=np.int64),
        class_names=np.array([curve.name for curve in curves], dtype=np.str_),
        ap=np.array([curve.ap for curve in curves], dtype=np.float64),
        positives=matches.positives[labels],
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        precision=np.concatenate([np.zeros(0), *(curve.precision for curve in curves)]),
        recall=np.concatenate([np.zeros(0), *(curve.recall for curve in curves)]),
        score=np.concatenate([np.zeros(0), *(curve.scores for curve in curves)]),
        recalls=COCO_RECALLS,
        precision_at_recalls=np.array(rows, dtype=np.float64).reshape(-1, len(COCO_RECALLS)),
        mean_precision=mean_curve(curves),
    )
    return stream.getvalue()


def _draw(scores: Scores, curves: Sequence[Curve]) -> tuple[bytes, bytes]:
    """Draw the curves as PNG and as SVG."""
    import matplotlib  # half a second to load, and only pictures need it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without a salt the names inside an SVG are random, and equal input gives other bytes.
    with matplotlib.rc_context({"svg.hashsalt": "curves"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in a name: drawn as a box
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        _draw_lines(figure, panel, curves)
        panel.set_title(curve_title(scores), fontsize=11, loc="left", parse_math=False)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()


def _draw_lines(figure: Figure, panel: Axes, curves: Sequence[Curve]) -> None:
    """Draw every class thinly, the named ones in colour, and their mean in bold."""
    named = named_curves(curves)
    shown = {curve.label for curve in named}
    opacity = float(np.clip(12 / max(1, len(curves)), 0.16, 0.6))
    for curve in curves:
        if curve.label not in shown:
            panel.plot(COCO_RECALLS, _drawn(curve), color="#8894A0", lw=0.8, alpha=opacity)
    lines, names = [], []
    for i, curve in enumerate(named):
        style = "--" if i >= NAMED_ENDS else "-"
        width = 2.6 if len(curves) == 1 else 1.3
        lines += panel.plot(COCO_RECALLS, _drawn(curve), style, color=COLOURS[i], lw=width)
        names.append(f"{curve.ap:.3f}  {short_name(curve.name)}")
    if len(curves) > 1:
        mean = mean_curve(curves)
        bold = panel.plot(COCO_RECALLS, mean, color="#111111", lw=3, solid_capstyle="round")
        lines = bold + lines
        names.insert(0, f"{np.mean([curve.ap for curve in curves]):.3f}  mean of {len(curves)}")
    panel.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    panel.set_xticks(np.arange(11) / 10)
    panel.set_yticks(np.arange(11) / 10)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if not curves:
        panel.text(0.5, 0.5, "no object is to be found", ha="center", va="center", color="#555555")
        return
    heading = "AP" if len(curves) <= NAMED_ALL else f"AP, the best and worst {NAMED_ENDS}"
    legend = figure.legend(
        lines, names, title=heading, loc="outside right upper", frameon=False, fontsize=9
    )
    legend.set_alignment("left")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _drawn(curve: Curve) -> NDArray[np.float64]:
    """Return the best precisions; NaN ends the line one step after it fell to 0."""
    drawn = curve.best_precision.copy()
    drawn[np.flatnonzero(drawn == 0)[1:]] = np.nan
    return drawn
