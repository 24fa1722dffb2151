"""The curves of the page of a training: what its log holds over the steps, as small charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

POINTS = 300  # of a line at most: about one in two of its picture's pixels
DOTTED = 40  # a line of at most so many points shows each as a dot
WINDOWS = 40  # a running mean goes over this part of the steps
HELD = 0.99  # share of the raw values that must find room in a chart; spikes are cut
CHART_WIDTH, CHART_HEIGHT = 560, 210  # in units of the picture
Y_PARTS, X_PARTS = 5, 6  # of an axis between its ticks, at most


@dataclass(frozen=True)
class Panel:
    """What one chart shows.

    Attributes:
        title: Its heading.
        kind: Rows of the log that it draws, ``step`` or ``validation``.
        columns: Their columns, a line each, with what the chart calls it.
        smoothed: Draw running means, and the raw values behind them.
        highest: Where the axis ends; ``None``: where the values do.
        thin: Columns that start with this are thin lines behind the others.
    """

    title: str
    kind: str
    columns: Mapping[str, str]
    smoothed: bool = True
    highest: float | None = None
    thin: str | None = None


PANELS = (
    Panel("mAP at validations", "validation", {"mAP": "mean"}, smoothed=False, thin="AP "),
    Panel("Class loss", "step", {"class_loss": "regions", "auxiliary_loss": "auxiliary"}),
    Panel("Box loss", "step", {"box_loss": "regions"}),
    Panel(
        "Accuracy",
        "step",
        {"foreground_accuracy": "foreground", "background_accuracy": "background"},
        highest=1.0,
    ),
    Panel("Learning rate", "step", {"learning_rate": "of the trunk"}, smoothed=False),
)


def best_validation(rows: Sequence[Row]) -> tuple[int, float] | None:
    """Return the step and the mAP of the best validation, of equal ones the first.

    Args:
        rows: Of the log of a training.

    Returns:
        ``None`` where no mAP is defined.
    """
    validations = [row for row in rows if row["kind"] == "validation"]
    measured = [(row["step"], _number(row.get("mAP"))) for row in validations]
    defined = [each for each in measured if not math.isnan(each[1])]
    return max(defined, key=lambda each: each[1], default=None)


def describe_panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Describe the charts of a log, those left out of which no value is defined.

    Args:
        rows: Of the log of a training, in the order of their steps. Values that are absent,
            ``None`` or not finite are gaps, over which lines are drawn.
    """
    last = max([1, *(row["step"] for row in rows)])
    best = best_validation(rows)
    described = []
    for panel in PANELS:
        of_kind = [row for row in rows if row["kind"] == panel.kind]
        lines = {name: _column(of_kind, name) for name in panel.columns}
        lines = {name: values for name, values in lines.items() if np.isfinite(values).any()}
        if lines:
            chart = _describe_chart(panel, of_kind, lines, last)
            chart["best"] = None if best is None else round(best[0] / last * CHART_WIDTH, 1)
            described.append(chart)
    return described


def running_mean(values: Floats, window: int) -> Floats:
    """Return the mean of the values around each, as far as they are defined.

    Args:
        values: NaN where undefined, ``[N]``.
        window: Values that a mean goes over, from 1; fewer at the ends.

    Returns:
        Means, ``[N]``; NaN where no value around is defined.
    """
    if not len(values):
        return values
    defined = np.isfinite(values)
    part = slice((window - 1) // 2, (window - 1) // 2 + len(values))
    # Sums by themselves, not differences of sums so far: a spike would blur all that follows.
    sums = np.convolve(np.where(defined, values, 0.0), np.ones(window))[part]
    counts = np.convolve(defined, np.ones(window))[part]
    means: Floats = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def find_ticks(highest: float, parts: int, *, whole: bool = False) -> list[float]:
    """Return round numbers from 0 in equal steps of 1, 2 or 5 times a power of ten.

    Args:
        highest: Positive; the last tick reaches it, and the one before does not.
        parts: So many steps at most.
        whole: Let steps be whole numbers.
    """
    rough = highest / parts
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    count = max(1, math.ceil(highest / step - 1e-6))
    return [i * step for i in range(count + 1)]


def _number(value: float | None) -> float:
    """Return a value of the log, NaN where it is undefined."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([_number(row.get(name)) for row in rows], dtype=np.float64)


def _describe_chart(
    panel: Panel, rows: Sequence[Row], raw: Mapping[str, Floats], last: int
) -> dict[str, Any]:
    """Describe a chart: its axes, its lines with what lies behind them, its thin lines."""
    window = max(1, len(rows) // WINDOWS) if panel.smoothed else 1
    lines = {name: running_mean(values, window) for name, values in raw.items()}
    thin = {}
    if panel.thin is not None:
        names = dict.fromkeys(name for row in rows for name in row if name.startswith(panel.thin))
        thin = {name: _column(rows, name) for name in names}
    highest = panel.highest
    if highest is None:
        tops = [np.nanmax(values) for values in lines.values()]
        tops += [np.nanquantile(values, HELD) for values in raw.values()]
        tops += [np.nanmax(values) for values in thin.values() if np.isfinite(values).any()]
        highest = float(max(tops))
    ticks = find_ticks(highest if highest > 1e-12 else 1.0, Y_PARTS)
    x = np.array([row["step"] for row in rows]) / last * CHART_WIDTH

    def heights(values: Floats) -> Floats:
        return CHART_HEIGHT * (1 - np.clip(values / ticks[-1], 0, 1))

    return {
        "title": panel.title,
        "window": window,
        "width": CHART_WIDTH,
        "height": CHART_HEIGHT,
        "x_ticks": [
            (f"{tick:,.0f}", round(tick / last * CHART_WIDTH, 1))
            for tick in find_ticks(last, X_PARTS, whole=True)
            if tick <= last
        ],
        "y_ticks": [
            (f"{tick:g}", round((1 - tick / ticks[-1]) * CHART_HEIGHT, 1)) for tick in ticks
        ],
        "thin": [
            {"name": name, "points": _points(*_thinned(x, heights(values)))}
            for name, values in thin.items()
        ],
        "lines": [
            {
                "name": panel.columns[name],
                "last": f"{values[np.isfinite(values)][-1]:.3g}",
                "points": _points(*_thinned(x, heights(values))),
                "dots": _dots(x, heights(values), rows, values),
                "band": _band(x, heights(raw[name])) if window > 1 else "",
            }
            for name, values in lines.items()
        ],
    }


def _starts(count: int) -> NDArray[np.int64]:
    """Return where each of at most ``POINTS`` equal parts of so many values starts."""
    parts = min(count, POINTS)
    return np.arange(parts, dtype=np.int64) * count // max(1, parts)


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Keep the value in the middle of each part of a line, and its end."""
    starts = _starts(len(x))
    chosen = (starts + np.append(starts[1:], len(x))) // 2
    chosen[-1] = len(x) - 1
    return x[chosen], y[chosen]


def _points(x: Floats, y: Floats) -> str:
    """Return the defined points of a line as SVG has them."""
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in pairs if not math.isnan(top))


def _band(x: Floats, y: Floats) -> str:
    """Return the outline of all values as points of SVG: the extremes of each part."""
    starts = _starts(len(x))
    across = x[starts]
    upper, lower = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    return f"{_points(across, upper)} {_points(across[::-1], lower[::-1])}"


def _dots(x: Floats, y: Floats, rows: Sequence[Row], values: Floats) -> list[dict[str, Any]]:
    """Describe the points of a short line: the only way to see a line of one."""
    if len(x) > DOTTED:
        return []
    return [
        {"x": round(left, 1), "y": round(top, 1), "title": f"step {row['step']:,}: {value:.4g}"}
        for left, top, row, value in zip(x.tolist(), y.tolist(), rows, values.tolist(), strict=True)
        if not math.isnan(value)
    ]
