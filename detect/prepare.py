"""A GoogLeNet as fast as the machine allows: frozen, simplified, for inference alone.

What is done pays in this order on a CPU: the weights of every convolution are packed once, in the
order that oneDNN's kernels read them, with the ReLU inside the kernel; maps stay channels last
and are pooled by compiled code; batch normalisation becomes part of the convolution before it;
the three 1x1 convolutions of an inception block that share an input run as one.
"""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detect.ensemble import EnsembleNetwork
from detect.googlenet import ConvReLU, GoogLeNet, Inception, LocalResponseNorm
from detect.map_operations import CompiledMaxPool, CompiledResponseNorm
from detect.precision import multiplies_tiles
from proposals.multibox import MultiBox

# Side of each part's input for a 224 x 224 crop: oneDNN picks the order of weights by it.
_SIDES = {"conv1": 224, "conv2": 56, "conv3": 56, "3": 28, "4": 14, "5": 7}
_TYPICAL_BATCH = 8
_MULTIBOX_SIDE = 40  # of a photo's map
# AMX multiplies tiles of 16 columns, of which oneDNN joins up to four, as suits the input's size.
# Weights packed for another number are packed anew at every call, slowly: up to 40 ms. Of channels
# that four tiles fill, none were in any size of map that was tried.
_AMX_CHANNELS = 64


def prepare_network(
    network: GoogLeNet, *, dtype: torch.dtype, device: torch.device, own_kernels: bool = True
) -> GoogLeNet:
    """Return a frozen copy with the same methods and, within rounding, the same results.

    Args:
        network: Trained, of either layout; auxiliary classifiers are left out. Not changed.
        dtype: float32 or bfloat16, in which it takes its input and computes.
        device: Where it computes.
        own_kernels: Whether a CPU uses oneDNN's operators and this package's compiled code, which
            torch.compile and ONNX do not understand.
    """
    if isinstance(network, EnsembleNetwork):
        make = partial(prepare_network, dtype=dtype, device=device, own_kernels=own_kernels)
        return EnsembleNetwork([make(cast(GoogLeNet, member)) for member in network.members])
    prepared = copy.deepcopy(network).float().eval().requires_grad_(False)
    own_kernels = own_kernels and device.type == "cpu"
    place: dict[str, Any] = {"dtype": dtype, "device": device, "packed": own_kernels}
    for name, module in list(prepared.named_children()):
        side = _SIDES.get(name) or _SIDES.get(name.removeprefix("inception")[:1], 0)
        if isinstance(module, ConvReLU):
            replacement: nn.Module = fuse(module, side=side, **place)
        elif isinstance(module, Inception):
            replacement = PreparedInception(module, side=side, **place)
        elif own_kernels and isinstance(module, nn.MaxPool2d):
            replacement = _compiled_pool(module)
        elif own_kernels and isinstance(module, LocalResponseNorm):
            replacement = CompiledResponseNorm()
        elif name.startswith("aux"):
            replacement = nn.Identity()
        else:
            continue
        setattr(prepared, name, replacement)
    prepared.fc.to(dtype)
    return prepared.to(device)


def with_compiled_pools(network: GoogLeNet) -> GoogLeNet:
    """Return a copy to train: it shares the parameters, and on a CPU its pooling is compiled."""
    own = [*network.parameters(), *network.buffers()]
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in own})
    if network.device.type == "cpu":
        for module in list(copied.modules()):
            for name, pool in list(module.named_children()):
                if isinstance(pool, nn.MaxPool2d):
                    setattr(module, name, _compiled_pool(pool))
    return copied


def compile_network(network: GoogLeNet, *, dtype: torch.dtype, device: torch.device) -> GoogLeNet:
    """Return a frozen copy whose parts torch.compile has made kernels for, when first used."""
    prepared = prepare_network(network, dtype=dtype, device=device, own_kernels=False)
    for part in ("stem", "inception4", "inception5"):
        setattr(prepared, part, torch.compile(getattr(prepared, part)))
    return prepared


def prepare_multibox(multibox: MultiBox, device: torch.device) -> MultiBox:
    """Return a frozen copy in float32; on a CPU its result does not depend on the cores at work.

    Confidences are ranked, for which bfloat16 is too coarse.
    """
    prepared = copy.deepcopy(multibox).float().eval().requires_grad_(False).to(device)
    if device.type == "cpu":
        for name, layer in list(prepared.named_children()):
            if not isinstance(layer, nn.Conv2d):
                continue
            assert layer.bias is not None
            packed = PackedConv(
                layer.weight.detach(),
                layer.bias.detach(),
                stride=1,
                padding=int(layer.padding[0]),
                side=_MULTIBOX_SIDE,
                activation="none" if name == "predict" else "relu",
            )
            setattr(prepared, name, packed)
        prepared.activation = nn.Identity()
    return prepared


def _compiled_pool(pool: nn.MaxPool2d) -> CompiledMaxPool:
    assert pool.ceil_mode
    size, stride, padding = pool.kernel_size, pool.stride, pool.padding
    assert isinstance(size, int) and isinstance(stride, int) and isinstance(padding, int)
    return CompiledMaxPool(size, stride, padding)


class PreparedInception(nn.Module):
    """An inception block whose three 1x1 convolutions on the block's input run as one."""

    def __init__(
        self,
        block: Inception,
        *,
        side: int,
        dtype: torch.dtype,
        device: torch.device,
        packed: bool,
    ) -> None:
        super().__init__()
        reductions = cast(list[ConvReLU], [block.branch1, block.branch2[0], block.branch3[0]])
        make = partial(fuse, side=side, dtype=dtype, device=device, packed=packed)
        self.reduce = make(*reductions)
        self.channels = [layer.conv.out_channels for layer in reductions]
        self.three = make(cast(ConvReLU, block.branch2[1]))
        self.five = make(cast(ConvReLU, block.branch3[1]))
        self.project = make(cast(ConvReLU, block.branch4[1]))
        self.pool = CompiledMaxPool(3, 1, 1) if packed else block.branch4[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side, as ``Inception`` does."""
        one, three, five = self.reduce(x).split(self.channels, dim=1)
        return torch.cat([one, self.three(three), self.five(five), self.project(self.pool(x))], 1)


class FusedConvReLU(nn.Module):
    """Convolutions of one input with their ReLU, as one; on any device.

    Args:
        weight: ``[C', C, k, k]``.
        bias: ``[C']``.
        stride: Of both directions.
        padding: On all four sides.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, stride: int, padding: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, ``[N, C, H, W]`` -> ``[N, C', H', W']``."""
        if x.is_cuda and _has_cudnn_relu(x.device, x.dtype):
            geometry = [self.stride] * 2, [self.padding] * 2, [1, 1], 1
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *geometry)
        return F.relu_(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.bias.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it takes its input."""
        return self.bias.dtype


@cache
def _has_cudnn_relu(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether cuDNN adds the bias and applies the ReLU while it writes a convolution."""
    maps = torch.zeros(1, 8, 4, 4, device=device, dtype=dtype)
    weight = torch.zeros(8, 8, 1, 1, device=device, dtype=dtype)
    try:
        torch.cudnn_convolution_relu(maps, weight, weight[:, 0, 0, 0], [1, 1], [0, 0], [1, 1], 1)
    except RuntimeError:
        return False
    return True


class PackedConv(FusedConvReLU):
    """The same by oneDNN on a CPU, its weights packed once for inputs of about ``side``.

    With ``activation`` ``none`` in place of ``relu`` it is the convolution alone.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        padding: int,
        side: int,
        activation: str = "relu",
    ) -> None:
        self.channels = len(weight)
        idle = -self.channels % _AMX_CHANNELS if multiplies_tiles(weight.dtype) else 0
        weight, bias = F.pad(weight, [0] * 7 + [idle]), F.pad(bias, [0, idle])
        super().__init__(weight, bias, stride=stride, padding=padding)
        self.activation = activation
        self._geometry = [padding] * 2, [stride] * 2, [1, 1], 1
        example = [_TYPICAL_BATCH, weight.shape[1], side, side]
        # The operators that torch.compile uses for frozen models on a CPU. A tensor that oneDNN
        # has packed is opaque, no buffer: it is not copied, moved or saved.
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, *self._geometry, example
        )
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, ``[N, C, H, W]`` -> ``[N, C', H', W']`` in channels-last order."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, self.bias, *self._geometry, self.activation, [], ""
        )
        return result[:, : self.channels]


def fuse(
    *layers: ConvReLU, side: int, dtype: torch.dtype, device: torch.device, packed: bool
) -> FusedConvReLU:
    """Join layers of one input and one geometry into one, batch normalisation folded in.

    Args:
        *layers: Their outputs come side by side.
        side: Height and width of a typical input.
        dtype: In which to compute.
        device: Where to compute.
        packed: Whether oneDNN packs the weights, on a CPU.
    """
    folded = [layer.folded() for layer in layers]
    weight = torch.cat([weight for weight, _ in folded]).to(device, dtype)
    bias = torch.cat([bias for _, bias in folded]).to(device, dtype)
    convolution = layers[0].conv
    stride, padding = convolution.stride[0], int(convolution.padding[0])
    if packed:
        return PackedConv(weight, bias, stride=stride, padding=padding, side=side)
    return FusedConvReLU(weight, bias, stride=stride, padding=padding)
