"""The figures of the page of scores: curves, the matrix of confusions, crops with their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.pages import decimal, percent, place_box
from detect.scoring.curves import (
    COLOURS,
    NAMED_ENDS,
    Curve,
    class_curves,
    curve_title,
    mean_curve,
    named_curves,
)
from detect.scoring.scores import Scores
from detect.scoring_examples import Box, Crop, Example

PAIRS_SHOWN = 20  # confusions in the list
MATRIX_CLASSES = 30  # up to so many classes the matrix holds all, of more the most confused
PLOT_WIDTH, PLOT_HEIGHT = 600, 400  # of the curves, in units of their picture


def describe_chart(scores: Scores) -> dict[str, Any]:
    """Describe the lines of the curves, thin ones first, and their legend, the mean first."""
    curves = class_curves(scores)
    named = {curve.label: i for i, curve in enumerate(named_curves(curves))}

    def line(curve: Curve) -> dict[str, Any]:
        rank = named.get(curve.label)
        return {
            "label": curve.label,
            "name": curve.name,
            "ap": decimal(curve.ap),
            "points": _points(curve.best_precision),
            "colour": None if rank is None else COLOURS[rank],
            "dashed": rank is not None and rank >= NAMED_ENDS,
        }

    lines = [line(curve) for curve in curves]
    order = sorted(named, key=lambda label: named[label])
    legend = [next(line for line in lines if line["label"] == label) for label in order]
    return {
        "title": curve_title(scores),
        "thin": [line for line in lines if line["colour"] is None],
        "named": legend,
        "all_named": len(curves) == len(named),
        "mean": _points(mean_curve(curves)) if len(curves) > 1 else "",
        "mean_ap": decimal(float(np.mean([c.ap for c in curves])) if curves else None),
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
    }


def _points(precision: NDArray[np.float64]) -> str:
    """Return a curve at equally spaced recalls as points of SVG; it ends where it falls to 0."""
    zeros = np.flatnonzero(precision == 0)
    end = int(zeros[0]) + 1 if len(zeros) else len(precision)
    steps = PLOT_WIDTH / (len(precision) - 1)
    pairs = enumerate(precision[:end].tolist())
    return " ".join(f"{i * steps:g},{(1 - value) * PLOT_HEIGHT:.1f}" for i, value in pairs)


def describe_confusion(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Describe the most frequent confusions and the matrix of the classes that matter."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    most = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_SHOWN]
    cells = [divmod(cell, len(names)) for cell in most.tolist()]
    pairs = [(i, j, int(wrong[i, j])) for i, j in cells if wrong[i, j]]
    largest = max([1, *(count for _, _, count in pairs)])
    chosen = np.arange(len(names))
    if len(names) > MATRIX_CLASSES:
        weight = wrong.sum(axis=0) + wrong.sum(axis=1)
        chosen = np.sort(np.argsort(-weight, kind="stable")[:MATRIX_CLASSES])
        chosen = chosen[weight[chosen] > 0]
    return {
        "total": int(wrong.sum()),
        "pairs": [(names[i], names[j], count, percent(count / largest)) for i, j, count in pairs],
        "names": [names[i] for i in chosen.tolist()],
        "rows": [_describe_row(confusion[i], chosen, i, names[i]) for i in chosen.tolist()],
        "all": len(chosen) == len(names),
        "num_classes": len(names),
    }


def _describe_row(
    counts: NDArray[np.int64], chosen: NDArray[np.intp], label: int, name: str
) -> dict[str, Any]:
    """Describe a row of the matrix: counts, and their shares of all detections on the class."""
    total = max(1, int(counts.sum()))
    cells = [(int(counts[j]), round(int(counts[j]) / total, 3), j == label) for j in chosen]
    return {"name": name, "cells": cells, "others": int(counts.sum() - counts[chosen].sum())}


def describe_examples(
    worst: Mapping[str, Sequence[Example]], crops: Iterator[Crop] | None
) -> Iterator[dict[str, Any]]:
    """Describe the worst errors kind by kind; crops come in their order."""
    for kind, examples in worst.items():
        rows = [_describe_example(example, next(crops) if crops else None) for example in examples]
        yield {"kind": kind, "rows": rows}


def _describe_example(example: Example, crop: Crop | None) -> dict[str, Any]:
    shown = example.box or example.target_box
    assert shown is not None  # an error has a detection or an object
    width, height = shown[2] - shown[0], shown[3] - shown[1]
    size = f"{width:.0f} x {height:.0f} pixels"
    if example.box is None:
        title, detail = example.target or "", f"not found, {size}"
    else:
        title = f"{example.detected} {decimal(example.score)}"
        detail = "on no object"
        if example.target is not None:
            detail = f"IoU {example.overlap:.2f} with {example.target}"
    return {
        "example": example,
        "title": title,
        "detail": detail,
        "score": decimal(example.score),
        "overlap": decimal(example.overlap if example.target_box and example.box else None, 2),
        "size": size,
        "address": crop.address if crop else None,
        "aspect": round(_aspect(crop.region), 4) if crop else 1,
        "detection": place_box(example.box, crop.region) if crop and example.box else None,
        "object": place_box(example.target_box, crop.region)
        if crop and example.target_box
        else None,
    }


def _aspect(region: Box) -> float:
    return (region[2] - region[0]) / (region[3] - region[1])
