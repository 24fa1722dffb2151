from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# One small function stands for all of them, which take much longer.
CODE = """
import numpy as np
from proposals.compiling import prepare_process
from proposals.votes import measure_areas
prepare_process()
prepare_process()
measure_areas(np.zeros((1, 4), dtype=np.int32))
measure_areas(np.zeros((2, 4), dtype=np.int32))
"""


def run(cache: Path, code: str = CODE) -> str:
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(cache), PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stderr


def test_compiling_is_announced_once_and_kept_on_disk(tmp_path: Path) -> None:
    assert run(tmp_path).count("compiling selective search for this machine, once") == 1
    assert [*tmp_path.rglob("*.nbi")]
    assert run(tmp_path) == ""


@pytest.mark.slow
def test_code_of_others_is_not_announced(tmp_path: Path) -> None:
    code = """
from numba import njit
from proposals.compiling import prepare_process
prepare_process()
njit(lambda: 1)()
"""
    assert run(tmp_path, code) == ""
