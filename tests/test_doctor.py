from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detect import diagnosis
from detect.diagnosis import (
    check_checkpoints,
    check_cuda,
    check_hydra,
    check_imports,
    check_numba_cache,
    check_opencv,
    check_operators,
    describe_machine,
)

ROOT = Path(__file__).resolve().parent.parent


def install(folder: Path, distribution: str, version: str) -> None:
    """Make a distribution that only its metadata shows."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )


def break_import(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, statement: str
) -> None:
    """Put a module that runs a statement before the installed one."""
    (folder / f"{module}.py").write_text(statement)
    monkeypatch.syspath_prepend(folder)
    for name in [n for n in sys.modules if n == module or n.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("module", "statement", "remedy"),
    [
        (
            "cv2",
            "raise ImportError('libGL.so.1: cannot open shared object file')",
            "apt-get install libgl1 libglib2.0-0",
        ),
        (
            "cv2",
            "raise ImportError('libgthread-2.0.so.0: cannot open shared object file')",
            "opencv-python-headless",
        ),
        (
            "torchvision",
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "torch and torchvision are not of one build",
        ),
        (
            "torchvision",
            "raise RuntimeError('compiled with different CUDA major versions.\\n more')",
            "torch and torchvision are not of one build",
        ),
        ("pycocotools", "raise ValueError('numpy.dtype size changed')", "another NumPy"),
        ("hydra", "raise ModuleNotFoundError(\"No module named 'hydra'\")", "-e ."),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, statement: str, remedy: str
) -> None:
    break_import(tmp_path, monkeypatch, module, statement)
    (problem,) = check_imports()
    assert remedy in problem.remedy and "\n" not in problem.what
    assert "cannot be imported" in problem.what
    if module == "torchvision":
        assert list(check_operators()) == []  # named once


@pytest.mark.parametrize(
    ("others", "count"), [([], 0), (["opencv-python-headless", "opencv-contrib-python"], 1)]
)
def test_several_opencv_packages_are_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str], count: int
) -> None:
    install(tmp_path, "opencv-python", "5.0")
    for name in others:
        install(tmp_path, name, "4.9.0.80")
    monkeypatch.syspath_prepend(tmp_path)
    problems = list(check_opencv())
    assert len(problems) == count
    assert all(name in problem.what for problem in problems for name in others)


@pytest.mark.parametrize(
    ("version", "count"), [("0.11.3", 1), ("1.3.1", 1), ("1.3.2", 0), ("1.4.0.dev1", 0), ("2.0", 0)]
)
def test_an_old_hydra_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, count: int
) -> None:
    install(tmp_path, "hydra-core", version)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(list(check_hydra())) == count


def test_checkpoints_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert list(check_checkpoints(tmp_path)) == []
    save_file({"a": torch.zeros(100)}, tmp_path / "good.safetensors")
    assert list(check_checkpoints(tmp_path)) == []
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    problems = list(check_checkpoints(tmp_path))
    assert [Path(p.what.split(" ")[0]).stem for p in problems] == ["cut", "empty", "lfs"]


def test_a_numba_without_a_cache_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(check_numba_cache()) == []
    # A function of a file that is not there has no folder beside it and none for its user.
    namespace: dict[str, object] = {}
    exec(compile("def nothing(): pass", str(tmp_path / "gone.py"), "exec"), namespace)
    monkeypatch.setattr(diagnosis, "_nothing", namespace["nothing"])
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (problem,) = check_numba_cache()
    assert "NUMBA_CACHE_DIR" in problem.remedy


def test_what_torch_says_of_the_driver_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    (problem,) = check_cuda()
    assert problem.what == "CUDA: The NVIDIA driver on your system is too old"
    assert describe_machine()["cuda"] == "no"


def test_the_machine_is_described_without_gaps() -> None:
    machine = describe_machine()
    assert machine["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert all(machine.values()) and "missing" not in machine.values()


@pytest.mark.parametrize(
    "command",
    [["tools/doctor.py"], pytest.param(["-m", "tools.doctor"], marks=pytest.mark.slow)],
)
def test_the_tool_runs_in_both_forms_from_another_folder(
    tmp_path: Path, command: list[str]
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if command[0] != "-m":
        command = [str(ROOT / command[0])]
        del environment["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert "torchvision  " in done.stdout
    assert done.returncode == ("problem:" in done.stdout)


def test_the_tool_names_a_torch_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/doctor.py")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == ""
    assert "problem: torch cannot be imported: no torch here" in done.stdout
