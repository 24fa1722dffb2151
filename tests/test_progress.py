from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tools import progress as module


def test_without_a_terminal_a_line_tells_count_rate_and_what_is_left(monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    with module.PlainProgress(10, "photos", initial=2) as bar:
        bar.set_postfix(loss="0.5")
        bar.update()
    line = capsys.readouterr().out
    assert line.startswith("3/10 photos, ")
    assert " min left, loss=0.5\n" in line


@pytest.mark.parametrize("total", [0, None])
def test_an_unknown_total_is_left_out(monkeypatch, capsys, total) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    with module.PlainProgress(total, "photos") as bar:
        bar.update()
    assert capsys.readouterr().out.startswith("1 photos, ")


def test_lines_are_seldom(capsys) -> None:
    with module.progress(1000, "photos") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().out == ""


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
