"""Settings of tools/budget.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detect.config import register
from detect.data.problems import InputError

MODES = ("crops", "shared")


@dataclass
class BudgetConfig:
    """Settings of tools/budget.py."""

    checkpoint: str | None = None  # file made by tools/train.py; by default the bundled detector
    regions: str | None = None  # what is measured: crops, shared or both; by default as trained
    proposals: str = "1300"  # regions of a made-up image, or PATH of a photo that is searched
    height: int = 375  # of the made-up image, pixels
    width: int = 500  # of the made-up image, pixels
    device: str | None = None  # cpu, cuda, cuda:1; by default a GPU where there is one
    precision: str = "auto"  # auto, float32 or bfloat16; auto: bfloat16 where hardware has it
    threads: int = 0  # cores that work on the image, on a CPU; 0: all
    measure: bool = True  # whether to measure seconds and the machine's peak, not only to count
    repeats: int = 3  # measurements, of which the medians are shown
    layers: bool = False  # whether to list every layer
    out: str | None = None  # file of the same numbers as JSON


register("budget", BudgetConfig)


def check_settings(settings: BudgetConfig) -> None:
    """Refuse settings that make no sense, before anything is computed.

    Raises:
        InputError: Names the setting and what to do.
    """
    if settings.regions not in (None, "both", *MODES):
        raise InputError(f"regions={settings.regions}: choose crops, shared or both")
    for name in ("height", "width", "repeats"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name}={getattr(settings, name)}: give 1 or more")
    count = proposal_count(settings)
    if count is not None and count < 1:
        raise InputError(f"proposals={settings.proposals}: give 1 or more, or a photo")
    if count is None and not Path(settings.proposals).is_file():
        raise InputError(f"proposals={settings.proposals}: is neither a number nor a photo")


def proposal_count(settings: BudgetConfig) -> int | None:
    """Return how many proposals an image is given; None where a photo is searched for them."""
    try:
        return int(settings.proposals)
    except ValueError:
        return None
