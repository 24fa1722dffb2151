"""A prepared network against the plain one it was made of.

Tolerances, as shares of a result's size (its Euclidean norm): float32 rounds by 6e-8, and sums of
up to a few thousand terms in another order, in at most 22 layers, differ by some ten times that.
bfloat16 rounds by at most 2 ** -8, that is 0.0023 in the root mean square; the roundings of
weights and results in 22 layers, taken as independent, add up to sqrt(44) times that: 0.015.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import skimage
import torch
from torch import Tensor, nn

from detect import prepare
from detect.checkpoint import load_checkpoint
from detect.googlenet import PREPROCESSING, ConvReLU, GoogLeNet
from detect.images import read_image
from detect.map_operations import CompiledMaxPool
from detect.prepare import PackedConv, fuse, prepare_network
from detect.workers import CoreWorkers

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.015}
LAYOUTS = ["paper", "torchvision"]
# What pool3 leaves of these is from 1 x 1 to 6 x 5 points, odd and even.
SIZES = [(1, 15, 15), (2, 16, 33), (1, 97, 65), (5, 48, 80)]

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here"
)
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


def randomise_statistics(network: nn.Module) -> None:
    """Give batch normalisation what training might, negative, tiny and dead channels among it."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, ConvReLU) and isinstance(module.bn, nn.BatchNorm2d):
            norm = module.bn
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.weight.data[:2] = torch.tensor([-0.7, 1e-4])
            norm.bias.data.normal_(0, 0.3, generator=generator)
            norm.running_mean.normal_(0, 0.5, generator=generator)
            norm.running_var.uniform_(0.3, 3, generator=generator)
            module.conv.weight.data[2] = 0
            norm.running_mean[2] = norm.running_var[2] = 0


@pytest.fixture(scope="module")
def networks() -> dict[str, GoogLeNet]:
    """The bundled detector's network, and one of torchvision's layout with random weights."""
    torch.manual_seed(0)
    random = GoogLeNet(0, layout="torchvision").eval()
    randomise_statistics(random)
    return {"paper": load_checkpoint().network, "torchvision": random}


@pytest.fixture(scope="module")
def prepared(networks) -> dict[tuple[str, torch.dtype, bool], GoogLeNet]:
    """Each network in each way, used by all tests: for many sizes, one after the other."""
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    return {
        (layout, dtype, own): prepare_network(network, dtype=dtype, device=CPU, own_kernels=own)
        for layout, network in networks.items()
        for dtype in dtypes
        for own in (False, True)
    }


def photos(layout: str, count: int, height: int, width: int) -> Tensor:
    """Return pieces of photos, preprocessed, ``[N, 3, H, W]``."""
    data = Path(skimage.__file__).parent / "data"
    pieces = []
    for i in range(count):
        photo = read_image(data / ("astronaut.png", "coffee.png", "chelsea.png")[i % 3])
        pieces.append(photo[:, 20 * i :, 60 + 30 * i :][:, :height, :width])
    pixels = torch.stack(pieces) if pieces else torch.zeros(0, 3, height, width)
    return PREPROCESSING[layout](pixels)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference as a share of the expected norm."""
    assert found.shape == expected.shape
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def pool_smallest(network: GoogLeNet, maps: Tensor) -> Tensor:
    """Apply pool4; the paper's takes at least 2 x 2 points, so leave what is smaller."""
    return network.pool4(maps) if min(maps.shape[-2:]) > 1 else maps


@pytest.mark.parametrize("own_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_every_part_equals_the_plain_network(
    networks, prepared, layout: str, dtype: torch.dtype, own_kernels: bool
) -> None:
    plain, fast = networks[layout], prepared[layout, dtype, own_kernels]
    limit = TOLERANCE[dtype]
    for size in SIZES:
        images = photos(layout, *size)
        stem = plain.stem(images)
        found = fast.stem(images.to(dtype))
        assert found.dtype == dtype
        assert found.permute(0, 2, 3, 1).is_contiguous()
        assert difference(found, stem) < limit, size
        maps = plain.inception4(stem)
        assert difference(fast.inception4(stem.to(dtype)), maps) < limit, size
        pooled = pool_smallest(plain, maps)
        assert torch.equal(pool_smallest(fast, maps), pooled)
        features = plain.inception5(pooled)
        assert difference(fast.inception5(pooled.to(dtype)), features) < limit, size


@pytest.mark.parametrize("own_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_features_of_crops_equal_the_plain_networks(
    networks, prepared, layout: str, dtype: torch.dtype, own_kernels: bool
) -> None:
    images = photos(layout, 2, 224, 224)
    found = prepared[layout, dtype, own_kernels].features(images.to(dtype))
    assert difference(found, networks[layout].features(images)) < TOLERANCE[dtype]


@pytest.mark.parametrize("own_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_images_together_equal_images_alone(prepared, layout, dtype, own_kernels) -> None:
    fast = prepared[layout, dtype, own_kernels]
    images = photos(layout, 9, 64, 48).to(dtype)  # more than the weights are packed for
    together = fast.features(images)
    alone = torch.cat([fast.features(image[None]) for image in images])
    assert difference(together, alone) < TOLERANCE[dtype]


@pytest.mark.parametrize("own_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_no_images_have_no_features(prepared, layout, dtype, own_kernels) -> None:
    fast = prepared[layout, dtype, own_kernels]
    assert fast.features(torch.zeros(0, 3, 64, 64, dtype=dtype)).shape == (0, 1024)
    assert fast.inception5(torch.zeros(0, 832, 7, 7, dtype=dtype)).shape == (0, 1024)


@pytest.mark.parametrize("own_kernels", [True, False])
@torch.inference_mode()
def test_the_order_of_the_input_in_memory_does_not_matter(prepared, own_kernels: bool) -> None:
    fast = prepared["paper", torch.float32, own_kernels]
    images = photos("paper", 2, 64, 64)
    expected = fast.features(images.contiguous(memory_format=torch.channels_last))
    wide = torch.stack([images, images], dim=-1)[..., 0]
    for given in (images.contiguous(), wide):
        torch.testing.assert_close(fast.features(given), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_threads_that_share_a_prepared_network_do_not_disturb_each_other(prepared, dtype) -> None:
    fast = prepared["paper", dtype, True]
    images = [photos("paper", 1 + i % 3, 48 + i, 64).to(dtype) for i in range(8)]
    expected = [CoreWorkers(1).map(fast.features, [image]) for image in images]
    found = CoreWorkers(3).map(fast.features, images)
    for a, [b] in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_the_given_network_stays_as_it_is() -> None:
    network = GoogLeNet(3, layout="torchvision", auxiliary=True)  # in training
    randomise_statistics(network)
    before = copy.deepcopy(network.state_dict())
    for own_kernels in (True, False):
        prepared = prepare_network(
            network, dtype=torch.float32, device=CPU, own_kernels=own_kernels
        )
        assert not prepared.training
        assert not any(part.requires_grad for part in prepared.parameters())
    assert network.training
    assert network.conv1.bn.training
    assert all(part.requires_grad for part in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()


@pytest.mark.parametrize("own_kernels", [True, False])
@torch.inference_mode()
def test_training_on_does_not_reach_the_prepared_network(own_kernels: bool) -> None:
    network = GoogLeNet(0).eval()
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    prepared = prepare_network(network, dtype=torch.float32, device=CPU, own_kernels=own_kernels)
    expected = prepared.features(images)
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(prepared.features(images), expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("own_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_logits_equal_those_of_the_plain_network(dtype: torch.dtype, own_kernels: bool) -> None:
    torch.manual_seed(0)
    network = GoogLeNet(7, auxiliary=True).eval()
    images = photos("paper", 2, 64, 64)
    prepared = prepare_network(network, dtype=dtype, device=CPU, own_kernels=own_kernels)
    assert difference(prepared(images.to(dtype)), network(images)) < TOLERANCE[dtype]


def test_a_prepared_network_knows_its_precision_and_device(prepared) -> None:
    for (layout, dtype, own_kernels), network in prepared.items():
        assert (network.layout, network.dtype, network.device) == (layout, dtype, CPU)
        assert isinstance(network.pool4, CompiledMaxPool) == own_kernels
        for layer in (network.conv1, network.inception3a.reduce, network.inception5b.project):
            assert isinstance(layer, PackedConv) == own_kernels


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("inputs", "kernel_size", "stride", "padding"),
    [(3, 7, 2, 3), (16, 1, 1, 0), (5, 3, 1, 1), (33, 5, 1, 2)],
)
@pytest.mark.parametrize("side", [1, 8, 224])  # of the maps that the weights are packed for
@torch.inference_mode()
def test_joined_layers_give_their_outputs_side_by_side(
    packed, layout, inputs, kernel_size, stride, padding, side
) -> None:
    generator = torch.Generator().manual_seed(0)
    geometry = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    layers = [ConvReLU(inputs, outputs, layout, **geometry).eval() for outputs in (6, 3, 17)]
    randomise_statistics(nn.ModuleList(layers))
    joined = fuse(*layers, side=side, dtype=torch.float32, device=CPU, packed=packed)
    for shape in ((2, inputs, 9, 12), (1, inputs, 1, 1), (1, inputs, 1, 14)):
        x = torch.randn(shape, generator=generator)
        expected = torch.cat([layer(x) for layer in layers], dim=1)
        torch.testing.assert_close(joined(x), expected, atol=2e-5, rtol=1e-5)


@needs_bfloat16
@pytest.mark.parametrize("outputs", [1, 63, 64, 65])
@pytest.mark.parametrize("native", [True, False])
@torch.inference_mode()
def test_channels_that_fill_tiles_are_not_returned(outputs, native, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "multiplies_tiles", lambda dtype: native)
    layer = ConvReLU(8, outputs, "paper", kernel_size=3, padding=1).eval()
    packed = fuse(layer, side=14, dtype=torch.bfloat16, device=CPU, packed=True)
    assert len(packed.bias) == (-(-outputs // 64) * 64 if native else outputs)
    x = torch.randn((2, 8, 9, 12), generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    found = packed(x.bfloat16()).float()
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_a_network_prepared_for_a_gpu_equals_the_plain_one(networks, layout: str) -> None:
    images = photos(layout, 3, 97, 64)
    gpu = torch.device("cuda")
    expected = networks[layout].features(images)
    # A GPU multiplies float32 with the 10 bits of TF32 where torch lets cuDNN do so.
    for dtype, limit in ((torch.float32, 0.005), (torch.bfloat16, TOLERANCE[torch.bfloat16])):
        prepared = prepare_network(networks[layout], dtype=dtype, device=gpu)
        found = prepared.features(images.to(gpu, dtype))
        assert difference(found.cpu(), expected) < limit
