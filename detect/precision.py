"""The precision of inference, and whether scores bear it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What a faster precision may change; the bundled detector's bfloat16 stays far within both.
LEAST_AGREEMENT = 0.99
LARGEST_MEAN_DIFFERENCE = 0.005


def best_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Private, but the only question torch answers; emulated bfloat16 is slower than float32.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if device.type == "cpu" and native() else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether networks run in bfloat16 at all, be it slowly: oneDNN needs AVX-512 for it."""
    if device.type != "cpu":
        return True
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # the only one to ask
    return supported


def multiplies_tiles(dtype: torch.dtype) -> bool:
    """Tell whether this processor has AMX, which multiplies tiles of bfloat16."""
    native = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # private: as above
    return dtype == torch.bfloat16 and native()


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of this name; of ``auto`` the best for the device.

    Raises:
        ValueError: If the name is unknown.
    """
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": best_precision(device)}
    if name not in choices:
        raise ValueError(f"precision={name}: choose one of {', '.join(sorted(choices))}")
    return choices[name]


@dataclass(frozen=True)
class PrecisionCheck:
    """How far scores in another precision, or by other code, lie from float32's.

    Attributes:
        regions: How many regions were compared.
        top1_agreement: Share of them whose best class, background among them, is the best in both,
            or misses it by no more than the mean difference that is allowed.
        mean_difference: Of the best class's probability, 0 to 1.
        largest_difference: Of any probability, 0 to 1.
    """

    regions: int
    top1_agreement: float
    mean_difference: float
    largest_difference: float

    @classmethod
    def compare(cls, expected: Sequence[Tensor], found: Sequence[Tensor]) -> PrecisionCheck:
        """Compare probabilities of the same regions, image by image, each ``[N, C + 1]``.

        Raises:
            ValueError: If there is no region, or shapes differ.
        """
        if not any(map(len, expected)):
            raise ValueError("no regions to compare precisions on")
        a, b = torch.cat(list(expected)).float(), torch.cat(list(found)).float()
        if a.shape != b.shape:
            raise ValueError(f"scores of different shapes: {list(a.shape)} and {list(b.shape)}")
        difference = (a - b).abs().nan_to_num(nan=1.0)
        at_best = a.argmax(dim=1, keepdim=True)
        lost = b.amax(dim=1, keepdim=True) - b.gather(1, at_best)  # to another class
        return cls(
            regions=len(a),
            top1_agreement=round((lost <= LARGEST_MEAN_DIFFERENCE).float().mean().item(), 5),
            mean_difference=round(difference.gather(1, at_best).mean().item(), 6),
            largest_difference=round(difference.max().item(), 6),
        )

    def passes(self) -> bool:
        """Tell whether detections may rest on the scores that were compared."""
        return (
            self.top1_agreement >= LEAST_AGREEMENT
            and self.mean_difference <= LARGEST_MEAN_DIFFERENCE
        )
