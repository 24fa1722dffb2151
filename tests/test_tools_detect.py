"""tools/detect.py as a user runs it: its arguments, its files and its exit status.

What does not need a process of its own runs in this one, where torch is loaded already.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tools import detect as tool

RESULTS = (
    "detections.jsonl",
    "detections.json",
    "detections.txt",
    "images.txt",
    "categories.json",
    "skipped.csv",
    "report.html",
    "voc/comp4_det_test_cat.txt",
)


def command(*arguments: object, checkpoint: Path) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tools" / "detect.py"),
        *map(str, arguments),
        f"checkpoint={checkpoint}",
        "device=cpu",
        "merge.score_threshold=0.3",
        "merge.max_detections=5",
        "proposer=superpixels_x2",
        "proposer.width=100",
        "proposer.max_boxes=40",
    ]


@dataclass
class Done:
    status: int
    out: str
    err: str


Run = Callable[[list[str]], Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys) -> Run:
    """Run a command in this process, in ``tmp_path``."""

    def run_here(arguments: list[str]) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", arguments[1:])
        return Done(tool.main(), *capsys.readouterr())

    return run_here


def run_apart(arguments: list[str], cwd: Path, **options) -> Done:
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def make_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 70, (80, 100, 3), np.uint8)
        pixels[20:60, 10 + i : 50 + i] += 150
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")


def make_broken_files(folder: Path) -> int:
    """Put 20 broken or odd files into a folder."""
    good = folder / "source.jpg"
    Image.new("RGB", (64, 64), (200, 10, 10)).save(good)
    jpeg = good.read_bytes()
    good.unlink()
    Image.new("L", (40, 40)).save(folder / "x.png")
    png = (folder / "x.png").read_bytes()
    (folder / "x.png").unlink()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "html.png": b"<!doctype html><html></html>",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:20],
        "soi.jpg": jpeg[:2],
        "half.png": png[: len(png) // 2],
        "header.png": png[:10],
        "zeros.jpg": bytes(5000),
        "noise.png": np.random.default_rng(0).bytes(5000),
        "noise.webp": np.random.default_rng(1).bytes(999),
        "riff.webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
        "stub.gif": b"GIF89a\x01\x00",
        "stub.bmp": b"BM\x00\x00\x00\x00",
        "stub.tiff": b"II*\x00\x08\x00\x00\x00",
        "archive.jpg": b"PK\x03\x04" + bytes(40),
        "page.jpeg": b"%PDF-1.7\n",
        "no-video.mp4": b"\x00\x00\x00\x18ftypmp42",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    (folder / "link to nothing.jpg").symlink_to(folder / "nothing")
    return len(contents) + 2


def test_one_good_photo_among_twenty_broken_files(tmp_path, run, random_checkpoint) -> None:
    photos = tmp_path / "my photos, [2014] = all"
    make_photos(photos, 1)
    assert make_broken_files(photos) == 20
    done = run(command(photos, "out=out", checkpoint=random_checkpoint))
    assert done.status == 1, done.err
    assert "Traceback" not in done.err
    skipped = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert skipped[0] == "image,reason"
    named = {line.split(",")[0]: line.partition(",")[2] for line in skipped[1:]}
    broken = {path.name for path in photos.iterdir()} - {"00.png"}
    assert set(named) == broken
    assert all(len(reason) > 5 for reason in named.values())
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found and {row["image_id"] for row in found} == {1}
    assert (tmp_path / "out" / "images.txt").read_text() == "00 1\n"
    assert (tmp_path / "out" / "drawn" / "00.png.drawn.jpg").is_file()
    assert "1 photos (0 done before)" in done.out
    assert "20 skipped" in done.out


def test_a_killed_run_ends_with_the_same_bytes(tmp_path, run, random_checkpoint) -> None:
    make_photos(tmp_path / "photos", 12)
    arguments = command("photos", "out=out", checkpoint=random_checkpoint)
    assert run(arguments).status == 0
    expected = {name: (tmp_path / "out" / name).read_bytes() for name in RESULTS}
    drawn = {p.name: p.read_bytes() for p in (tmp_path / "out" / "drawn").iterdir()}
    shutil.rmtree(tmp_path / "out")

    ledger = tmp_path / "out" / "detections.jsonl"
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if ledger.exists() and ledger.read_bytes().count(b"\n") > 2:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.005)
    torn = ledger.read_bytes()
    ledger.write_bytes(torn + b'{"name": "05.p')  # as a power cut may leave it
    last = run(arguments)
    assert last.status == 0, last.out + last.err
    assert "(0 done before)" not in last.out
    for name in RESULTS:
        assert (tmp_path / "out" / name).read_bytes() == expected[name], name
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "drawn").iterdir()} == drawn


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Give processes started here the default SIGINT; background jobs of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_says_how_to_go_on(tmp_path, run, random_checkpoint) -> None:
    make_photos(tmp_path / "photos", 16)
    arguments = command("photos", "out=out", checkpoint=random_checkpoint)
    ledger = tmp_path / "out" / "detections.jsonl"
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        # The last line may still be on its way to the disk, and is then taken back.
        while not (ledger.exists() and ledger.read_bytes().count(b"\n") > 4):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == "interrupted: the same command goes on from here"
    again = run(arguments)
    assert again.status == 0
    assert "16 photos" in again.out and "(0 done before)" not in again.out


def test_threads_change_nothing(tmp_path, run, random_checkpoint) -> None:
    make_photos(tmp_path / "photos", 3)
    for folder, threads in (("one", 1), ("two", 2)):
        arguments = command("photos", f"out={folder}", checkpoint=random_checkpoint)
        assert run([*arguments, f"threads={threads}"]).status == 0
    for name in set(RESULTS) - {"report.html"}:  # the page shows the settings
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_other_settings_are_refused_until_overwrite(tmp_path, run, random_checkpoint) -> None:
    make_photos(tmp_path / "photos", 1)
    arguments = command("photos", "out=out", checkpoint=random_checkpoint)
    assert run(arguments).status == 0
    other = run([*arguments, "merge.nms_threshold=0.5"])
    assert other.status == 2
    assert "nms_threshold" in other.err and "overwrite=true" in other.err
    assert other.err.count("\n") == 1
    again = run([*arguments, "merge.nms_threshold=0.5", "overwrite=true"])
    assert again.status == 0


def test_paths_come_from_standard_input_and_results_are_not_inputs(
    tmp_path, run, random_checkpoint
) -> None:
    make_photos(tmp_path / "photos", 2)
    # As a module; the killed and interrupted runs start as scripts.
    arguments = command("-", f"out={tmp_path / 'out'}", checkpoint=random_checkpoint)
    as_module = [sys.executable, "-m", "tools.detect", *arguments[2:]]
    done = run_apart(as_module, ROOT, input=f"{tmp_path / 'photos' / '01.png'}\n")
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "images.txt").read_text() == "01 1\n"
    here = command(".", "out=out", "overwrite=true", checkpoint=random_checkpoint)
    assert run(here).status == 0
    assert (tmp_path / "out" / "images.txt").read_text() == "photos/00 1\nphotos/01 2\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["photos/*.tif"], "photos/*.tif"),
        (["out=x"], "no PATH given"),
        (["empty"], "no photo or video"),
        (["photos", "merge.nms_treshold=1"], "merge.nms_threshold"),
        (["photos", "regions=tiles"], "regions=tiles"),
        (["photos", "proposer.max_boxes=0"], "max_boxes must be 1 or more"),
        (
            ["photos", "threads=2", "proposer=fast", "proposer.threads=2"],
            "would share the cores twice",
        ),
        (["photos", "device=quantum"], "quantum"),
        (["photos", "checkpoint=absent.safetensors"], "absent.safetensors"),
    ],
)
def test_wrong_requests_end_with_one_line(
    tmp_path, run, random_checkpoint, arguments: list[str], message: str
) -> None:
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    given = {argument.partition("=")[0] for argument in arguments if "=" in argument}
    line = command(*arguments, checkpoint=random_checkpoint)
    line = [part for part in line if part in arguments or part.partition("=")[0] not in given]
    done = run(line)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1, done.err


def test_help_names_settings_and_exit_statuses(tmp_path, run) -> None:
    done = run([sys.executable, str(ROOT / "tools" / "detect.py"), "--help"])
    assert done.status == 0
    for part in ("usage:", "Exit status", "merge.soft_sigma=0.2", "overwrite"):
        assert part in done.out
    assert not os.listdir(tmp_path)
