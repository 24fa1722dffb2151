"""How the learning rate changes over a training, and the running average of what it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCHEDULES = ("cosine", "steps", "exponential", "constant")


def learning_rate_factor(
    step: int, *, steps: int, warmup_steps: int, schedule: str, steps_per_epoch: float
) -> float:
    """Return the factor on the learning rate at a step, 0..1.

    It rises linearly during the warm-up. Then ``cosine`` falls to zero as half a wave; ``steps``
    falls to a tenth when two thirds are done (R-CNN and Fast R-CNN: after 20k of 30k iterations);
    ``exponential`` falls by 4 % every 8 epochs (Szegedy et al. 2014, section 6); ``constant``
    stays.

    Args:
        step: From 0.
        steps: Of the whole training.
        warmup_steps: Of the rise.
        schedule: One of ``SCHEDULES``.
        steps_per_epoch: In which every photo comes once.

    Raises:
        ValueError: If the schedule is unknown.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    match schedule:
        case "cosine":
            progress = (step - warmup_steps) / max(1, steps - warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "steps":
            return 1.0 if step < steps * 2 / 3 else 0.1
        case "exponential":
            return 0.96 ** math.floor(step / steps_per_epoch / 8)
        case "constant":
            return 1.0
    raise ValueError(f"schedule={schedule}: choose one of {', '.join(SCHEDULES)}")


class PolyakAverage:
    """A running average of parameters; it forgets faster at the start, to lose the first values."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[Tensor]) -> None:
        """Replace parameters by their average."""
        for parameter, value in zip(parameters, self.values, strict=True):
            parameter.copy_(value)
