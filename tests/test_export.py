from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="no onnx: the [onnx] extra is not installed")
pytest.importorskip("onnxruntime", reason="no onnxruntime: the [onnx] extra is not installed")

import onnx
import onnxruntime

from detect.checkpoint import Checkpoint, file_digest, load_checkpoint, save_checkpoint
from detect.export import (
    BOX_TOLERANCE,
    PROBABILITY_TOLERANCE,
    Comparison,
    compare,
    export_checkpoint,
)
from detect.export_settings import ExportConfig
from detect.googlenet import PREPROCESSING, GoogLeNet, Layout
from detect.heads import RegionHead
from detect.onnx_files import DEFAULT_OPSET, read_folder, write_folder
from detect.onnx_graph import export_in_memory
from detect.shared_geometry import SharedTrunkConfig


def make_checkpoint(layout: Layout) -> Checkpoint:
    """A network that was never trained, whose layers and batch normalisations all matter."""
    torch.manual_seed(1)
    network, head = GoogLeNet(0, layout=layout).eval(), RegionHead(2).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                torch.nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                torch.nn.init.uniform_(tensor, 0.5, 2)
    torch.nn.init.normal_(head.classifier.weight, std=0.3)
    torch.nn.init.normal_(head.box_regression.weight, std=0.1)
    shared = SharedTrunkConfig(96, 160, pyramid=[1.0], region_side=160)
    return Checkpoint(network, head, ("cat", "dog"), PREPROCESSING[layout], shared=shared)


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Checkpoint]:
    return {layout: make_checkpoint(layout) for layout in ("paper", "torchvision")}


def run(model: bytes, inputs: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [torch.from_numpy(x) for x in session.run(None, {name: inputs.numpy()})]


def assert_head_equals(found: list[torch.Tensor], head: RegionHead, features: torch.Tensor) -> None:
    logits, offsets = head(features)
    assert found[0].std() > 0.01  # else anything would pass
    assert offsets.std() > 0.01
    torch.testing.assert_close(found[0], logits.softmax(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], offsets, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
@pytest.mark.parametrize("n", [1, 3])
@torch.inference_mode()
def test_classifier_equals_the_network_on_crops_of_0_to_255(checkpoints, layout, n: int) -> None:
    checkpoint = checkpoints[layout]
    model = export_in_memory(checkpoint, "crops").models["classifier.onnx"]
    crops = torch.rand(n, 3, 224, 224, generator=torch.Generator().manual_seed(n)) * 255
    features = checkpoint.network.features(checkpoint.preprocessing(crops))
    assert_head_equals(run(model, crops), checkpoint.head, features)


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
@torch.inference_mode()
def test_trunk_equals_the_network_on_images_of_any_size(checkpoints, layout) -> None:
    checkpoint = checkpoints[layout]
    model = export_in_memory(checkpoint, "shared").models["trunk.onnx"]
    for height in range(48, 65):  # every remainder that the pools can leave
        image = torch.rand(1, 3, height, 150 - height) * 255
        network = checkpoint.network
        expected = network.inception4(network.stem(checkpoint.preprocessing(image)))
        (found,) = run(model, image)
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
@pytest.mark.parametrize("n", [1, 5])
@torch.inference_mode()
def test_regions_equal_the_network_on_points_of_a_map(checkpoints, layout, n: int) -> None:
    checkpoint = checkpoints[layout]
    model = export_in_memory(checkpoint, "shared").models["regions.onnx"]
    points = torch.rand(n, 832, 14, 14, generator=torch.Generator().manual_seed(n)) * 5
    found = run(model, points)
    pooled = checkpoint.network.pool4(points)
    assert_head_equals(found, checkpoint.head, checkpoint.network.inception5(pooled))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("opset", [13, DEFAULT_OPSET, 21])
@torch.inference_mode()
def test_svms_probabilities_are_part_of_the_models(checkpoints, classes: int, opset: int) -> None:
    head = RegionHead(classes, "sigmoid").eval()
    torch.nn.init.normal_(head.classifier.weight, std=0.3)
    names = tuple("abc"[:classes])
    checkpoint = replace(checkpoints["paper"], head=head, class_names=names)
    exported = export_in_memory(checkpoint, "shared", opset=opset)
    model = exported.models["regions.onnx"]
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    points = torch.rand(5, 832, 14, 14, generator=torch.Generator().manual_seed(1)) * 5
    found = run(model, points)[0]
    logits, _ = head(checkpoint.network.inception5(checkpoint.network.pool4(points)))
    assert found.std() > 0.01
    torch.testing.assert_close(found, head.probabilities(logits), atol=1e-5, rtol=1e-4)
    assert exported.activation == "sigmoid"


def test_detector_json_tells_the_activation_and_may_lack_it(checkpoints, tmp_path: Path) -> None:
    checkpoint = replace(checkpoints["paper"], head=RegionHead(2, "sigmoid"))
    for given, activation in ((checkpoints["paper"], "softmax"), (checkpoint, "sigmoid")):
        write_folder(tmp_path, export_in_memory(given), {})
        described = json.loads((tmp_path / "detector.json").read_text(encoding="utf-8"))
        assert described["activation"] == activation == read_folder(tmp_path).activation
    del described["activation"]
    (tmp_path / "detector.json").write_text(json.dumps(described), encoding="utf-8")
    assert read_folder(tmp_path).activation == "softmax"


@pytest.mark.parametrize("opset", [13, DEFAULT_OPSET, 21])
@pytest.mark.parametrize("regions", ["crops", "shared"])
def test_models_are_valid_and_say_what_they_take_and_give(checkpoints, regions, opset) -> None:
    exported = export_in_memory(checkpoints["paper"], regions, opset=opset)
    shapes = {}
    for content in exported.models.values():
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)  # infers every shape too
        assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = [d.dim_param or d.dim_value for d in dims]
    results = {"probabilities": ["n", 3], "box_offsets": ["n", 2, 4]}
    if regions == "crops":
        assert list(exported.models) == ["classifier.onnx"]
        assert shapes == {"crops": ["n", 3, 224, 224], **results}
    else:
        assert list(exported.models) == ["trunk.onnx", "regions.onnx"]
        assert shapes == {
            "image": [1, 3, "height", "width"],
            "map": [1, 832, "map_height", "map_width"],
            "points": ["n", 832, 14, 14],
            **results,
        }


def test_batch_normalisation_is_folded_and_nothing_is_left_over(checkpoints) -> None:
    content = export_in_memory(checkpoints["torchvision"], "crops").models["classifier.onnx"]
    graph = onnx.load_from_string(content).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds == {
        **{"Sub": 1, "Div": 1, "Conv": 57, "Relu": 57, "MaxPool": 13, "Concat": 9},
        **{"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 2, "Softmax": 1, "Reshape": 1},
    }
    used = {name for node in graph.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used


def test_the_same_checkpoint_gives_the_same_bytes_in_any_precision_and_stays_as_it_is() -> None:
    checkpoint = make_checkpoint("torchvision")
    checkpoint.network.bfloat16()
    before = {key: value.clone() for key, value in checkpoint.network.state_dict().items()}
    first = export_in_memory(checkpoint, "shared").models
    for key, value in checkpoint.network.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key]), key
    checkpoint.network.float()
    assert export_in_memory(checkpoint, "shared").models == first


@pytest.mark.parametrize("regions", ["crops", "shared"])
def test_an_export_is_close_to_pytorch_and_that_of_another_network_is_not(
    checkpoints, regions: str
) -> None:
    checkpoint, other = checkpoints["paper"], make_checkpoint("paper")
    other.head.classifier.bias.data += torch.tensor([0.1, 0.0, -0.1])
    exported = export_in_memory(checkpoint, regions)
    found = compare(checkpoint, exported)
    assert found.regions == 27
    assert found.largest_probability_difference <= PROBABILITY_TOLERANCE
    assert found.largest_box_difference <= BOX_TOLERANCE
    assert found.top1_agreement >= 26 / 27
    differs = compare(other, exported)
    assert differs.largest_probability_difference > PROBABILITY_TOLERANCE
    assert differs.largest_box_difference <= BOX_TOLERANCE


def test_detector_json_tells_what_the_models_are_and_how_they_were_checked(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    found = export_checkpoint(random_checkpoint, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = ["detector.json", "regions.onnx", "trunk.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == names
    described = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    assert described["regions"] == "shared"  # as trained
    assert described["class_names"] == ["cat", "dog"]
    assert described["background"] == 2
    assert described["preprocessing"]["mean"] == [123, 117, 104]
    assert described["shared"] == asdict(load_checkpoint(random_checkpoint).shared)
    assert described["shared"]["pyramid"] == [1.0]
    assert "pyramid" in described["how_to"]
    assert described["map"] == {"stride": 16, "first_centre": 14.5, "points": 14}
    assert described["box_offsets"]["units"] == [0.1, 0.1, 0.2, 0.2]
    assert described["opset"] == DEFAULT_OPSET
    assert described["checkpoint"] == {
        "name": random_checkpoint.name,
        "sha256": file_digest(random_checkpoint),
    }
    assert described["versions"]["onnxruntime"] == onnxruntime.__version__
    for name, digest in described["files_sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    compared = described["compared_with_pytorch"]
    tolerances = [compared.pop("probability_tolerance"), compared.pop("box_tolerance")]
    assert tolerances == [PROBABILITY_TOLERANCE, BOX_TOLERANCE]
    assert Comparison(**compared) == found


def test_what_differs_from_pytorch_is_not_written(random_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(random_checkpoint)
    checkpoint.head.classifier.bias.data[0] = torch.nan  # no difference to it is small enough
    save_checkpoint(tmp_path / "nan.safetensors", checkpoint)
    with pytest.raises(ValueError, match="models differ from the network: 27 regions") as caught:
        export_checkpoint(tmp_path / "nan.safetensors", tmp_path / "out")
    assert str(tmp_path / "nan.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": "boxes"}, "regions=boxes: choose shared or crops"),
        ({"opset": 12}, "opset=12: choose one from 13 to"),
        ({"opset": 1000}, "opset=1000: choose one from 13 to"),
    ],
)
def test_wrong_choices_are_refused(random_checkpoint, tmp_path, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        export_checkpoint(random_checkpoint, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_crops_are_filled_with_the_mean_that_the_checkpoint_was_trained_with(checkpoints) -> None:
    assert export_in_memory(checkpoints["paper"], "crops").crop.fill == (123, 117, 104)
    grey = replace(checkpoints["torchvision"].preprocessing, mean=(127.4, 0.0, 255.0))
    checkpoint = replace(checkpoints["torchvision"], preprocessing=grey)
    assert export_in_memory(checkpoint, "crops").crop.fill == (127, 0, 255)


def test_the_help_names_the_opset_that_is_written_by_default() -> None:
    from detect.config import settings_help

    assert ExportConfig.opset is None
    assert f"by default {DEFAULT_OPSET}" in settings_help(ExportConfig)["template"]
