from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.detections import Detections
from detect.ledger import Ledger, LedgerMismatch
from detect.results import ImageResult
from proposals.files import FileBusy

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("cat", "dog")
SETTINGS = {"merge": {"nms_threshold": 0.3, "top": 100}, "networks": ["a", "b"]}


def result(name: str, seed: int = 0, count: int = 3) -> ImageResult:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 99, (count, 2))
    return ImageResult(
        name,
        640,
        480,
        Detections(
            torch.from_numpy(np.hstack([low, low + rng.uniform(1, 99, (count, 2))])).float(),
            torch.from_numpy(rng.uniform(0, 1, count)).float(),
            torch.from_numpy(rng.integers(0, 2, count)),
            CLASSES,
        ),
    )


def same(read: ImageResult | None, written: ImageResult) -> bool:
    return (
        read is not None
        and (read.name, read.width, read.height) == (written.name, written.width, written.height)
        and torch.equal(read.detections.boxes, written.detections.boxes)
        and torch.equal(read.detections.scores, written.detections.scores)
        and torch.equal(read.detections.labels, written.detections.labels)
        and read.detections.class_names == written.detections.class_names
    )


def open_ledger(folder: Path) -> Ledger:
    return Ledger.open(folder / "detections.jsonl", SETTINGS, CLASSES)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_result_comes_back_exactly(count: int, tmp_path: Path) -> None:
    written = result("holiday/ä b\n\udce9.jpg", count=count)
    with open_ledger(tmp_path) as ledger:
        assert ledger.get(written.name, "f") is None
        ledger.append(written, "f")
        assert same(ledger.get(written.name, "f"), written)
    with open_ledger(tmp_path) as ledger:
        assert same(ledger.get(written.name, "f"), written)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5))
def test_every_float32_comes_back_bit_by_bit(tmp_path: Path, numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    found = Detections(values[None, :4], values[4:], torch.tensor([1]), CLASSES)
    with Ledger.open(tmp_path / "l.jsonl", {}, CLASSES, overwrite=True) as ledger:
        ledger.append(ImageResult("a", 1, 1, found), "")
        read = ledger.get("a", "")
    assert read is not None
    assert read.detections.boxes.numpy().tobytes() == found.boxes.numpy().tobytes()
    assert read.detections.scores.numpy().tobytes() == found.scores.numpy().tobytes()


def test_a_changed_photo_is_redone_and_its_last_line_counts(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a", 1), "old")
        assert ledger.get("a", "new") is None
        ledger.append(result("a", 2), "new")
    with open_ledger(tmp_path) as ledger:
        assert ledger.get("a", "old") is None
        assert same(ledger.get("a", "new"), result("a", 2))


def test_a_ledger_torn_at_any_byte_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "detections.jsonl"
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a", 1, 1), "f")
        whole = path.read_bytes()
        ledger.append(result("b", 2, 1), "f")
    full = path.read_bytes()
    for cut in range(len(whole), len(full)):
        path.write_bytes(full[:cut])
        with open_ledger(tmp_path) as ledger:
            assert same(ledger.get("a", "f"), result("a", 1, 1))
            assert ledger.get("b", "f") is None
            assert path.read_bytes() == whole
            ledger.append(result("b", 2, 1), "f")
        assert path.read_bytes() == full


def test_results_are_read_while_others_are_appended(tmp_path: Path) -> None:
    known = [result(f"{i}.png", seed=i, count=1 + 3 * i) for i in range(8)]
    with open_ledger(tmp_path) as ledger, ThreadPoolExecutor(4) as pool:
        for photo in known:
            ledger.append(photo, "x")
        reads = [(photo, pool.submit(ledger.get, photo.name, "x")) for photo in known * 50]
        for i in range(50):
            ledger.append(result(f"new {i}.png", seed=i), "x")
        assert all(same(read.result(), photo) for photo, read in reads)


def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "detections.jsonl").touch()
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a"), "f")
    with open_ledger(tmp_path) as ledger:
        assert ledger.get("a", "f") is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\n",
        b"\n",
        b"{}\n",
        b"[1, 2]\n",
        b'{"name": "x", "fingerprint": "f", "width": 1, "height": 1, "boxes": [[0, 0, 1]], '
        b'"scores": [1], "labels": [0]}\n',
        b'{"name": "x", "fingerprint": "f", "width": 1, "height": 1, "boxes": [[0, 0, 1, 1]], '
        b'"scores": [1], "labels": [2]}\n',
    ],
)
def test_garbage_in_the_middle_is_refused_and_named(garbage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "detections.jsonl"
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a"), "f")
        ledger.append(result("b"), "f")
    header, a, b = path.read_bytes().splitlines(keepends=True)
    damaged = header + a + garbage + b
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"detections\.jsonl, line 3 is damaged .* overwrite=true"):
        open_ledger(tmp_path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("content", [b"my shopping list", b"{}\n", b"[]\n", b'{"version": 1}\n'])
def test_another_file_is_not_taken_for_a_ledger(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "detections.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no ledger"):
        open_ledger(tmp_path)
    assert path.read_bytes() == content


def test_a_header_without_its_line_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "detections.jsonl"
    open_ledger(tmp_path).close()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="line 1 is damaged"):
        open_ledger(tmp_path)


@pytest.mark.parametrize(
    ("changed", "classes", "parts"),
    [
        (
            {**SETTINGS, "merge": {"nms_threshold": 0.5, "top": 100}},
            CLASSES,
            ["merge.nms_threshold: 0.3 there, 0.5 here"],
        ),
        ({**SETTINGS, "seed": 7}, CLASSES, ["seed: not set there, 7 here"]),
        ({"merge": SETTINGS["merge"]}, CLASSES, ['networks.0: "a" there, not set here']),
        (SETTINGS, ("cat", "bird"), ['class_names.1: "dog" there, "bird" here']),
        ({**SETTINGS, "version": 1}, CLASSES, ["version: not set there, 1 here"]),
        ({**SETTINGS, "xs": [*range(9)]}, CLASSES, ["xs.0: not set", "; and 4 more"]),
    ],
)
def test_other_settings_are_refused_with_both_values_and_a_remedy(
    changed: dict[str, object], classes: tuple[str, ...], parts: list[str], tmp_path: Path
) -> None:
    open_ledger(tmp_path).close()
    before = (tmp_path / "detections.jsonl").read_bytes()
    with pytest.raises(LedgerMismatch) as caught:
        Ledger.open(tmp_path / "detections.jsonl", changed, classes)
    message = str(caught.value)
    for part in [*parts, "another out=", "overwrite=true"]:
        assert part in message
    assert (tmp_path / "detections.jsonl").read_bytes() == before
    Ledger.open(tmp_path / "detections.jsonl", changed, classes, overwrite=True).close()
    Ledger.open(tmp_path / "detections.jsonl", changed, classes).close()


def test_settings_may_come_in_another_order_and_as_tuples(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    reordered = {"networks": ("a", "b"), "merge": {"top": 100, "nms_threshold": 0.3}}
    Ledger.open(tmp_path / "detections.jsonl", reordered, list(CLASSES)).close()


def test_overwrite_forgets_what_was_there(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a"), "f")
    path = tmp_path / "detections.jsonl"
    with Ledger.open(path, SETTINGS, CLASSES, overwrite=True) as ledger:
        assert ledger.get("a", "f") is None


def test_compacting_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    with open_ledger(tmp_path / "straight") as ledger:
        for seed, name in enumerate(names):
            ledger.append(result(name, seed), "f")
        ledger.compact(names)
    with open_ledger(tmp_path / "disturbed") as ledger:
        ledger.append(result("gone", 9), "f")
        ledger.append(result("c", 7), "old")
        ledger.append(result("b", 1), "f")
    with open_ledger(tmp_path / "disturbed") as ledger:
        ledger.append(result("c", 2), "f")
        ledger.append(result("a", 0), "f")
        ledger.compact(names)
        assert same(ledger.get("c", "f"), result("c", 2))
        assert ledger.get("gone", "f") is None
        straight = (tmp_path / "straight" / "detections.jsonl").read_bytes()
        assert (tmp_path / "disturbed" / "detections.jsonl").read_bytes() == straight
        ledger.append(result("d", 3), "f")  # still open for more
        assert same(ledger.get("d", "f"), result("d", 3))
    assert [path.name for path in (tmp_path / "disturbed").iterdir()] == ["detections.jsonl"]


def test_compacting_an_unknown_photo_changes_nothing(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a"), "f")
        with pytest.raises(KeyError, match="b"):
            ledger.compact(["a", "b"])
        assert same(ledger.get("a", "f"), result("a"))


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    nan = Detections(torch.full((1, 4), torch.nan), torch.ones(1), torch.tensor([0]))
    label = Detections(torch.ones(1, 4), torch.ones(1), torch.tensor([2]))
    with open_ledger(tmp_path) as ledger:
        before = ledger.path.read_bytes()
        with pytest.raises(ValueError, match=r"image a\.jpg: .*finite"):
            ledger.append(ImageResult("a.jpg", 1, 1, nan), "f")
        with pytest.raises(ValueError, match="leave the 2 classes"):
            ledger.append(ImageResult("a.jpg", 1, 1, label), "f")
        assert ledger.path.read_bytes() == before


def test_a_full_disk_leaves_the_ledger_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(result("a"), "f")
        before = ledger.path.read_bytes()
        real_write = os.write

        def write_a_little(file: int, data: bytes) -> int:
            if len(data) < 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_write(file, data[:60])

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "write", write_a_little)
            ledger.append(result("b"), "f")
        assert ledger.path.read_bytes() == before
        assert ledger.get("b", "f") is None
        ledger.append(result("c"), "f")
    with open_ledger(tmp_path) as ledger:
        assert same(ledger.get("c", "f"), result("c"))


WRITER = """
import sys, time
sys.path[:0] = sys.argv[2:4]
from pathlib import Path
from test_ledger import open_ledger, result
with open_ledger(Path(sys.argv[1])) as ledger:
    for seed in range(1000):
        name = f"photo {seed}"
        if ledger.get(name, "f") is None:
            ledger.append(result(name, seed), "f")
            print(name, flush=True)
            time.sleep(0.01)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(ROOT), str(ROOT / "tests")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_a_killed_process_loses_at_most_the_photo_in_work(tmp_path: Path) -> None:
    with start_writer(tmp_path) as writer:
        assert writer.stdout is not None
        done = [writer.stdout.readline().strip() for _ in range(5)]
        with pytest.raises(FileBusy, match=rf"in use by another run \(process {writer.pid}\)"):
            open_ledger(tmp_path)
        time.sleep(0.015)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        done += writer.stdout.read().split("\n")[:-1]
    with open_ledger(tmp_path) as ledger:  # the dead process's lock is no obstacle
        for seed, name in enumerate(done):
            assert same(ledger.get(name, "f"), result(f"photo {seed}", seed))
        lines = ledger.path.read_text().splitlines()
    assert len(done) <= len(lines) - 1 <= len(done) + 1
    assert [json.loads(line)["name"] for line in lines[1:]][: len(done)] == done
