"""The import law of CONTRIBUTING holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(p for part in ("detect", "proposals") for p in (ROOT / part).rglob("*.py"))
ONLY_IN = {
    "hydra": {"detect/config.py"},
    "omegaconf": {"detect/config.py"},
    "pycocotools": {"detect/scoring/coco_official.py"},
    "cv2": {
        "detect/crops.py",
        "detect/videos.py",
        "detect/diagnosis.py",
        "proposals/selective_search.py",
        "proposals/colour.py",
    },
    "onnx": {"detect/onnx_graph.py"},
    "onnxruntime": {"detect/onnx_backend.py"},
    "tqdm": set(),
    "pickle": set(),
    "tools": set(),
}


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_what_is_not_its_business(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    roots = {module.partition(".")[0] for module in imported(path)}
    for package, allowed in ONLY_IN.items():
        assert package not in roots or name in allowed, f"{name} imports {package}"
    if name.startswith("proposals/"):
        assert "detect" not in roots
    if name.startswith("detect/scoring/"):
        network = {"detect.googlenet", "detect.images", "detect.detector", "detect.classifier"}
        assert not imported(path) & network


def test_there_are_no_circles() -> None:
    edges = {}
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        edges[name] = {m for m in imported(path) if m.partition(".")[0] in ("detect", "proposals")}
    # The packages' own doors import lazily or from below; what they name is no way upward.
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module in finished or module not in edges:
            return
        for following in sorted(edges[module] - {"detect"}):
            visit(following, (*way, module))
        finished.add(module)

    for module in sorted(edges):
        visit(module, ())


def loaded_by(modules: list[str], slow: set[str]) -> str:
    """Which slow modules are loaded once others are imported, in a process of their own."""
    code = f"import sys, {', '.join(modules)}; print(*sorted({slow} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_scoring_loads_neither_torch_nor_what_draws() -> None:
    scoring = sorted(p.stem for p in (ROOT / "detect" / "scoring").glob("[a-z]*.py"))
    modules = ["detect.score_run", *(f"detect.scoring.{name}" for name in scoring)]
    assert not loaded_by(modules, {"torch", "cv2", "matplotlib", "scipy.io", "pycocotools"})


def test_tools_start_without_what_takes_a_second_to_import() -> None:
    names = ("run", "settings", "train_run", "multibox_run", "classify_run")
    slow = {"torchvision", "torch._dynamo", "sympy", "scipy.cluster", "matplotlib"}
    assert not loaded_by([f"detect.{name}" for name in names], slow)


def test_nothing_is_unpickled() -> None:
    for path in MODULES:
        assert "weights_only=False" not in path.read_text(), path
