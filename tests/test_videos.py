from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from detect.images import ImageError, is_video
from detect.videos import iterate_frames

COUNT = 12


def write_video(path: Path, codec: str = "MJPG") -> Path:
    """Frames of one colour each: red falls, green rises, blue is constant."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    for index in range(COUNT):
        writer.write(np.full((48, 64, 3), (40, 20 * index, 255 - 20 * index), np.uint8))  # BGR
    writer.release()
    return path


@pytest.mark.parametrize("step", [1, 2, 5, 11, 100])
@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("ü =,[1] %d.mp4", "mp4v")])
def test_every_nth_frame_comes_in_rgb(tmp_path: Path, name: str, codec: str, step: int) -> None:
    frames = list(iterate_frames(write_video(tmp_path / name, codec), step))
    assert [index for index, _ in frames] == list(range(0, COUNT, step))
    for index, frame in frames:
        assert frame.shape == (3, 48, 64) and frame.is_floating_point() is False
        colour = frame.double().mean((1, 2)).numpy()
        assert np.abs(colour - [255 - 20 * index, 20 * index, 40]).max() < 5


def test_frames_do_not_share_memory(tmp_path: Path) -> None:
    frames = [frame for _, frame in iterate_frames(write_video(tmp_path / "a.avi"))]
    assert frames[0][1].double().mean() < 5 < 200 < frames[-1][1].double().mean()


@pytest.mark.parametrize("content", [b"", b"not a video" * 100, bytes(5000)])
def test_what_is_no_video_is_named_without_noise(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.mp4: "):
        next(iterate_frames(path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["none.mp4", "folder.mp4"])
def test_missing_files_and_folders_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ImageError, match=r"no such file|a folder"):
        next(iterate_frames(tmp_path / name))


def test_a_video_cut_in_its_header_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.mp4: "):
        next(iterate_frames(path))


def test_a_video_that_breaks_off_is_read_up_to_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    noise = np.random.default_rng(0)
    for _ in range(40):
        writer.write(noise.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with caplog.at_level(logging.WARNING):
        count = len(list(iterate_frames(path)))
    assert 20 <= count < 40
    assert f"read {count} of 40 frames" in caplog.text
    assert capfd.readouterr().err == ""


def test_a_step_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step must be at least 1"):
        next(iterate_frames(write_video(tmp_path / "a.avi"), step=0))


def test_videos_are_told_by_their_suffix() -> None:
    assert is_video("a.MP4") and is_video(Path("x.y/b.mov"))
    assert not is_video("a.gif") and not is_video("mp4") and not is_video("a.ts")
