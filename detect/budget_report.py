"""What was counted and measured of a checkpoint, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from detect.budget import PAPER_MULTIPLY_ADDS, Budget, Cost
from detect.budget_run import BudgetRun, Measured

_PARTS = {
    "crop": "the network on a crop",
    "trunk": "conv1 .. 4e on the image",
    "region": "5a, 5b on a region",
    "head": "the head on a region",
}


def format_budget(run: BudgetRun, *, layers: bool) -> str:
    """Write what was counted and measured for people.

    Args:
        run: What is known.
        layers: Whether to list every layer.
    """
    height, width = run.image_size
    budget = run.budget
    threads = f", threads={run.threads}" if run.device == "cpu" else ""
    rejected = f" scored, {run.rejected} rejected at first sight" if run.rejected else ""
    lines = [
        f"{run.checkpoint}: {run.layout} layout, {run.classes} classes; image {height} x {width}, "
        f"{budget.proposals} proposals{rejected}; {run.precision} on {run.device}{threads}",
        *_format_counts(budget),
        *_format_bytes(budget.bytes),
    ]
    for mode, measured in run.measured.items():
        lines += _format_measured(mode, measured, stage_multiply_adds(budget, mode))
    if layers:
        for part, title in _PARTS.items():
            lines += _format_layers(title, getattr(budget, part))
    return "\n".join(lines)


def stage_multiply_adds(budget: Budget, mode: str) -> dict[str, int]:
    """Return the multiply-adds of the stages of an image in which the network computes."""
    if mode == "crops":
        return {"network": budget.proposals * budget.crop.multiply_adds}
    regions = budget.proposals * budget.region.multiply_adds
    return {"trunk": budget.trunk.multiply_adds, "network": regions}


def _format_counts(budget: Budget) -> Iterator[str]:
    ratio = budget.crop.multiply_adds / PAPER_MULTIPLY_ADDS
    sizes = ", ".join(f"{height} x {width}" for height, width in budget.trunk_sizes)
    image = budget.image_multiply_adds()
    less = image["crops"] / image["shared"]
    parameters = budget.parameters
    yield "\nparameters"
    yield f"  network {parameters['network']:,}, head {parameters['head']:,}"
    yield "multiply-adds"
    yield (
        f"  a crop          {_giga(budget.crop.multiply_adds)}, {ratio:.2f} x the paper's "
        f"{_giga(PAPER_MULTIPLY_ADDS).strip()}"
    )
    yield f"  trunk           {_giga(budget.trunk.multiply_adds)}, image at {sizes}"
    yield f"  5a, 5b a region {_giga(budget.region.multiply_adds)}"
    yield f"  head a region   {_giga(budget.head.multiply_adds)}"
    yield f"  image by crops  {_giga(image['crops'])}"
    yield f"  image, shared   {_giga(image['shared'])}, {less:.1f} x less"


def _format_bytes(sizes: dict[str, int]) -> Iterator[str]:
    yield "megabytes (activations: an estimate)"
    names = {
        "weights": "weights",
        "crops batch": "activations, a batch of crops and worker",
        "shared batch": "activations, a batch of regions and worker",
        "trunk": "activations, trunk",
        "map": "maps of the image",
        "proposals": "proposals",
        "results": "logits and offsets",
    }
    for key, name in names.items():
        yield f"  {name:44}{sizes[key] / 1e6:10.3f}"


def _format_measured(mode: str, measured: Measured, counts: dict[str, int]) -> Iterator[str]:
    yield (
        f"\nmeasured, regions={mode}: {measured.seconds:.3f} s an image; the network reaches "
        f"{100 * measured.share_of_peak(counts):.0f} % of the machine's peak of "
        f"{measured.peak / 1e9:.0f} G multiply-adds/s"
    )
    yield f"  {'':10}{'seconds':>10}{'core seconds':>14}{'share of peak':>15}"
    for name, stage in measured.stages.items():
        share = ""
        if name in counts:
            share = f"{100 * measured.share_of_peak({name: counts[name]}):.0f} %"
        yield f"  {name:10}{stage.seconds:10.4f}{stage.core_seconds:14.4f}{share:>15}"


def _format_layers(title: str, cost: Cost) -> Iterator[str]:
    yield f"\n{title:36}{'multiply-adds':>16}{'share':>8}{'parameters':>13}"
    for layer in cost.layers:
        share = 100 * layer.multiply_adds / cost.multiply_adds
        yield (f"  {layer.name:34}{layer.multiply_adds:16,}{share:6.1f} %{layer.parameters:13,}")


def _giga(count: float) -> str:
    """Write a number of multiply-adds in billions, right-aligned."""
    return f"{count / 1e9:12.4f} G"


def to_json(run: BudgetRun, *, layers: bool) -> str:
    """Write the same numbers as JSON.

    Args:
        run: What is known.
        layers: Whether to list every layer.
    """
    budget = run.budget
    content: dict[str, Any] = {
        "checkpoint": run.checkpoint,
        "layout": run.layout,
        "classes": run.classes,
        "image_size": list(run.image_size),
        "proposals": budget.proposals,
        "rejected": run.rejected,
        "precision": run.precision,
        "device": run.device,
        "threads": run.threads,
        "trunk_sizes": [list(size) for size in budget.trunk_sizes],
        "parameters": budget.parameters,
        "multiply_adds": {
            **{part: getattr(budget, part).multiply_adds for part in _PARTS},
            "paper_crop": PAPER_MULTIPLY_ADDS,
            "image": budget.image_multiply_adds(),
        },
        "bytes": budget.bytes,
        "measured": {
            mode: _measured_to_json(measured, stage_multiply_adds(budget, mode))
            for mode, measured in run.measured.items()
        },
    }
    if layers:
        content["layers"] = {
            part: [asdict(layer) for layer in getattr(budget, part).layers] for part in _PARTS
        }
    return json.dumps(content, indent=1) + "\n"


def _measured_to_json(measured: Measured, counts: dict[str, int]) -> dict[str, Any]:
    stages = {
        name: {"seconds": stage.seconds, "core_seconds": stage.core_seconds}
        for name, stage in measured.stages.items()
    }
    for name, count in counts.items():
        stages[name]["share_of_peak"] = measured.share_of_peak({name: count})
    return {
        "seconds": measured.seconds,
        "peak_multiply_adds_a_second": measured.peak,
        "network_share_of_peak": measured.share_of_peak(counts),
        "stages": stages,
    }
