from __future__ import annotations

import io
import os
import pickle
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detect.images import (
    ImageError,
    ImageSource,
    _make_unique,
    as_image,
    find_images,
    open_regular,
    read_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_of(sources: list[ImageSource]) -> list[str]:
    return [source.name for source in sources]


# ---- find_images


def test_no_inputs_give_no_images(tmp_path: Path) -> None:
    assert find_images([]) == []
    assert find_images([tmp_path]) == []


def test_a_folder_is_searched_to_its_depths_in_sorted_order(tmp_path: Path) -> None:
    make(tmp_path, "b/z.JPG", "a.png", "b/c/d/x.tiff", "film.mp4", "C.jpg")
    sources = find_images([tmp_path])
    assert names_of(sources) == ["C.jpg", "a.png", "b/c/d/x.tiff", "b/z.JPG", "film.mp4"]
    assert all(source.path == tmp_path / source.name for source in sources)


def test_hidden_entries_and_other_files_are_left_out_of_folders(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.txt", "c.xml", "d.json", "jpg", "Thumbs.db", ".DS_Store", ".e.jpg")
    make(tmp_path, "._a.jpg", ".git/f.jpg", "__MACOSX/a.jpg", "sub/__MACOSX/b.jpg", "sub/.g/h.jpg")
    assert names_of(find_images([tmp_path])) == ["a.jpg"]


def test_a_hidden_folder_given_by_itself_is_searched(tmp_path: Path) -> None:
    make(tmp_path, ".photos/a.jpg")
    assert names_of(find_images([tmp_path / ".photos"])) == ["a.jpg"]


def test_what_has_the_suffix_of_an_image_is_listed_whatever_it_is(tmp_path: Path) -> None:
    make(tmp_path, "folder.jpg/inside.png", "b.heic", "c.svg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "nothing.jpg").symlink_to("gone")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    sources = find_images([tmp_path])
    expected = ["b.heic", "c.svg", "empty.jpg", "folder.jpg", "nothing.jpg", "self.jpg"]
    assert names_of(sources) == expected
    for source in sources:
        with pytest.raises(ImageError, match=source.name):
            read_image(source.path)


def test_files_given_by_themselves_are_always_listed(tmp_path: Path) -> None:
    make(tmp_path, "a.dat", ".hidden", "sub/readme.txt")
    (tmp_path / "dangling").symlink_to("gone")
    inputs = [tmp_path / name for name in ("sub/readme.txt", "a.dat", ".hidden", "dangling")]
    assert names_of(find_images(inputs)) == ["readme.txt", "a.dat", ".hidden", "dangling"]


def test_a_single_path_is_not_taken_apart_into_letters(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    assert names_of(find_images(str(tmp_path))) == ["a.jpg"]
    assert names_of(find_images(tmp_path / "a.jpg")) == ["a.jpg"]


@pytest.mark.parametrize(
    "name", ["a b.jpg", "k=v.jpg", "a,b.jpg", "[1].jpg", "写真/ü.jpg", "*.jpg", "a?.jpg", "-.jpg"]
)
def test_odd_names_are_taken_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make(tmp_path, name, "1.jpg", "ab.jpg")
    expected = [ImageSource(tmp_path / name, Path(name).name)]
    assert find_images([str(tmp_path / name)]) == expected
    assert find_images(["-"], io.StringIO(f"{tmp_path / name}\n")) == expected
    monkeypatch.chdir(tmp_path)
    assert find_images([name]) == [ImageSource(Path(name), Path(name).name)]
    Image.fromarray(RGB).save(tmp_path / name, "PNG")
    assert read_image(name).shape == (3, 5, 7)


def test_names_that_are_not_utf8_become_printable_and_stay_apart(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        Path(os.fsdecode(raw)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    make(tmp_path, "caf\\xe9.jpg")
    sources = find_images([tmp_path])
    names = names_of(sources)
    assert len(set(names)) == 2 and "caf\\xe9.jpg" in names
    assert all(name.encode("utf-8") for name in names)
    assert {os.fsencode(source.path) for source in sources} == {
        raw,
        os.fsencode(tmp_path / "caf\\xe9.jpg"),
    }
    for source in sources:
        with pytest.raises(ImageError) as caught:
            read_image(source.path)
        assert str(caught.value).encode("utf-8")


def test_globs_name_their_matches_from_their_last_plain_folder(tmp_path: Path) -> None:
    make(tmp_path, "p/x/a.jpg", "p/y/a.jpg", "p/y/b.png", "p/x/deep/c.jpg", "p/x/.h.jpg")
    assert names_of(find_images([f"{tmp_path}/p/*/*.jpg"])) == ["x/a.jpg", "y/a.jpg"]
    everything = ["x/a.jpg", "x/deep/c.jpg", "y/a.jpg", "y/b.png"]
    for pattern in ("p/**/*.[jp][pn]g", "p/**", "p/*", "p/**/*"):
        assert sorted(names_of(find_images([f"{tmp_path}/{pattern}"]))) == everything, pattern


def test_globs_without_a_suffix_leave_other_files_out(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "notes.txt", "scan.dat")
    assert names_of(find_images([f"{tmp_path}/*"])) == ["a.jpg"]
    assert names_of(find_images([f"{tmp_path}/*.dat"])) == ["scan.dat"]


def test_relative_globs_work_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "sub/b.jpg", "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert find_images(["*.jpg"]) == [ImageSource(Path("a.jpg"), "a.jpg")]
    assert names_of(find_images(["**/*.jpg"])) == ["a.jpg", "sub/b.jpg"]
    assert names_of(find_images(["."])) == ["a.jpg", "sub/b.jpg"]


@pytest.mark.parametrize("text", ["", "\n", "\n \n"])
def test_an_empty_list_gives_no_images(text: str) -> None:
    assert find_images(["-"], io.StringIO(text)) == []


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_on_standard_input_is_read(tmp_path: Path, separator: str) -> None:
    make(tmp_path, "b.jpg", "a b.jpg", "folder/c.jpg", "d.jpg")
    paths = [str(tmp_path / name) for name in ("b.jpg", "a b.jpg", "folder")]
    for end in ("", separator):
        text = io.StringIO(separator.join(paths) + end, newline="")
        sources = find_images(["-", tmp_path / "d.jpg"], text)
        assert names_of(sources) == ["b.jpg", "a b.jpg", "c.jpg", "d.jpg"]


def test_a_null_separated_list_may_hold_line_breaks(tmp_path: Path) -> None:
    make(tmp_path, "a\nb.jpg")
    assert len(find_images(["-"], io.StringIO(f"{tmp_path}/a\nb.jpg\0"))) == 1


def test_standard_input_is_read_whatever_its_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "ü.jpg")
    data = os.fsencode(tmp_path / "ü.jpg") + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
    assert names_of(find_images(["-"])) == ["ü.jpg"]


@pytest.mark.parametrize("missing", ["", "none.jpg", "none/", "*.gif", "[", "a\0b"])
def test_what_does_not_exist_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        find_images(["a.jpg", missing])
    assert missing in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_path_in_a_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        find_images(["-"], io.StringIO(f"{tmp_path}/gone.jpg\n"))


def test_the_same_file_appears_once_where_it_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "p/a.jpg", "p/b.jpg")
    (tmp_path / "q").symlink_to("p")
    monkeypatch.chdir(tmp_path)
    inputs = [
        "p/b.jpg",
        "p",
        "./p/../p/a.jpg",
        tmp_path / "p/b.jpg",
        "p/*.jpg",
        "q",
        "q/a.jpg",
        ".",
    ]
    assert names_of(find_images(inputs)) == ["b.jpg", "a.jpg"]


def test_linked_folders_are_searched_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "p/a.jpg", "p/sub/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "p/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p/sub/up").symlink_to(tmp_path / "p")
    (tmp_path / "p/self").symlink_to("self")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "p")
    expected = ["a.jpg", "linked/c.jpg", "sub/b.jpg"]
    assert sorted(names_of(find_images([tmp_path / "p"]))) == expected


def test_many_folders_that_link_each_other_take_no_time(tmp_path: Path) -> None:
    for i in range(12):
        make(tmp_path, f"{i}/{i}.jpg")
    for i in range(12):
        for j in range(12):
            (tmp_path / f"{i}/to{j}").symlink_to(tmp_path / f"{j}")
    assert len(find_images([tmp_path])) == 12


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    make(tmp_path, "x/p/a.jpg", "y/p/a.jpg", "y/q/a.jpg", "z/p/a.jpg")
    inputs = [tmp_path / path for path in ("x/p/a.jpg", "y/p/a.jpg", "y/q/a.jpg", "z/p/a.jpg")]
    names = names_of(find_images(inputs))
    assert names == ["a.jpg", "p/a.jpg", "q/a.jpg", "z/p/a.jpg"]
    assert names_of(find_images(inputs[:2])) == names[:2]  # what comes later changes no name


def test_equal_names_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "x/s/a.jpg", "y/s/a.jpg", "y/b.jpg")
    names = names_of(find_images([tmp_path / "x", tmp_path / "y"]))
    assert names == ["s/a.jpg", "b.jpg", "y/s/a.jpg"]


def test_many_equal_names_take_no_time(tmp_path: Path) -> None:
    paths = [tmp_path / f"{folder}/{i}.jpg" for folder in range(20) for i in range(100)]
    for folder in range(20):
        make(tmp_path, *(f"{folder}/{i}.jpg" for i in range(100)))
    start = time.process_time()
    assert len(set(names_of(find_images(paths)))) == 2000
    assert time.process_time() - start < 2


def test_a_name_that_no_folder_makes_free_gets_a_number() -> None:
    taken = {"a.jpg", "x/a.jpg", "2/a.jpg"}
    assert _make_unique("a.jpg", "/x/a.jpg", taken) == "3/a.jpg"


tree = st.lists(
    st.lists(st.sampled_from(["a", "b", "c.jpg"]), min_size=1, max_size=4).map("/".join),
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(paths=tree, picks=st.lists(st.integers(0, 30), max_size=6))
def test_paths_and_names_are_unique_and_the_order_is_fixed(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], picks: list[int]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)
        make(root / path, "x.jpg", "y.png")
    everything = sorted(root.rglob("*")) or [root]
    inputs = [everything[pick % len(everything)] for pick in picks]
    sources = find_images(inputs)
    assert sources == find_images(inputs)
    assert len({source.name for source in sources}) == len(sources)
    assert len({source.path.resolve() for source in sources}) == len(sources)
    for source in sources:
        parts = source.name.split("/")
        assert ".." not in parts and "" not in parts
        assert source.path.name == parts[-1]
    files = {p for i in inputs for p in ([i] if i.is_file() else [i / "x.jpg", i / "y.png"])}
    files = {file for file in files if file.is_file()}
    assert files <= {source.path for source in sources}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_is_listed_and_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        sources = find_images([tmp_path])
        assert names_of(sources) == ["a.jpg", "locked"]
        for source in sources:
            with pytest.raises(ImageError, match="Permission denied"):
                read_image(source.path)
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_folder_that_cannot_be_opened_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    sources = find_images([tmp_path])
    assert names_of(sources) == ["a.jpg", "locked"]
    with pytest.raises(ImageError, match="locked: Permission denied"):
        read_image(sources[1].path)


# ---- open_regular, ImageError


def test_pipes_sockets_and_devices_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the paths of sockets must be short
        server.bind("s.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image("s.jpg")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no such file"),
        ("none.jpg", "no such file"),
        ("dangling.jpg", "a symbolic link to nothing"),
        ("loop.jpg", "Too many levels"),
        ("empty.jpg", "an empty file"),
        ("folder.jpg", "a folder"),
        ("a\0b", "null"),
        ("x" * 300, "too long"),
        ("empty.jpg/a", "Not a directory"),
    ],
)
def test_what_cannot_be_opened_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jpg").touch()
    Path("folder.jpg").mkdir()
    Path("dangling.jpg").symlink_to("gone")
    Path("loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(ImageError) as caught:
        open_regular(name)
    assert reason in caught.value.reason and name in str(caught.value)


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "an empty file")))
    assert isinstance(error, ImageError) and isinstance(error, ValueError)
    assert str(error) == "a.jpg: an empty file" and error.reason == "an empty file"


# ---- as_image


def test_every_form_of_an_image_gives_the_same_tensor(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    mirrored = RGB[:, ::-1].copy()
    locked = RGB.copy()
    locked.flags.writeable = False
    forms = [
        *(tmp_path / "a.png", str(tmp_path / "a.png"), RGB, locked, mirrored[:, ::-1]),
        *(np.asfortranarray(RGB), tensor, tensor.contiguous(), Image.fromarray(RGB)),
        Image.open(tmp_path / "a.png"),
    ]
    for form in forms:
        image = as_image(form)
        assert image.dtype == torch.uint8 and torch.equal(image, tensor), type(form)
    assert as_image(tensor) is tensor


def test_arrays_are_copied() -> None:
    array = RGB.copy()
    image = as_image(array)
    array[:] = 0
    assert torch.equal(image, torch.from_numpy(RGB).permute(2, 0, 1))


def test_grey_arrays_and_pillow_images_have_three_channels() -> None:
    grey = RGB[..., 0]
    expected = torch.from_numpy(grey.copy()).expand(3, -1, -1)
    assert torch.equal(as_image(grey), expected)
    assert torch.equal(as_image(Image.fromarray(grey)), expected)
    as_image(grey)[0, 0, 0] += 1  # its own memory, not one that three channels share


def test_a_pillow_image_is_turned_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(as_image(image), read_image(tmp_path / "a.png"))
    assert as_image(tmp_path / "a.png").shape == (3, 7, 5)


def test_a_pillow_image_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.resize(RGB, (90, 90, 3))).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(ImageError, match=r"a\.jpg"):
        as_image(image)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 1), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5), bool),
        torch.zeros(3, 0, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 5),
        torch.zeros(4, 5, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
        torch.zeros(4, 5, dtype=torch.uint8),
    ],
)
def test_arrays_and_tensors_of_other_shapes_or_types_are_refused(
    bad: np.ndarray | torch.Tensor,
) -> None:
    with pytest.raises(ValueError, match="must be uint8 RGB") as caught:
        as_image(bad)
    assert str(list(bad.shape)) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [None, 3, b"a.jpg", [1, 2]])
def test_other_objects_are_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="must be a path, an array"):
        as_image(bad)  # type: ignore[arg-type]
