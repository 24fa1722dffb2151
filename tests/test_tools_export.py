from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="no onnx: the [onnx] extra is not installed")
pytest.importorskip("onnxruntime", reason="no onnxruntime: the [onnx] extra is not installed")

from detect.checkpoint import BUNDLED, file_digest
from detect.export_settings import ExportConfig
from tests.conftest import ROOT

SCRIPT = [str(ROOT / "tools" / "export.py")]
MODULE = ["-m", "tools.export"]
SNIPPETS = re.findall(
    r"^```python\n(.+?)^```$", (ROOT / "docs" / "export.md").read_text(), re.M | re.S
)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the tool in this process, which has loaded torch already."""

    def run_here(folder: Path, *arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [*SCRIPT, *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        status = 0
        try:
            runpy.run_path(SCRIPT[0], run_name="__main__")
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        return Done(status, *capfd.readouterr())

    return run_here


@pytest.mark.parametrize("form", [SCRIPT, pytest.param(MODULE, marks=pytest.mark.slow)])
def test_a_checkpoint_is_exported_from_any_folder_in_both_forms(
    random_checkpoint: Path, tmp_path: Path, form: list[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if form is MODULE else os.environ
    done = subprocess.run(
        [sys.executable, *form, f"checkpoint={random_checkpoint}", "out=a, b", "opset=18"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a, b"]  # no outputs/ by surprise
    names = sorted(path.name for path in (tmp_path / "a, b").iterdir())
    assert names == ["detector.json", "regions.onnx", "trunk.onnx"]
    described = json.loads((tmp_path / "a, b" / "detector.json").read_text())
    assert described["opset"] == 18
    assert described["checkpoint"]["sha256"] == file_digest(random_checkpoint)
    told, written = done.stdout.splitlines()
    compared = described["compared_with_pytorch"]
    assert told.startswith("27 regions of 3 photos against PyTorch: ")
    assert f"{compared['largest_probability_difference']:.1e}" in told
    assert f"top-1 agrees in {compared['top1_agreement']:.1%}" in told
    assert written == "written to a, b/detector.json and the models that it names"


def test_the_bundled_detector_is_exported_by_default_and_crops_on_request(
    run: Run, tmp_path: Path
) -> None:
    done = run(tmp_path, "out=onnx", "regions=crops")
    assert (done.returncode, done.stderr) == (0, "")
    names = sorted(path.name for path in (tmp_path / "onnx").iterdir())
    assert names == ["classifier.onnx", "detector.json"]
    described = json.loads((tmp_path / "onnx" / "detector.json").read_text())
    assert described["checkpoint"]["sha256"] == file_digest(BUNDLED)
    assert described["crops"] == {"size": 224, "context": 16, "fill": [123, 117, 104]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("regions=crops",), "set out=...; --help explains"),
        (("out=x", "region=crops"), "did you mean regions?"),
        (("out=x", "regions=both"), "regions=both: choose shared or crops"),
        (("out=x", "opset=11"), "opset=11: choose one from 13 to"),
        (("out=x", "opset=0"), "opset=0: choose one from 13 to"),
        (("out=x", "opset=new"), "opset=new"),
        (("out=x", "checkpoint=absent"), "absent: no such checkpoint file"),
        (("out=x", "checkpoint=file"), "file: not a readable checkpoint"),
        (("out=file/x",), "file is a file; give the name of a folder"),
        (("out=",), "out=: give the name of a folder"),
        (("out=x", "file"), "file: give settings as name=value"),
    ],
)
def test_a_wrong_request_ends_with_status_2_and_a_clear_line(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").write_text("no checkpoint")
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("export: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_the_extra_the_remedy_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    done = run(tmp_path, "out=x")
    assert done.returncode == 2
    assert "pip install -e '.[onnx]'" in done.stderr
    assert not (tmp_path / "x").exists()


def test_help_shows_every_setting(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for setting in fields(ExportConfig):
        assert f"  {setting.name}=" in done.stdout
    assert run(tmp_path).returncode == 2


@pytest.mark.slow
def test_the_python_of_the_docs_runs(run: Run, tmp_path: Path) -> None:
    import skimage

    assert len(SNIPPETS) == 1
    photo = Path(skimage.__file__).parent / "data" / "chelsea.png"
    (tmp_path / "street.jpg").write_bytes(photo.read_bytes())
    assert run(tmp_path, "out=out/onnx").returncode == 0
    names: dict[str, object] = {}
    exec(SNIPPETS[0], names)  # `run` is in the folder
    assert "cat" in names["detections"].names  # type: ignore[attr-defined]
