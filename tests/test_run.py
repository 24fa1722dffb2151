from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from detect.detector import Detector
from detect.images import ImageSource, find_images
from detect.ledger import Ledger
from detect.run import DetectionRun, StageClock, drawn_name, summarise, versions


class OneBox:
    """Proposes the whole image and is sure that it shows a cat of the image's brightness."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        self.seen.append((height, width))
        if (height, width) == (13, 13):
            raise RuntimeError("thirteen\nis unlucky")
        return torch.tensor([[0.0, 0.0, width, height]])

    def score_regions(self, image, boxes):
        score = image.float().mean().item() / 255
        return boxes[:, None], torch.tensor([[score, 1 - score]])


def make_detector() -> Detector:
    stage = OneBox()
    return Detector(stage, stage, class_names=("cat",))


def make_photos(folder: Path, count: int) -> list[ImageSource]:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (20 + i, 10 + i), (100 + i, 90, 80)).save(folder / f"{i:02d}.png")
    return find_images([folder])


def open_ledger(out: Path) -> Ledger:
    return Ledger.open(out / "detections.jsonl", {"x": 1}, ("cat",))


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_the_order_of_the_sources(tmp_path, threads: int) -> None:
    sources = make_photos(tmp_path / "photos", 12)
    calls = []
    with open_ledger(tmp_path / "out") as ledger:
        outcome = DetectionRun(make_detector(), ledger, threads=threads)(
            sources, lambda: calls.append(1)
        )
    assert [result.name for result in outcome.results] == [source.name for source in sources]
    assert [result.width for result in outcome.results] == list(range(20, 32))
    assert len(calls) == 12
    assert outcome.resumed == 0


def test_nothing_to_do_is_no_error(tmp_path) -> None:
    with open_ledger(tmp_path) as ledger:
        assert DetectionRun(make_detector(), ledger)([]).results == []


def test_a_second_run_computes_nothing_again(tmp_path) -> None:
    sources = make_photos(tmp_path / "photos", 3)
    with open_ledger(tmp_path / "out") as ledger:
        first = DetectionRun(make_detector(), ledger)(sources)
    Image.new("RGB", (50, 50)).save(sources[1].path)  # changed: must be done again
    detector = make_detector()
    with open_ledger(tmp_path / "out") as ledger:
        second = DetectionRun(detector, ledger)(sources)
    assert detector.proposer.seen == [(50, 50)]
    assert second.resumed == 2
    assert torch.equal(first.results[0].detections.boxes, second.results[0].detections.boxes)


def test_a_drawing_that_is_missing_is_drawn_again(tmp_path) -> None:
    sources = make_photos(tmp_path / "photos", 2)
    for _ in range(2):
        detector = make_detector()
        with open_ledger(tmp_path / "out") as ledger:
            DetectionRun(detector, ledger, drawn=tmp_path / "drawn")(sources)
        drawings = sorted(path.name for path in (tmp_path / "drawn").iterdir())
        assert drawings == ["00.png.drawn.jpg", "01.png.drawn.jpg"]
        (tmp_path / "drawn" / "01.png.drawn.jpg").unlink()
    assert detector.proposer.seen == []


def test_what_fails_is_skipped_with_its_reason_and_the_rest_goes_on(tmp_path) -> None:
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"")
    Image.new("RGB", (13, 13)).save(tmp_path / "photos" / "thirteen.png")
    with open_ledger(tmp_path / "out") as ledger:
        outcome = DetectionRun(make_detector(), ledger, threads=2)(
            find_images([tmp_path / "photos"])
        )
    assert len(outcome.results) == 3
    assert outcome.skipped == [
        ("bad.jpg", "an empty file"),
        ("thirteen.png", "RuntimeError: thirteen is unlucky"),
    ]


def test_frames_of_a_video_have_numbered_names(tmp_path) -> None:
    import cv2

    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(5):
        writer.write(torch.full((48, 64, 3), 40 * i, dtype=torch.uint8).numpy())
    writer.release()
    with open_ledger(tmp_path / "out") as ledger:
        outcome = DetectionRun(make_detector(), ledger, frame_step=2)(find_images([path]))
    names = [result.name for result in outcome.results]
    assert names == ["clip.avi#000000", "clip.avi#000002", "clip.avi#000004"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("b/a.png", "b/a.png.drawn.jpg"),
        ("a", "a.drawn.jpg"),
        ("a.drawn.jpg", "a.drawn.jpg.drawn.jpg"),
    ],
)
def test_drawings_never_share_a_name(name: str, expected: str) -> None:
    assert drawn_name(name) == expected


def test_the_clock_adds_up_a_stage() -> None:
    clock = StageClock()
    for _ in range(2):
        with clock("read"):
            pass
    assert clock.seconds["read"] > 0
    assert clock.seconds["merge"] == 0


def test_the_summary_counts_and_names_what_was_skipped(tmp_path) -> None:
    sources = make_photos(tmp_path / "photos", 2)
    with open_ledger(tmp_path / "out") as ledger:
        run = DetectionRun(make_detector(), ledger)
        outcome = run(sources)
    outcome.skipped += [(f"{i}.jpg", "broken") for i in range(7)]
    text = summarise(outcome, run.clock.seconds, 1.25, tmp_path)
    assert "2 photos (0 done before), 2 detections, 7 skipped, 1.2 s" in text
    assert "skipped 4.jpg: broken" in text
    assert "and 2 more" in text


def test_versions_name_what_results_depend_on() -> None:
    assert versions()["torch"] == torch.__version__.partition("+")[0]
