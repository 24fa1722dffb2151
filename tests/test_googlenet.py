from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models import googlenet as torchvision_googlenet

from detect.googlenet import (
    INCEPTION_CHANNELS,
    PREPROCESSING,
    GoogLeNet,
    Preprocessing,
    local_response_norm,
)
from detect.imagenet import from_caffe, load_imagenet


def caffe_tensors(model: GoogLeNet) -> dict[str, torch.Tensor]:
    """Give a paper-layout model's tensors Caffe's names and channel order."""
    layers = {"conv1": "conv1/7x7_s2", "conv2": "conv2/3x3_reduce", "conv3": "conv2/3x3"}
    branches = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    ours = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
    for block in INCEPTION_CHANNELS:
        for caffe, branch in zip(branches, ours, strict=True):
            layers[f"inception{block}.{branch}"] = f"inception_{block}/{caffe}"
    tensors = {}
    for key, value in model.state_dict().items():
        name, kind = key.rsplit(".", 1)
        layer = "loss3/classifier" if name == "fc" else layers[name.removesuffix(".conv")]
        swap = layer == "conv1/7x7_s2" and kind == "weight"
        tensors[f"{layer}.{kind}"] = (value.flip(1) if swap else value).clone()
    return tensors


def test_paper_layout_has_the_counts_of_table_1() -> None:
    model = GoogLeNet(1000)
    assert sum(p.numel() for p in model.parameters()) == 6_998_552
    assert sum(p.numel() for p in GoogLeNet(0).parameters()) == 5_973_552
    with_auxiliary = sum(p.numel() for p in GoogLeNet(1000, auxiliary=True).parameters())
    assert with_auxiliary - 6_998_552 == 6_379_728
    assert model.inception3a.branch3[1].conv.kernel_size == (5, 5)
    assert model.dropout.p == 0.4


def test_stages_have_the_sizes_of_table_1() -> None:
    model = GoogLeNet(7).eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        stem = model.stem(images)
        maps = model.inception4(stem)
        features = model.inception5(model.pool4(maps))
        logits = model(images)
    assert stem.shape == (2, 480, 14, 14)
    assert maps.shape == (2, 832, 14, 14)
    assert features.shape == (2, 1024)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model.fc(features))


def test_no_images_give_no_logits() -> None:
    with torch.inference_mode():
        assert GoogLeNet(5).eval()(torch.zeros(0, 3, 224, 224)).shape == (0, 5)


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
def test_auxiliary_classifiers_answer_in_training(layout: str) -> None:
    model = GoogLeNet(4, layout=layout, auxiliary=True).eval()  # type: ignore[arg-type]
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        logits, first, second = model.forward_with_auxiliary(images)
        torch.testing.assert_close(logits, model(images))
    assert logits.shape == first.shape == second.shape == (2, 4)


def test_torchvision_layout_equals_torchvision() -> None:
    theirs = torchvision_googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    theirs.transform_input = False
    ours = GoogLeNet(layout="torchvision", auxiliary=True).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_torchvision_preprocessing_equals_its_transform() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    usual = (image / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    model = torchvision_googlenet(weights=None, init_weights=False, transform_input=True)
    expected = model._transform_input(usual)
    torch.testing.assert_close(PREPROCESSING["torchvision"](image), expected, atol=1e-5, rtol=0)


def test_preprocessing_turns_the_mean_to_zero() -> None:
    mean = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert Preprocessing()(mean).abs().max() == 0


@pytest.mark.parametrize("channels", [1, 4, 64])
def test_local_response_norm_equals_torchs(channels: int) -> None:
    x = torch.randn(2, channels, 5, 7) * 100
    expected = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
    torch.testing.assert_close(local_response_norm(x), expected)


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'paper' nor 'torchvision'"):
        GoogLeNet(layout="caffe")  # type: ignore[arg-type]


def test_caffe_weights_load_from_safetensors(tmp_path) -> None:
    model = GoogLeNet(6).eval()
    save_file(caffe_tensors(model), tmp_path / "bvlc.safetensors")
    loaded = load_imagenet(tmp_path / "bvlc.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_foreign_weights_are_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match="fc8"):
        from_caffe({"fc8.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no such weights file"):
        load_imagenet(tmp_path / "absent.caffemodel")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no GoogLeNet"):
        load_imagenet(tmp_path / "x.safetensors")
    incomplete = caffe_tensors(GoogLeNet(3))
    del incomplete["inception_4c/5x5.weight"]
    save_file(incomplete, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"inception4c\.branch3\.1"):
        load_imagenet(tmp_path / "y.safetensors")


def test_bvlc_weights_give_the_golden_logits(shared_dir) -> None:
    golden = np.load(shared_dir / "weights" / "bvlc_googlenet_golden.npz")
    model = load_imagenet(shared_dir / "weights" / "bvlc_googlenet.safetensors")
    images = torch.from_numpy(golden["images_rgb_uint8"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        inputs = PREPROCESSING["paper"](images)
        features, logits = model.features(inputs), model(inputs)
    assert np.abs(features.numpy() - golden["pooled_features"]).max() < 1e-4
    assert np.abs(logits.numpy() - golden["logits"]).max() < 1e-4
