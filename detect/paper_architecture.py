"""Table 1 of "Going deeper with convolutions", row by row, beside the network that is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from detect.budget import count_cost
from detect.googlenet import GoogLeNet

_K, _M = 1024, 1_000_000  # the paper's K fits 1024: 64 * 64 + 64 * 192 * 9 weights are its 112K


@dataclass(frozen=True)
class ArchitectureRow:
    """A row of Table 1: the paper's figures and those counted here.

    Attributes:
        name: Of the layer.
        size: Channels, height and width of its output for an image of 224 x 224.
        depth: Layers with weights, one after another.
        weights: Without biases.
        multiply_adds: Of one image.
        paper: Size (height, width, channels), depth, weights and operations as printed.
        note: Why they differ, where they do.
    """

    name: str
    size: tuple[int, ...]
    depth: int
    weights: int
    multiply_adds: int
    paper: tuple[str, str, str, str]
    note: str = ""


# Name here, name there, and the columns as printed: output size, depth, params, ops.
_PAPER = (
    ("conv1", "convolution 7x7/2", "112x112x64", "1", "2.7K", "34M"),
    ("conv2 conv3", "convolution 3x3/1", "56x56x192", "2", "112K", "360M"),
    ("inception3a", "inception (3a)", "28x28x256", "2", "159K", "128M"),
    ("inception3b", "inception (3b)", "28x28x480", "2", "380K", "304M"),
    ("inception4a", "inception (4a)", "14x14x512", "2", "364K", "73M"),
    ("inception4b", "inception (4b)", "14x14x512", "2", "437K", "88M"),
    ("inception4c", "inception (4c)", "14x14x512", "2", "463K", "100M"),
    ("inception4d", "inception (4d)", "14x14x528", "2", "580K", "119M"),
    ("inception4e", "inception (4e)", "14x14x832", "2", "840K", "170M"),
    ("inception5a", "inception (5a)", "7x7x832", "2", "1072K", "54M"),
    ("inception5b", "inception (5b)", "7x7x1024", "2", "1388K", "71M"),
    ("fc", "linear", "1x1x1000", "1", "1000K", "1M"),
)
_TOLERANCE = 0.02  # that the paper's rounding explains


def architecture(network: GoogLeNet | None = None) -> list[ArchitectureRow]:
    """Count Table 1 again; by default of the paper's network, never trained."""
    network = GoogLeNet(1000) if network is None else network
    cost = count_cost(network, (3, 224, 224), lambda module, inputs: module(inputs))
    shapes = _output_shapes(network)
    rows = []
    for ours, name, *printed in _PAPER:
        parts = ours.split()
        layers = [layer for layer in cost.layers if layer.name.partition(".")[0] in parts]
        modules = [getattr(network, part) for part in parts]
        weights = sum(
            parameter.numel()
            for module in modules
            for parameter in module.parameters()
            if parameter.ndim > 1
        )
        multiply_adds = sum(layer.multiply_adds for layer in layers)
        paper = (printed[0], printed[1], printed[2], printed[3])
        note = _explain(name, weights, multiply_adds, paper)
        depth = 2 if ours.startswith("inception") else len(parts)
        rows.append(
            ArchitectureRow(name, shapes[parts[-1]], depth, weights, multiply_adds, paper, note)
        )
    return rows


def _explain(name: str, weights: int, multiply_adds: int, paper: tuple[str, str, str, str]) -> str:
    """Say why a row differs from the paper's."""
    off = [
        what
        for what, ours, printed in (
            ("weights", weights, _number(paper[2])),
            ("operations", multiply_adds, _number(paper[3])),
        )
        if abs(ours / printed - 1) > _TOLERANCE and abs(ours - printed) > 0.6 * _unit(paper, what)
    ]
    if not off:
        return ""
    if name.startswith("convolution 7x7"):
        return "a slip: 7 * 7 * 3 * 64 weights are 9.2K, at 112 x 112 points 118M"
    return f"{' and '.join(off)} do not follow from the channels printed in the same row"


def _number(printed: str) -> float:
    return float(printed[:-1]) * {"K": _K, "M": _M}[printed[-1]]


def _unit(paper: tuple[str, str, str, str], what: str) -> float:
    return {"K": _K, "M": _M}[paper[2 if what == "weights" else 3][-1]]


def _output_shapes(network: GoogLeNet) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each part of the network makes of an image of 224 x 224."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            shapes[name] = tuple(output.shape[1:])

        return hook

    handles = [part.register_forward_hook(note(n)) for n, part in network.named_children()]  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, 224, 224))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def format_architecture(rows: list[ArchitectureRow]) -> Iterator[str]:
    """Yield the table as Markdown, the paper's figures in brackets."""
    yield "| layer | output (paper) | depth (paper) | weights (paper) | multiply-adds (paper) | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        size, depth, weights, operations = row.paper
        ours = "x".join(map(str, (*row.size[1:], row.size[0]) if len(row.size) == 3 else row.size))
        yield (
            f"| {row.name} | {ours} ({size}) | {row.depth} ({depth}) "
            f"| {row.weights / _K:.1f}K ({weights}) "
            f"| {row.multiply_adds / _M:.1f}M ({operations}) | {row.note} |"
        )
    total, all_adds = sum(r.weights for r in rows), sum(r.multiply_adds for r in rows)
    yield (
        f"| in all | | {sum(r.depth for r in rows)} (22) | {total / _M:.2f} million "
        f"| {all_adds / _M:.0f}M (1.5 billion, section 1) | |"
    )
