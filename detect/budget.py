"""What a detector costs, counted from its network: multiply-adds, parameters and bytes.

Counted are the multiply-adds of convolutions and fully connected layers, as the paper counts them;
biases, pooling, normalisation and the sampling of regions take none. Networks run on torch's meta
device for this, where tensors have a shape and no values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from detect.checkpoint import Checkpoint
from detect.crops import CropConfig
from detect.googlenet import NUM_FEATURES, GoogLeNet, Inception, LocalResponseNorm
from detect.shared_geometry import resized_size

PAPER_MULTIPLY_ADDS = 1_500_000_000  # a crop; Szegedy et al. 2014, section 1
_HEAD_BYTES = 4  # a number of the head, and of boxes and scores, is float32

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """A convolution or a fully connected layer, for one input.

    Attributes:
        name: Its place in the network.
        multiply_adds: Of one pass.
        parameters: Weights and biases; with batch normalisation folded in, as inference has it.
        outputs: Numbers that it makes.
    """

    name: str
    multiply_adds: int
    parameters: int
    outputs: int


@dataclass(frozen=True)
class Cost:
    """What one input costs in a module.

    Attributes:
        layers: In the order in which they run.
        output_shape: Of the result, without the batch.
        live_numbers: Estimate of the most numbers that exist at a time: the input and the output
            of a layer, and of an inception block all that its branches make as well.
    """

    layers: tuple[Layer, ...]
    output_shape: tuple[int, ...]
    live_numbers: int

    @property
    def multiply_adds(self) -> int:
        """Of all layers."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)


@dataclass(frozen=True)
class Budget:
    """What a checkpoint costs for an image.

    Attributes:
        parameters: Trained numbers of ``network`` and ``head``.
        crop: The network on one crop.
        trunk: conv1 .. 4e on the whole image, at all sizes.
        region: 5a and 5b on one region of a map.
        head: Softmax and box regression on one region's features.
        trunk_sizes: Heights and widths at which the image enters the trunk, pixels.
        proposals: Regions of the image.
        bytes: Of the weights, of activations a batch, of the image's maps, of proposals and
            results.
    """

    parameters: dict[str, int]
    crop: Cost
    trunk: Cost
    region: Cost
    head: Cost
    trunk_sizes: tuple[tuple[int, int], ...]
    proposals: int
    bytes: dict[str, int]

    def image_multiply_adds(self) -> dict[str, int]:
        """Return those of the image in either mode."""
        crops = self.crop.multiply_adds + self.head.multiply_adds
        regions = self.region.multiply_adds + self.head.multiply_adds
        return {
            "crops": self.proposals * crops,
            "shared": self.trunk.multiply_adds + self.proposals * regions,
        }


def count_budget(
    checkpoint: Checkpoint,
    *,
    image_size: tuple[int, int],
    proposals: int,
    dtype: torch.dtype,
    batch_sizes: Mapping[str, int],
    levels: Sequence[int] | None = None,
) -> Budget:
    """Count what an image costs.

    Args:
        checkpoint: Not changed; its values do not matter.
        image_size: Height and width of the image, pixels.
        proposals: Regions of it.
        dtype: In which the network computes.
        batch_sizes: Regions that are computed together, of ``crops`` and ``shared``.
        levels: Places in the shared trunk's pyramid, those that regions are cut from; None: all.
    """
    network, head = checkpoint.network, checkpoint.head
    side = CropConfig().size
    pyramid = checkpoint.shared.pyramid
    factors = pyramid if levels is None else [pyramid[level] for level in levels]
    sizes = [resized_size(image_size, checkpoint.shared, factor) for factor in factors]
    trunks = [count_cost(network, (3, *size), _trunk) for size in sizes]
    trunk = add_costs(trunks)
    crop = count_cost(network, (3, side, side), GoogLeNet.features)
    # What pool4 leaves of the 14 x 14 points of a region is what it leaves of a crop's map.
    pooled = count_cost(network, (3, side, side), _pooled).output_shape
    region = count_cost(network, pooled, GoogLeNet.inception5)
    of_head = count_cost(head, (NUM_FEATURES,), lambda head, features: head(features)[0])
    live = {"crops": crop.live_numbers, "shared": region.live_numbers}
    batches = {f"{mode} batch": batch_sizes[mode] * live[mode] * dtype.itemsize for mode in live}
    results = proposals * sum(layer.outputs for layer in of_head.layers) * _HEAD_BYTES
    return Budget(
        parameters={"network": _parameters(network), "head": _parameters(head)},
        crop=crop,
        trunk=trunk,
        region=region,
        head=of_head,
        trunk_sizes=tuple(sizes),
        proposals=proposals,
        bytes={
            "weights": crop.parameters * dtype.itemsize + of_head.parameters * _HEAD_BYTES,
            **batches,
            "trunk": trunk.live_numbers * dtype.itemsize,
            "map": sum(math.prod(each.output_shape) for each in trunks) * dtype.itemsize,
            "proposals": proposals * 4 * _HEAD_BYTES,
            "results": results,
        },
    )


def count_cost(
    module: _Module, shape: tuple[int, ...], compute: Callable[[_Module, Tensor], Tensor]
) -> Cost:
    """Count what one input costs.

    Args:
        module: With plain layers, as trained; not changed.
        shape: Of the input, without the batch.
        compute: Runs the module, or a part of it, on a batch.
    """
    twin = copy.deepcopy(module).to("meta").eval()
    layers: list[Layer] = []
    live = [0]

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(part: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            numbers = inputs[0].numel() + output.numel()
            if isinstance(part, nn.Conv2d | nn.Linear):
                layers.append(_count_layer(name, part, output))
            elif isinstance(part, Inception):
                prefix = f"{name}." if name else ""
                numbers += sum(x.outputs for x in layers if x.name.startswith(prefix))
            live.append(numbers)

        return hook

    for name, part in twin.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.MaxPool2d | LocalResponseNorm | Inception):
            part.register_forward_hook(note(name))
    with torch.inference_mode():
        output = compute(twin, torch.empty(1, *shape, device="meta"))
    return Cost(tuple(layers), tuple(output.shape[1:]), max(live))


def add_costs(costs: Sequence[Cost]) -> Cost:
    """Add up what passes of the same layers cost that run one after the other.

    Args:
        costs: One at least.

    Returns:
        The sum of every layer, whose parameters count once; the most numbers that exist at a time,
        and the output, are those of the largest pass.
    """
    layers = [
        replace(
            same[0],
            multiply_adds=sum(layer.multiply_adds for layer in same),
            outputs=sum(layer.outputs for layer in same),
        )
        for same in zip(*(cost.layers for cost in costs), strict=True)
    ]
    return replace(max(costs, key=lambda cost: cost.live_numbers), layers=tuple(layers))


def _count_layer(name: str, layer: nn.Conv2d | nn.Linear, output: Tensor) -> Layer:
    weight = layer.weight
    # Every output is a sum over one row of the weights; every row has a bias, of its own or of
    # the batch normalisation behind it.
    return Layer(
        name=name,
        multiply_adds=output.numel() * weight[0].numel(),
        parameters=weight.numel() + len(weight),
        outputs=output.numel(),
    )


def _trunk(network: GoogLeNet, images: Tensor) -> Tensor:
    return network.inception4(network.stem(images))


def _pooled(network: GoogLeNet, images: Tensor) -> Tensor:
    return network.pool4(_trunk(network, images))  # type: ignore[no-any-return]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
