from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_is_kept() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from detect.allocator import keep_freed_memory
keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
block = np.ones(64 * 2**20, np.uint8)
with_block = resident()
del block
assert with_block - resident() < 2**20, "handed back"
"""
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True)


@pytest.mark.slow
def test_kernels_of_more_sizes_are_kept_than_onednn_keeps_by_itself() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from detect.allocator import keep_kernels
if sys.argv[2] == "kept":
    keep_kernels()
import torch
conv = torch.nn.Conv2d(1, 1, 1).requires_grad_(False)
for width in (*range(1, 1100), *range(1, 1100)):
    conv(torch.zeros(2, 1, 8, width))
"""
    environment = os.environ | {"ONEDNN_VERBOSE": "2"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)  # of tools that ran in this process
    compiled = {}
    for way in ("kept", "left"):
        process = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), way],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        compiled[way] = process.stdout.count("cache_miss")
    if not compiled["left"]:
        pytest.skip("torch computes without oneDNN here")
    assert compiled["kept"] < 0.6 * compiled["left"]
