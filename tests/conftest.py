"""Fixtures that every test module may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real data beside the checkout: VOC2007 photos, ILSVRC ground truth, ImageNet weights."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"real data not at hand: {path} is absent")
    return path
