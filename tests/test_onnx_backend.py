from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="no onnx: the [onnx] extra is not installed")
pytest.importorskip("onnxruntime", reason="no onnxruntime: the [onnx] extra is not installed")

from skimage import data

from detect.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from detect.crops import crop_boxes
from detect.detector import Detector
from detect.engine import Classifier, assemble
from detect.onnx_backend import OnnxClassifier
from detect.onnx_files import write_folder
from detect.onnx_graph import export_in_memory
from detect.shared_geometry import region_levels
from detect.workers import CoreWorkers
from tests.foreign_reader import ForeignReader

PYRAMID = {"shorter_side": 300, "pyramid": [0.3536, 0.5, 0.7071, 1.0, 1.4142], "region_side": 110}


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(random_checkpoint)


@pytest.fixture(scope="module")
def classifiers(checkpoint: Checkpoint) -> dict[str, OnnxClassifier]:
    return {
        regions: OnnxClassifier.from_checkpoint(checkpoint, regions=regions, batch_size=4)
        for regions in ("crops", "shared")
    }


def bundled(**shared: Any) -> Checkpoint:
    """The bundled checkpoint, images entering its trunk otherwise."""
    checkpoint = load_checkpoint(BUNDLED)
    return replace(checkpoint, shared=replace(checkpoint.shared, **shared))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of the bundled checkpoint, and with a pyramid that it may not be trained for."""
    folder = tmp_path_factory.mktemp("exports")
    exports = {
        "crops": export_in_memory(bundled(), "crops"),
        "shared": export_in_memory(bundled(pyramid=[1.0]), "shared"),
        "pyramid": export_in_memory(bundled(**PYRAMID), "shared"),
    }
    for name, exported in exports.items():
        write_folder(folder / name, exported, {})
    return {name: folder / name for name in exports}


def on_torch(checkpoint: Checkpoint, regions: str) -> Classifier:
    return assemble(checkpoint, checkpoint.network, regions=regions, workers=CoreWorkers(1))


def boxes_in(n: int, width: int, height: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) * 0.9
    sides = torch.rand(n, 2, generator=generator) * torch.tensor([width, height]) + 0.1
    return torch.cat([corners, corners + sides], dim=1)


@pytest.mark.parametrize("regions", ["crops", "shared"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (60, 80)])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_boxes_and_scores_equal_those_of_torch(classifiers, checkpoint, regions, size, n) -> None:
    height, width = size
    generator = torch.Generator().manual_seed(n)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    boxes = boxes_in(n, width, height)
    moved, scores = classifiers[regions].score_regions(image, boxes)
    expected_moved, expected = on_torch(checkpoint, regions).score_regions(image, boxes)
    assert moved.shape == (n, 2, 4)
    assert scores.shape == (n, 3)
    torch.testing.assert_close(moved, expected_moved, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(1, 300), (60, 80)])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_regions_of_a_pyramid_score_as_on_torch(checkpoint, size, n, threads) -> None:
    shared = replace(checkpoint.shared, pyramid=[1.0, 0.5, 2.0], region_side=55)
    checkpoint = replace(checkpoint, shared=shared)
    height, width = size
    image = torch.arange(3 * height * width).view(3, height, width).to(torch.uint8)
    boxes = boxes_in(n, width, height)
    if size == (60, 80) and n == 9:
        assert set(region_levels(boxes, size, shared).tolist()) == {0, 1, 2}
    ours = OnnxClassifier.from_checkpoint(checkpoint, batch_size=4, threads=threads)
    moved, scores = ours.score_regions(image, boxes)
    expected_moved, expected = on_torch(checkpoint, "shared").score_regions(image, boxes)
    torch.testing.assert_close(moved, expected_moved, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("regions", ["crops", "shared"])
def test_images_scored_in_several_threads_equal_those_scored_alone(classifiers, regions) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, 40 + 7 * i, 90 - 5 * i), dtype=torch.uint8, generator=generator)
        for i in range(5)
    ]
    classifier = classifiers[regions]

    def score(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return classifier.score_regions(image, boxes_in(3, image.shape[2], image.shape[1]))

    alone = [score(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(score, images))
    for expected, found in zip(alone, together, strict=True):
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])


def test_two_threads_an_image_give_the_scores_of_one(classifiers, checkpoint, photo) -> None:
    classifier = OnnxClassifier.from_checkpoint(checkpoint, regions="crops", threads=2)
    boxes = boxes_in(3, 80, 60)
    _, expected = classifiers["crops"].score_regions(photo, boxes)
    torch.testing.assert_close(classifier.score_regions(photo, boxes)[1], expected)


def test_a_detector_takes_it_in_place_of_the_torch_classifiers(checkpoint, classifiers) -> None:
    assert OnnxClassifier.from_checkpoint(checkpoint).settings.regions == checkpoint.regions
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1).contiguous()
    classifier = classifiers["shared"]

    def proposer(image: torch.Tensor) -> torch.Tensor:
        return boxes_in(20, image.shape[2], image.shape[1])

    detections = [
        Detector(proposer, scorer, class_names=classifier.class_names)(photo)
        for scorer in (classifier, on_torch(checkpoint, "shared"))
    ]
    assert len(detections[0]) > 0
    assert detections[0].names == detections[1].names
    torch.testing.assert_close(detections[0].boxes, detections[1].boxes, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "regions", "shared"),
    [("crops", "crops", {}), ("shared", "shared", {"pyramid": [1.0]}), ("pyramid", None, PYRAMID)],
)
def test_a_folder_gives_what_its_checkpoint_gives(folders, name, regions, shared) -> None:
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1).contiguous()
    boxes = torch.tensor([[80.0, 10.0, 440.0, 290.0], [3.0, 5.0, 60.0, 70.0]])
    loaded = OnnxClassifier.from_folder(folders[name])
    made = OnnxClassifier.from_checkpoint(bundled(**shared), regions=regions)
    assert loaded.settings == made.settings
    for found, expected in zip(
        loaded.score_regions(photo, boxes), made.score_regions(photo, boxes), strict=True
    ):
        assert torch.equal(found, expected)


def test_folders_from_before_the_pyramid_have_one_level(folders, tmp_path) -> None:
    for path in folders["shared"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shared = json.loads((tmp_path / "detector.json").read_text())["shared"]
    del shared["pyramid"], shared["region_side"]
    change(tmp_path / "detector.json", shared=shared, version=1)
    old, new = OnnxClassifier.from_folder(tmp_path), OnnxClassifier.from_folder(folders["shared"])
    assert old.settings.shared.pyramid == [1.0]
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1).contiguous()
    boxes = torch.tensor([[80.0, 10.0, 440.0, 290.0], [3.0, 5.0, 60.0, 70.0]])
    assert torch.equal(old.score_regions(photo, boxes)[1], new.score_regions(photo, boxes)[1])


@pytest.mark.parametrize(
    ("name", "tolerance", "pixels"),
    # Our crops have whole grey levels.
    [("crops", 0.02, 1.0), ("shared", 1e-4, 0.02), ("pyramid", 1e-4, 0.02)],
)
def test_detector_json_tells_enough_to_do_without_our_code(
    folders, name: str, tolerance: float, pixels: float
) -> None:
    image = data.astronaut()  # 512 x 512
    foreign, ours = ForeignReader(folders[name]), OnnxClassifier.from_folder(folders[name])
    given = [[0.0, 0.0, 512.0, 512.0], [100.5, 0.0, 390.25, 500.0], [440.0, 460.0, 512.0, 490.0]]
    if name == "pyramid":
        given += [[100.0, 50.0, 300.0, 250.0], [100.0, 50.0, 360.0, 310.0]]
        levels = region_levels(torch.tensor(given), (512, 512), ours.settings.shared)
        assert levels.tolist() == [0, 1, 4, 3, 2]
    photo = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    boxes, scores = ours.score_regions(photo, torch.tensor(given))
    person = foreign.facts["class_names"].index("person")
    assert scores[1, person] > scores[2, person] + 0.1  # not background all over
    for i, box in enumerate(given):
        moved, probabilities = foreign(image, box)
        np.testing.assert_allclose(probabilities, scores[i], atol=tolerance)
        np.testing.assert_allclose(moved, boxes[i], atol=pixels)
    if name == "crops":
        crops = crop_boxes(photo, torch.tensor(given), ours.settings.crop).numpy()
        for crop, box in zip(crops, given, strict=True):
            np.testing.assert_allclose(foreign.crop(image, box), crop, atol=1.01)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("detector.json", Path.unlink, "no such file; tools/export.py writes it"),
        ("detector.json", cut_short, r"not as tools/export\.py writes it \(JSONDecodeError"),
        ("detector.json", lambda path: path.write_text("[1]"), "not as tools/export.py writes it"),
        ("detector.json", lambda path: path.write_text("{}"), "KeyError: 'format'"),
        ("detector.json", lambda path: change(path, format="x"), "its format is 'x'"),
        ("detector.json", lambda path: change(path, version=99), "version 99 is newer than"),
        ("detector.json", lambda path: change(path, regions="x"), "KeyError: 'x'"),
        ("detector.json", lambda path: change(path, shared={"x": 1}), "not as tools/export.py"),
        ("detector.json", lambda path: change(path, shared={"pyramid": []}), "factors above 0"),
        ("detector.json", lambda path: path.write_bytes(b"\xff\xfe"), "not as tools/export.py"),
        ("trunk.onnx", Path.unlink, "no such file; tools/export.py writes all of them"),
        ("trunk.onnx", cut_short, r"not the file that detector\.json names \(damaged\?\)"),
        ("regions.onnx", lambda path: path.write_bytes(b""), "not the file that detector"),
    ],
)
def test_unusable_folders_are_refused_by_name(folders, tmp_path, name, spoil, message) -> None:
    for path in folders["shared"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        OnnxClassifier.from_folder(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_onnxruntime_refuses_is_named_in_one_line(folders, tmp_path) -> None:
    described = json.loads((folders["crops"] / "detector.json").read_text())
    described["files_sha256"]["classifier.onnx"] = hashlib.sha256(b"no model").hexdigest()
    (tmp_path / "detector.json").write_text(json.dumps(described))
    (tmp_path / "classifier.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"classifier\.onnx: onnxruntime .+ refuses") as caught:
        OnnxClassifier.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_regions_are_refused(checkpoint) -> None:
    with pytest.raises(ValueError, match="regions=boxes: choose shared or crops"):
        OnnxClassifier.from_checkpoint(checkpoint, regions="boxes")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_the_remedy_is_told(checkpoint, monkeypatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "detect.onnx_graph", raising=False)
    with pytest.raises(ValueError, match=rf"needed \(.*{package}.*pip install '.+\[onnx\]'"):
        OnnxClassifier.from_checkpoint(checkpoint)


def test_a_folder_is_loaded_without_onnx(folders, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert OnnxClassifier.from_folder(folders["shared"]).class_names[7] == "cat"
