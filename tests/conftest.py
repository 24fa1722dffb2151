"""Fixtures that every test module may use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# As the tools do, before torch loads: threads that wait must not spin on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The processes of `pytest -n` share the cores, and so do the tools that they start.
os.environ.setdefault(
    "OMP_NUM_THREADS",
    str(-(-(os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))),
)

import torch
from PIL import Image

from detect.checkpoint import Checkpoint, save_checkpoint
from detect.data.records import Record
from detect.googlenet import GoogLeNet
from detect.heads import RegionHead
from detect.shared_geometry import SharedTrunkConfig
from tools import command_line

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes end at about the same time."""
    items.sort(key=lambda item: not item.path.name.startswith(("test_tools_", "test_readme")))


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Undo what a tool that ran in this process has done to the garbage collector."""
    yield
    gc.enable()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real data beside the checkout: VOC2007 photos, ILSVRC ground truth, ImageNet weights."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"real data not at hand: {path} is absent")
    return path


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a detector that was never trained, for images of 96 pixels."""
    torch.manual_seed(0)
    head = RegionHead(2)
    torch.nn.init.normal_(head.classifier.weight, std=0.3)  # opinions, though unfounded
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    shared = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=[1.0])
    save_checkpoint(path, Checkpoint(GoogLeNet(0), head, ("cat", "dog"), shared=shared))
    return path


@pytest.fixture
def photo() -> torch.Tensor:
    """A photo-like image, uint8 [3, 60, 80]: coloured rectangles on a gradient."""
    image = torch.arange(80).expand(3, 60, 80).clone() + torch.arange(60)[:, None]
    image[0, 10:40, 15:50] = 220
    image[1, 25:55, 40:75] = 180
    return image.to(torch.uint8)


@pytest.fixture(scope="session")
def square_records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Three dark photos of 80 x 110 with one bright square each: left, in the middle, right."""
    folder = tmp_path_factory.mktemp("squares")
    records = []
    for i, x in enumerate((10, 40, 70)):
        pixels = torch.randint(0, 60, (80, 110, 3), generator=torch.Generator().manual_seed(i))
        pixels[20:50, x : x + 30] += 180
        path = folder / f"{i}.png"
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
        box = torch.tensor([[x, 20, x + 30, 50]], dtype=torch.float32)
        label, easy = torch.tensor([i % 2]), torch.tensor([False])
        records.append(Record(str(i), path, 110, 80, box, label, easy, image_id=i + 1))
    return records


def run_hydra_tool(
    monkeypatch: pytest.MonkeyPatch, name: str, main: Callable[[], None], *arguments: str
) -> int:
    """Run a Hydra tool in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        command_line.run(name, main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
