"""Every command and every piece of Python in the README runs."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.unseen import TRAIN_MULTIBOX
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DOCS = "".join(
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("export", "engine", "training", "multibox", "paper")
)
COMMANDS = list(
    dict.fromkeys(re.findall(r"^    ((?:sed|python) .+?)(?:  +# .*)?$", README + DOCS, re.M))
)
SNIPPETS = re.findall(r"^```python\n(.+?)^```$", README, re.M | re.S)
DOCS_SNIPPETS = re.findall(
    r"^```python\n(.+?)^```$", (ROOT / "docs" / "scoring.md").read_text(), re.M | re.S
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's names stand for something small."""
    import skimage

    folder = tmp_path_factory.mktemp("readme")
    data = Path(skimage.__file__).parent / "data"
    (folder / "photos").mkdir()
    shutil.copy(data / "chelsea.png", folder / "photos")
    shutil.copy(data / "chelsea.png", folder / "street.jpg")
    (folder / "IMAGENET/n02123045").mkdir(parents=True)
    for name in ("cat", "again"):
        shutil.copy(data / "chelsea.png", folder / f"IMAGENET/n02123045/{name}.png")
    for name in ("tools", "docs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command: str, folder: Path) -> str:
    """Run a command line; if it ends with a tool, that runs in this process.

    Other tests start every tool in a process of its own, in both forms: see test_tools_*.py.
    """
    before, _, last = command.rpartition(" | ")
    words = shlex.split(last)
    if words[0] == "python" and words[1].startswith("tools/"):
        return run_here(words[1:], folder, run_apart(before, folder) if before else "")
    return run_apart(command, folder)


def run_apart(command: str, folder: Path) -> str:
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(words: list[str], folder: Path, given: str) -> str:
    """Run a script with text as standard input in this process, where torch is loaded already."""
    output = io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "path", ["", *sys.path]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode()))),
        contextlib.redirect_stdout(output),
    ):
        try:
            runpy.run_path(words[0], run_name="__main__")
            status = None
        except SystemExit as stop:
            status = stop.code
    assert not status, f"{words}\n{output.getvalue()}"
    return output.getvalue()


def add_data(folder: Path, shared: Path) -> None:
    """Bring a VOC tree of four photos, the ILSVRC files and a .caffemodel into the folder."""
    voc = folder / "VOC2007"
    if voc.exists():
        return
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    for part in ("JPEGImages", "Annotations"):
        (voc / part).symlink_to(shared / "data" / "voc2007" / part)
    for split in ("train", "val"):
        names = (shared / f"data/voc2007/ImageSets/Main/{split}.txt").read_text().split()[:2]
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "ILSVRC").mkdir()
    for path in (shared / "data" / "ilsvrc_det").iterdir():
        (folder / "ILSVRC" / path.name).symlink_to(path)
    packed = lzma.decompress((folder / "ILSVRC" / "demo.val.pred.det.txt.xz").read_bytes())
    (folder / "ILSVRC" / "demo.val.pred.det.txt").write_bytes(packed)
    write_caffemodel(folder / "bvlc_googlenet.caffemodel", shared)


def add_labelled(folder: Path, shared: Path) -> None:
    """Bring a folder of four photos with an XML file beside each, as a newcomer has it."""
    if (folder / "labelled").exists():
        return
    (folder / "labelled").mkdir()
    voc = shared / "data" / "voc2007"
    for name in (voc / "ImageSets/Main/train.txt").read_text().split()[:4]:
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", folder / "labelled")
        shutil.copy(voc / "Annotations" / f"{name}.xml", folder / "labelled")


def write_caffemodel(path: Path, shared: Path) -> None:
    from safetensors.torch import load_file

    from tests.test_caffemodel import network

    tensors = load_file(shared / "weights" / "bvlc_googlenet.safetensors")
    layers = []
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        arrays = [tensors[f"{name}.{part}"].numpy() for part in ("weight", "bias")]
        kind = "Convolution" if arrays[0].ndim == 4 else "InnerProduct"
        layers.append((name, kind, arrays))
    path.write_bytes(network(layers))


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) >= 8
    assert len(SNIPPETS) == 2
    assert len(DOCS_SNIPPETS) == 1
    used = {word for command in COMMANDS for word in command.split() if word.startswith("tools/")}
    tools = {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")}
    assert tools - used <= {"tools/progress.py", "tools/command_line.py"}


@pytest.mark.parametrize("target", ["demo", "test", "lint", "install"])
def test_make_knows_its_targets(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def marked(command: str) -> object:
    """Keep the benchmarks, and what the pages behind the README add, out of the default suite."""
    slow = "python benchmarks/" in command or command not in README
    return pytest.param(command, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("command", [marked(command) for command in COMMANDS])
def test_command_runs(command: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    if re.search(r"VOC2007|ilsvrc|ILSVRC|caffemodel|benchmarks/", command):
        add_data(workplace, request.getfixturevalue("shared_dir"))
    if "out/demo" in command:
        detection = "python tools/detect.py - out=out/demo proposer.max_boxes=60"
        run(f"python docs/demo/photos.py | {detection}", workplace)
    if "tools/detect.py" in command:
        command += " proposer.max_boxes=60"
    if "labelled" in command:
        add_labelled(workplace, request.getfixturevalue("shared_dir"))
    if "tools/train_classifier.py" in command:
        command += " training.steps=1 training.photos_per_step=2 sampling.photos_per_draw=2"
    if "tools/train_multibox.py" in command:
        command = command.replace("[bird,bus,cow,motorbike,sofa]", "[horse]")
        command += " training.steps=2 multibox.hidden=8"
    if "--multibox out/without" in command:
        command = command.replace("out/without/multibox.safetensors", str(TRAIN_MULTIBOX))
    if "out/multibox/multibox" in command and not (workplace / "out/multibox").exists():
        pytest.skip("goes on from the command before it")
    if "tools/train.py" in command:
        command += " training.steps=2 proposer.max_boxes=60"
        if "out=out/train" not in command:  # a MultiBox goes on from that one's scales
            command += " shared.pyramid=[0.5]"
    if "out/quick/checkpoint" in command and not (workplace / "out/quick").exists():
        add_labelled(workplace, request.getfixturevalue("shared_dir"))
        quick = "python tools/train.py experiment=quick data.root=labelled out=out/quick"
        run(f"{quick} training.steps=2 proposer.max_boxes=60", workplace)
    command = command.replace("seed=1,2,3", "seed=1,2").replace("photos=2", "photos=1")
    if "out/member-1/" in command and not (workplace / "out/member-1").exists():
        pytest.skip("goes on from the command before it")
    if "out/train/checkpoint" in command and not (workplace / "out/train").exists():
        pytest.skip("goes on from the command before it")
    if "benchmarks/detect.py" in command:
        command += " --photos 1 proposer.max_boxes=40"
    if "tools/budget.py" in command:
        command += " proposals=40 repeats=1"
    if "benchmarks/regions.py" in command:
        command += " --quick"
    if "export" in command or "onnx" in command:
        pytest.importorskip("onnx", reason="no onnx: the [onnx] extra is not installed")
        pytest.importorskip("onnxruntime", reason="no onnxruntime: as onnx")
    if "-m venv" in command:
        pytest.skip("makes another environment, from the network")
    if "--anchor-python" in command:  # without the others, which that environment has
        command = command.partition(" --anchor-python")[0]
        command = command.replace("--quality", "--photos 1 --threads 1 --presets fast")
    if "benchmarks/scoring.py" in command:
        command = command.replace("--coco", "--runs 1 --detections 1000")
    if "quick_training" in command:
        command += " --photos 4 --others 2 --steps 2 --classes person"
    if "ablations" in command:
        command += " --photos 1 --groups merging"
    if "benchmarks/multibox.py" in command:  # few photos show few classes
        command = command.partition(" --classes")[0] + " --photos 2 --timed 1"
    if "large_photo.py" in command:
        command += " --megapixels 0.2"
    if "propose.py recall" in command:
        for name in {"fast", "superpixels_x2"} - {
            p.stem for p in (workplace / "out").glob("*.npz")
        }:
            given = f"data=voc data.root=VOC2007 data.split=val proposer={name}"
            run(f"python tools/propose.py {given} out=out/{name}.npz", workplace)
    if "checkpoint=out/onnx" in command:
        run("python tools/export.py out=out/onnx regions=crops", workplace)
    output = run(command, workplace)
    if "format=ilsvrc" in command:
        assert re.search(r"mean AP +0\.590\nmedian AP +0\.601", output)
    if (made := re.search(r"tools/train.py .*out=(\S+)", command)) and "$" not in made[1]:
        assert (workplace / made[1] / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_runs(number: int, workplace: Path) -> None:
    code = SNIPPETS[number]
    if "(image)" in code:
        code = "from detect.images import read_image\nimage = read_image('street.jpg')\n" + code
        code += "\nassert boxes.shape[1] == 4 and len(boxes) > 100"
    else:
        code += "\nassert 'cat' in detections.names\nassert len(detections.boxes) > 0"
    with contextlib.chdir(workplace):
        exec(code, {})


@pytest.mark.parametrize("code", DOCS_SNIPPETS)
def test_python_of_the_docs_runs(code: str) -> None:
    exec(code, {})


def test_every_file_the_readme_names_exists() -> None:
    for path in re.findall(r"\b((?:docs|detect|benchmarks|tools|configs)/[\w./]+\.\w+)", README):
        assert (ROOT / path).exists(), path
