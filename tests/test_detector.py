from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from detect import Detections, Detector
from detect.images import ImageError
from detect.merging import MergeConfig, merge_detections


@pytest.fixture(scope="module", params=["shared", "crops"])
def detector(request, random_checkpoint) -> Detector:
    merge = MergeConfig(score_threshold=0.2)
    return Detector.load(
        random_checkpoint,
        regions=request.param,
        proposer=FewBoxes(),
        merge=merge,
        precision="float32",
        device="cpu",
    )


class FewBoxes:
    """A proposer for tests: quarters of the image and the whole of it."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        unit = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]])
        return unit * torch.tensor([width, height, width, height])


def test_the_detector_joins_its_stages(detector, photo) -> None:
    boxes, scores = detector.classifier.score_regions(photo, FewBoxes()(photo))
    expected = merge_detections(boxes, scores, detector.merge)
    found = detector(photo)
    assert len(found) > 0
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert set(found.names) <= {"cat", "dog"}


def test_paths_arrays_and_tensors_give_the_same(detector, photo, tmp_path) -> None:
    array = photo.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "photo.png")
    expected = detector(photo)
    for image in (array, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert torch.equal(detector(image).scores, expected.scores)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 2)])
def test_images_of_any_size_pass_through(detector, size) -> None:
    height, width = size
    found = detector(np.full((height, width, 3), 77, np.uint8))
    assert isinstance(found, Detections)


def test_without_proposals_there_are_no_detections(detector, photo) -> None:
    nothing = Detector(
        lambda image: torch.zeros(0, 4), detector.classifier, class_names=detector.class_names
    )
    assert len(nothing(photo)) == 0


def test_wrong_images_are_refused_in_one_line(detector, tmp_path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        detector(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="float"):
        detector(np.zeros((4, 4, 3)))


def test_unknown_choices_are_refused(random_checkpoint) -> None:
    with pytest.raises(ValueError, match="regions=tiles: choose shared or crops"):
        Detector.load(random_checkpoint, regions="tiles")
    for device in ("quantum", "cuda:99"):
        with pytest.raises(ValueError, match=f"device={device}"):
            Detector.load(random_checkpoint, device=device)
    with pytest.raises(ValueError, match="precision=int8"):
        Detector.load(random_checkpoint, precision="int8")


def test_a_clock_is_told_every_stage(detector, photo) -> None:
    from detect.run import StageClock

    clock = StageClock()
    detector(photo, clock)
    assert all(clock.seconds[stage] > 0 for stage in ("propose", "classify", "merge"))


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_onnxruntime_detects_the_same(random_checkpoint, tmp_path, photo, regions: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    from detect.export import export_checkpoint

    export_checkpoint(random_checkpoint, tmp_path / "onnx", regions=regions)
    merge = MergeConfig(score_threshold=0.2)
    common = {"regions": regions, "proposer": FewBoxes(), "merge": merge}
    expected = Detector.load(random_checkpoint, precision="float32", device="cpu", **common)(photo)
    assert len(expected) > 0
    for source in (random_checkpoint, tmp_path / "onnx"):
        found = Detector.load(source, backend="onnxruntime", **common)(photo)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-2, rtol=1e-4)
        assert found.names == expected.names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tensorrt"}, "backend=tensorrt: choose torch or onnxruntime"),
        ({"backend": "onnxruntime", "device": "cuda"}, "device=cuda: backend=onnxruntime"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "precision=bfloat16: backend="),
        ({"backend": "onnxruntime", "regions": "tiles"}, "regions=tiles: choose"),
    ],
)
def test_choices_that_a_backend_lacks_are_refused(random_checkpoint, settings, message) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    with pytest.raises(ValueError, match=message):
        Detector.load(random_checkpoint, **settings)


def test_a_folder_is_for_onnxruntime(tmp_path) -> None:
    with pytest.raises(ValueError, match="a folder; backend=onnxruntime reads"):
        Detector.load(tmp_path)


def test_loading_leaves_the_given_checkpoint_as_it_is(random_checkpoint) -> None:
    from detect.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(random_checkpoint)
    Detector.load(checkpoint, device="cpu", precision="bfloat16")
    assert checkpoint.network.conv1.conv.weight.dtype == torch.float32
