"""Where networks compute."""

from __future__ import annotations

import torch


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device of this name; of None a GPU where there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name}: choose cpu, cuda or cuda:NUMBER") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: {torch.cuda.device_count()} CUDA devices here; use cpu")
    return device
