"""Proposals on disk: the finished file, the working file, and computing them in between."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from proposals import SelectiveSearch
from proposals.compute import PhotoSource, UnreadableError, compute_proposals, proposer_settings
from proposals.files import FileBusy
from proposals.store import ProposalFile, StoredPhoto, write_proposal_file
from proposals.working_file import SettingsMismatch, WorkingFile

NAMES = ["a", "with space, comma", "a=b", "ü/猫.jpg", "line\nbreak", "\udcff.png", "'\"\\", "[1]*?"]
SETTINGS = {"class": "Fake", "width": 500, "scales": [[1, 2]], "max_boxes": None}


class FakeProposer:
    """Boxes that depend on the image alone: as many as its first pixel says."""

    def __init__(self, factor: float = 1.5) -> None:
        self.factor = factor
        self.calls = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        count = int(image[0, 0, 0])
        generator = torch.Generator().manual_seed(count)
        return torch.rand(count, 4, generator=generator) * self.factor


FAKE = {"class": "FakeProposer", "factor": 1.5}


def source(name: str, count: int, load: Callable[[], Tensor] | None = None) -> PhotoSource:
    image = torch.full((3, 2, 5), count, dtype=torch.uint8)
    digest = hashlib.sha256(image.numpy().tobytes()).hexdigest()
    return PhotoSource(name, lambda: digest, load or (lambda: image))


def sources(counts: list[int]) -> list[PhotoSource]:
    return [source(f"{i}.jpg", count) for i, count in enumerate(counts)]


def compute(given: list[PhotoSource], path: Path, proposer: FakeProposer | None = None, **options):
    return compute_proposals(given, proposer or FakeProposer(), path, settings=FAKE, **options)


def photo(name: str, boxes: Tensor, digest: str = "ab" * 32) -> StoredPhoto:
    return StoredPhoto(name, digest, (30, 40), len(boxes))


# The finished file


@pytest.mark.parametrize("counts", [[], [0], [3], [0, 2, 0], [1, 0, 7, 40]])
def test_a_file_gives_back_what_was_written(tmp_path: Path, counts: list[int]) -> None:
    boxes = [torch.rand(count, 4) for count in counts]
    photos = [photo(name, b) for name, b in zip(NAMES, boxes, strict=False)]
    write_proposal_file(tmp_path / "new" / "p.npz", SETTINGS, photos, boxes)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.npz"]
    file = ProposalFile.open(tmp_path / "new" / "p.npz")
    assert file.names == tuple(file) == tuple(NAMES[: len(counts)])
    assert len(file) == len(counts)
    assert file.settings == SETTINGS
    assert file.sizes.tolist() == [[30, 40]] * len(counts)
    assert file.photos() == photos
    for name, expected in zip(file, boxes, strict=True):
        assert file[name].dtype == torch.float32
        assert file[name].shape == (len(expected), 4)
        assert torch.equal(file[name], expected)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.text(st.characters(exclude_characters="\0"), min_size=1), st.integers(0, 9))
)
def test_any_names_survive(tmp_path: Path, counts: dict[str, int]) -> None:
    boxes = {name: torch.rand(count, 4) for name, count in counts.items()}
    photos = [photo(name, boxes[name]) for name in counts]
    write_proposal_file(tmp_path / "p", {}, photos, boxes.values())
    file = ProposalFile.open(tmp_path / "p")
    assert list(file) == list(counts)
    assert all(torch.equal(file[name], boxes[name]) for name in counts)


def test_boxes_given_out_may_be_changed(tmp_path: Path) -> None:
    write_proposal_file(tmp_path / "p", {}, [photo("a", torch.ones(2, 4))], [torch.ones(2, 4)])
    file = ProposalFile.open(tmp_path / "p")
    file["a"].zero_()
    assert torch.equal(file["a"], torch.ones(2, 4))
    with pytest.raises(KeyError):
        file["b"]
    assert "a" in file and "b" not in file


def test_numpy_opens_the_file_without_pickle(tmp_path: Path) -> None:
    boxes = torch.rand(3, 4)
    write_proposal_file(tmp_path / "p.npz", SETTINGS, [photo("ü", boxes)], [boxes])
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert arrays["names"].tolist() == ["ü"]
        assert json.loads(str(arrays["settings"])) == SETTINGS
        assert arrays["offsets"].tolist() == [0, 3]
        assert np.array_equal(arrays["boxes"], boxes.numpy())
        assert arrays["digests"].tobytes().hex() == "ab" * 32


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path, boxes = tmp_path / "p", torch.rand(3, 4)
    write_proposal_file(path, {}, [photo("a", boxes)], [boxes])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="3 boxes were announced, 2 given"):
        write_proposal_file(path, {}, [photo("a", boxes)], [boxes[:2]])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_cut_off_anywhere_are_refused_by_name(tmp_path: Path) -> None:
    path, boxes = tmp_path / "p.npz", torch.rand(3, 4)
    write_proposal_file(path, SETTINGS, [photo("a", boxes)], [boxes])
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"p\.npz is no file of proposals, or damaged"):
            ProposalFile.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": np.array(2)}, "version 2, this program reads version 1"),
        ({"offsets": np.array([0, 2])}, "offsets do not fit"),
        ({"offsets": np.array([0, 4])}, "offsets do not fit"),
        ({"offsets": np.array([0, 3, 3])}, "do not belong together"),
        ({"names": np.array(["a", "a"])}, "do not belong together"),
        ({"boxes": np.zeros((3, 5), "<f4")}, "not float32"),
        ({"boxes": np.zeros((3, 4))}, "not float32"),
        ({"names": np.array([{}], dtype=object)}, "allow_pickle"),
        ({"settings": np.array("{")}, "damaged"),
        ({"boxes": None}, "boxes.npy"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, change, message: str) -> None:
    boxes = torch.rand(3, 4)
    write_proposal_file(tmp_path / "p.npz", {}, [photo("a", boxes)], [boxes])
    with np.load(tmp_path / "p.npz") as arrays:
        content = {**arrays, **change}
    np.savez(tmp_path / "p.npz", **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        ProposalFile.open(tmp_path / "p.npz")


def test_a_file_that_numpy_wrote_again_is_read_unless_compressed(tmp_path: Path) -> None:
    boxes = torch.rand(3, 4)
    write_proposal_file(tmp_path / "p.npz", {}, [photo("a", boxes)], [boxes])
    with np.load(tmp_path / "p.npz") as arrays:
        content = dict(arrays)
    np.savez(tmp_path / "q.npz", **content)
    assert torch.equal(ProposalFile.open(tmp_path / "q.npz")["a"], boxes)
    np.savez_compressed(tmp_path / "q.npz", **content)
    with pytest.raises(ValueError, match="compressed"):
        ProposalFile.open(tmp_path / "q.npz")


# The working file


def fill(path: Path, counts: list[int]) -> list[Tensor]:
    boxes = [torch.rand(count, 4) for count in counts]
    with WorkingFile.open(path, SETTINGS) as working:
        for name, b in zip(NAMES, boxes, strict=False):
            working.append(photo(name, b), b)
    return boxes


def test_a_working_file_gives_back_what_was_added(tmp_path: Path) -> None:
    boxes = fill(tmp_path / "w", [3, 0, 5, 1, 1, 1, 1, 1])
    with WorkingFile.open(tmp_path / "w", SETTINGS) as working:
        assert list(working.photos) == NAMES
        for name, expected in zip(NAMES, boxes, strict=True):
            assert torch.equal(working.boxes(name), expected)
            assert working.boxes(name).shape == (len(expected), 4)


@pytest.mark.parametrize("last", [0, 2])
def test_a_last_record_torn_at_any_byte_is_left_out(tmp_path: Path, last: int) -> None:
    path = tmp_path / "w"
    first, second, _ = fill(path, [4, 3, last])
    content = path.read_bytes()
    fill(tmp_path / "two", [4, 3])
    for end in range((tmp_path / "two").stat().st_size, len(content)):
        path.write_bytes(content[:end])
        with WorkingFile.open(path, SETTINGS) as working:
            assert list(working.photos) == NAMES[:2]
            working.append(photo("next", torch.ones(2, 4)), torch.ones(2, 4))
        with WorkingFile.open(path, SETTINGS) as working:
            assert list(working.photos) == [*NAMES[:2], "next"]
            assert torch.equal(working.boxes(NAMES[0]), first)
            assert torch.equal(working.boxes(NAMES[1]), second)
            assert torch.equal(working.boxes("next"), torch.ones(2, 4))


@pytest.mark.parametrize(
    "tail", [bytes(5), bytes(5000), b"\xff" * 50, b"\x05\0\0\0\0\0\0\0[1,2]", b"\x02\0\0\0....{}"]
)
def test_what_a_power_cut_leaves_behind_the_records_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "w"
    fill(path, [4, 3])
    content = path.read_bytes()
    path.write_bytes(content + tail)
    with WorkingFile.open(path, SETTINGS) as working:
        assert list(working.photos) == NAMES[:2]
    assert path.read_bytes() == content


@pytest.mark.parametrize("offset", [-8, -4, 3, -1], ids=["length", "checksum", "head", "boxes"])
def test_a_damaged_record_ends_what_is_taken_over(tmp_path: Path, caplog, offset: int) -> None:
    path = tmp_path / "w"
    fill(path, [4, 3])
    content = bytearray(path.read_bytes())
    head = content.index(json.dumps(NAMES[1]).encode()) - 1
    content[head + offset if offset != -1 else -1] ^= 0xFF
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), WorkingFile.open(path, SETTINGS) as working:
        assert list(working.photos) == NAMES[:1]
    assert "bytes are incomplete and left out" in caplog.text


def test_a_header_torn_at_any_byte_is_started_afresh(tmp_path: Path) -> None:
    path = tmp_path / "w"
    fill(path, [1])
    content = path.read_bytes()
    for end in range(content.index(b"\n") + 1):
        path.write_bytes(content[:end])
        with WorkingFile.open(path, SETTINGS) as working:
            assert not working.photos
            working.append(photo("a", torch.ones(1, 4)), torch.ones(1, 4))
        with WorkingFile.open(path, SETTINGS) as working:
            assert list(working.photos) == ["a"]


def test_other_settings_are_refused_with_their_difference(tmp_path: Path) -> None:
    fill(tmp_path / "w", [1])
    other = {**SETTINGS, "width": 300, "seed": 1}
    with pytest.raises(SettingsMismatch) as caught:
        WorkingFile.open(tmp_path / "w", other)
    assert "width: 500 there, 300 here; seed: null there, 1 here" in str(caught.value)
    assert "overwrite=true" in str(caught.value)
    with WorkingFile.open(tmp_path / "w", SETTINGS) as working:
        assert list(working.photos) == ["a"]
    with WorkingFile.open(tmp_path / "w", {**SETTINGS, "scales": ((1, 2),)}) as working:
        assert list(working.photos) == ["a"], "a tuple is a list"
    with WorkingFile.open(tmp_path / "w", {**SETTINGS, "width": 500.0}) as working:
        assert list(working.photos) == ["a"], "500.0 is 500"
    with WorkingFile.open(tmp_path / "w", other, overwrite=True) as working:
        assert not working.photos


@pytest.mark.parametrize(
    "content", [b"\n", b"my notes\n", b"x", b"proposals in work, version 1: {\nx"]
)
def test_a_foreign_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match="in the way"):
        WorkingFile.open(tmp_path / "w", SETTINGS)
    assert (tmp_path / "w").read_bytes() == content


# Computing


def test_no_photos_make_an_empty_file(tmp_path: Path) -> None:
    outcome = compute([], tmp_path / "p.npz")
    assert (outcome.num_photos, outcome.num_boxes) == (0, 0)
    assert len(ProposalFile.open(tmp_path / "p.npz")) == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing_but_the_time(tmp_path: Path, workers: int) -> None:
    counts = [3, 0, 200, 1, 0, 17, 90, 5, 5, 255]

    def slowly(count: int) -> Callable[[], Tensor]:
        def load() -> Tensor:
            time.sleep(0.001 * (count % 7))  # later photos are ready first
            return torch.full((3, 2, 5), count, dtype=torch.uint8)

        return load

    given = [source(f"{i}", c, slowly(c)) for i, c in enumerate(counts)]
    done: list[int] = []
    outcome = compute(given, tmp_path / "p", workers=workers, on_progress=lambda: done.append(1))
    assert (outcome.num_photos, outcome.num_computed) == (10, 10)
    assert outcome.num_boxes == sum(counts)
    assert len(done) == 10
    compute(given, tmp_path / "one", workers=1)
    assert (tmp_path / "p").read_bytes() == (tmp_path / "one").read_bytes()
    file, proposer = ProposalFile.open(tmp_path / "p"), FakeProposer()
    for one in given:
        assert torch.equal(file[one.name], proposer(one.load()))


def test_few_photos_are_ahead_of_the_one_that_is_stored(tmp_path: Path) -> None:
    started, stored, lock = [0], [0], threading.Lock()
    most = 0

    def load() -> Tensor:
        nonlocal most
        with lock:
            started[0] += 1
            most = max(most, started[0] - stored[0])
        return torch.zeros(3, 2, 2, dtype=torch.uint8)

    def store() -> None:
        stored[0] += 1

    compute(
        [source(str(i), 0, load) for i in range(60)], tmp_path / "p", workers=2, on_progress=store
    )
    assert most <= 2 * 2 + 1


def test_a_finished_file_is_not_computed_or_written_again(tmp_path: Path) -> None:
    given, path = sources([3, 0, 5]), tmp_path / "p"
    compute(given, path)
    before, proposer = path.stat(), FakeProposer()
    outcome = compute(given, path, proposer)
    assert (proposer.calls, outcome.num_computed, outcome.num_photos) == (0, 0, 3)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


def test_only_new_and_changed_photos_are_computed(tmp_path: Path) -> None:
    path, proposer = tmp_path / "p", FakeProposer()
    compute(sources([3, 0, 5, 9]), path)
    given = [source("new.jpg", 4), *sources([3, 0, 7])]  # 2.jpg has changed, 3.jpg is gone
    outcome = compute(given, path, proposer)
    assert (proposer.calls, outcome.num_computed, outcome.num_photos) == (2, 2, 4)
    compute(given, tmp_path / "afresh")
    assert path.read_bytes() == (tmp_path / "afresh").read_bytes()
    assert ProposalFile.open(path).names == ("new.jpg", "0.jpg", "1.jpg", "2.jpg")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop_at", [0, 1, 4, 6])
def test_an_interrupted_computation_goes_on_to_the_same_bytes(
    tmp_path: Path, stop_at: int, workers: int
) -> None:
    given = sources([3, 0, 5, 9, 1, 2, 8])
    compute(given, tmp_path / "whole")
    done = 0

    def interrupt() -> None:
        nonlocal done
        done += 1
        if done > stop_at:
            raise KeyboardInterrupt

    path, proposer = tmp_path / "p", FakeProposer()
    with pytest.raises(KeyboardInterrupt):
        compute(given, path, workers=workers, on_progress=interrupt)
    assert not path.exists()
    outcome = compute(given, path, proposer, workers=workers)
    assert outcome.num_computed == proposer.calls == len(given) - (stop_at + 1)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "whole"]


def test_broken_photos_are_named_and_end_nothing(tmp_path: Path) -> None:
    def unreadable() -> Tensor:
        raise UnreadableError("a video")

    def surprising() -> Tensor:
        raise RuntimeError("two\nlines")

    flat = torch.zeros(3, dtype=torch.uint8)
    given = [
        source("1", 1, unreadable),
        source("2", 2),
        source("3", 3, surprising),
        source("4", 4, lambda: flat),
        replace(source("5", 5), digest=unreadable),
    ]
    outcome = compute(given, tmp_path / "p", workers=2)
    names = [name for name, _ in outcome.skipped]
    assert names == ["1", "3", "4", "5"]
    assert dict(outcome.skipped)["1"] == "a video"
    assert dict(outcome.skipped)["3"] == "RuntimeError: two lines"
    assert ProposalFile.open(tmp_path / "p").names == ("2",)


def test_a_proposer_that_gives_no_boxes_but_something_else_is_named(tmp_path: Path) -> None:
    outcome = compute_proposals(
        sources([3]), lambda image: torch.zeros(3), tmp_path / "p", settings={}
    )
    assert "[3] in place of boxes [N, 4]" in outcome.skipped[0][1]


def test_other_settings_are_refused_and_replaced_on_demand(tmp_path: Path) -> None:
    path, given = tmp_path / "p", sources([3, 4])
    compute(given, path)
    before = path.read_bytes()
    other = {**FAKE, "factor": 2.0}
    with pytest.raises(SettingsMismatch, match=r"factor: 1\.5 there, 2\.0 here.*overwrite=true"):
        compute_proposals(given, FakeProposer(2), path, settings=other)
    assert list(tmp_path.iterdir()) == [path]
    compute(given, path)  # the refusal has left nothing in its way
    assert path.read_bytes() == before
    outcome = compute_proposals(given, FakeProposer(2), path, settings=other, overwrite=True)
    assert outcome.num_computed == 2
    assert ProposalFile.open(path).settings == other
    again = compute_proposals(given, FakeProposer(2), path, settings=other, overwrite=True)
    assert again.num_computed == 0, "the same command goes on, it does not start afresh"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_a_file_in_the_way_is_replaced_on_demand_only(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="overwrite=true"):
        compute(sources([1]), path)
    assert path.read_bytes() == content
    compute(sources([1]), path, overwrite=True)
    assert ProposalFile.open(path).names == ("0.jpg",)


@pytest.mark.parametrize(
    ("names", "workers", "threads", "message"),
    [
        (["a", "b", "a"], 1, 1, "two photos have the name 'a'"),
        (["a"], 0, 1, "workers must be 1 or more: got 0"),
        (["a"], 2, 3, "2 images at a time with threads=3 .* threads=1"),
    ],
)
def test_wrong_requests_write_nothing(
    tmp_path: Path, names: list[str], workers: int, threads: int, message: str
) -> None:
    proposer = FakeProposer()
    proposer.threads = threads  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=message):
        compute([source(name, 1) for name in names], tmp_path / "p", proposer, workers=workers)
    assert not list(tmp_path.iterdir())


def test_threads_inside_a_proposer_go_with_one_worker(tmp_path: Path) -> None:
    proposer = FakeProposer()
    proposer.threads = 4  # type: ignore[attr-defined]
    compute_proposals(sources([1, 2]), proposer, tmp_path / "p", workers=1)
    compute_proposals(sources([1, 2]), FakeProposer(), tmp_path / "q", workers=2)
    with zipfile.ZipFile(tmp_path / "p") as archive:
        assert b"threads" not in archive.read("settings.npy")


def test_a_proposers_attributes_tell_its_settings() -> None:
    described = proposer_settings(SelectiveSearch("fast", width=300))
    assert described["class"] == "SelectiveSearch"
    assert described["width"] == 300
    assert described["scales"] == [[50, 50], [100, 100]]
    assert described != proposer_settings(SelectiveSearch("googlenet", width=300))
    assert "threads" not in described
    with pytest.raises(ValueError, match="give settings="):
        proposer_settings(lambda image: image)
    proposer = FakeProposer()
    proposer.factor = torch.ones(1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="give settings="):
        proposer_settings(proposer)


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'a+b'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "p.partial"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        with pytest.raises(FileBusy, match=r"p\.partial is in use by another run"):
            compute(sources([1]), tmp_path / "p")
        process.communicate(b"")
    compute(sources([1]), tmp_path / "p")
