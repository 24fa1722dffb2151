from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from detect.caffemodel import read_caffemodel

SLOW_DISK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Layers = list[tuple[str, str, list[np.ndarray]]]


def varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def blob(
    array: np.ndarray, legacy: bool = False, packed: bool = True, double: bool = False
) -> bytes:
    if legacy:
        sides = [1] * (4 - array.ndim) + list(array.shape)
        shape = b"".join(number(i + 1, side) for i, side in enumerate(sides))
    elif packed:
        shape = block(7, block(1, b"".join(varint(side) for side in array.shape)))
    else:
        shape = block(7, b"".join(number(1, side) for side in array.shape))
    field, code, wire = (8, "<d", 1) if double else (5, "<f", 5)
    values = [struct.pack(code, value) for value in array.ravel().tolist()]
    if packed:
        return shape + block(field, b"".join(values))
    return shape + b"".join(varint(field << 3 | wire) + value for value in values)


def network(layers: Layers, old: bool = False, **settings: bool) -> bytes:
    """Encode a network; ``old`` gives V1 layers, whose types are numbers."""
    found = block(1, b"GoogleNet")
    for name, kind, arrays in layers:
        if old:
            types = {"Convolution": 4, "InnerProduct": 14, "ReLU": 18}
            layer = block(2, b"data") + block(4, name.encode()) + number(5, types[kind])
        else:
            layer = block(1, name.encode()) + block(2, kind.encode()) + number(10, 1)
        for array in arrays:
            layer += block(6 if old else 7, blob(array, **settings))
        found += block(2 if old else 100, layer)
    return found


def example(seed: int = 0) -> Layers:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return [
        ("conv1/7x7_s2", "Convolution", [normal(4, 3, 2, 2), normal(4)]),
        ("conv1/relu", "ReLU", []),
        ("loss1/conv", "Convolution", [normal(1, 1, 2, 3), normal(1)]),
        ("loss1/classifier", "InnerProduct", [normal(5, 4), normal(5)]),
    ]


def expected(layers: Layers) -> dict[str, Tensor]:
    return {
        f"{name}.{suffix}": torch.from_numpy(array)
        for name, _, arrays in layers
        for suffix, array in zip(("weight", "bias"), arrays, strict=False)
    }


def assert_same(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    assert list(found) == list(truth)
    for key, tensor in truth.items():
        assert found[key].dtype == torch.float32
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key], tensor)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], dict[str, Tensor]]:
    path = tmp_path / "net.caffemodel"

    def write_and_read(data: bytes) -> dict[str, Tensor]:
        path.write_bytes(data)
        return read_caffemodel(path)

    return write_and_read


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_every_form_of_a_network_is_read_alike(
    read: Callable[[bytes], dict[str, Tensor]], old: bool, legacy: bool, packed: bool, double: bool
) -> None:
    data = network(example(), old=old, legacy=legacy, packed=packed, double=double)
    assert_same(read(data), expected(example()))


@SLOW_DISK
@given(
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=4), min_size=1, max_size=5),
    name=st.text(min_size=1, max_size=30),
    seed=st.integers(0, 10**6),
    old=st.booleans(),
    packed=st.booleans(),
)
def test_any_shape_and_name_comes_back(
    read: Callable[[bytes], dict[str, Tensor]],
    shapes: list[list[int]],
    name: str,
    seed: int,
    old: bool,
    packed: bool,
) -> None:
    rng = np.random.default_rng(seed)
    layers: Layers = [
        (f"{name}{i}", "Convolution", [rng.normal(size=shape).astype(np.float32)])
        for i, shape in enumerate(shapes)
    ]
    assert_same(read(network(layers, old=old, packed=packed)), expected(layers))


@pytest.mark.parametrize("old", [False, True])
def test_a_file_cut_anywhere_is_refused_or_lacks_whole_layers(
    read: Callable[[bytes], dict[str, Tensor]], old: bool
) -> None:
    data, truth = network(example(), old=old), expected(example())
    read_anyway = 0
    for length in range(len(data)):
        try:
            found = read(data[:length])
        except ValueError:
            continue
        read_anyway += 1
        layers = {key.rpartition(".")[0] for key in found}
        assert_same(found, {k: v for k, v in truth.items() if k.rpartition(".")[0] in layers})
    assert read_anyway == 3  # before each layer but the first


@SLOW_DISK
@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused_with_one_line_that_names_the_file(
    read: Callable[[bytes], dict[str, Tensor]], data: bytes
) -> None:
    with pytest.raises(ValueError, match=r"net\.caffemodel is not a whole Caffe model") as error:
        read(data)
    assert "\n" not in str(error.value)


@SLOW_DISK
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_byte_gives_tensors_or_a_value_error(
    read: Callable[[bytes], dict[str, Tensor]], place: int, byte: int
) -> None:
    data = bytearray(network(example()))
    data[place % len(data)] = byte
    try:
        found = read(bytes(data))
    except ValueError as error:
        assert "net.caffemodel" in str(error)
    else:
        assert all(tensor.dtype == torch.float32 for tensor in found.values())


ONE = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no layer holds weights"),
        (network([("relu", "ReLU", [])]), "no layer holds weights"),
        (network([("a", "ReLU", [ONE]), ("a", "ReLU", [ONE])]), "a.weight occurs twice"),
        (network([("", "ReLU", [ONE])]), "no name"),
        (network([("a", "ReLU", [ONE[:0]])]), "empty"),
        (block(100, block(1, b"a") + block(7, block(5, b"\0" * 8))), r"\[0, 0, 0, 0\] holds 8"),
        (block(100, block(1, b"a") + block(7, number(4, 2) + block(5, b"\0" * 7))), "7 bytes"),
        (block(100, block(1, b"a") + number(7, 3)), "a number stands"),
        (block(100, block(1, b"a") + block(7, block(4, b"22"))), "data stand"),
        (block(100, block(1, b"\xff")), "utf-8"),
        (number(2, 5), "a number stands"),
        (b"\xff" * 20, "longer than 64 bits"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x00", "number 0"),
    ],
)
def test_what_is_wrong_is_said(
    read: Callable[[bytes], dict[str, Tensor]], data: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(data)


def test_data_in_several_pieces_are_joined(read: Callable[[bytes], dict[str, Tensor]]) -> None:
    halves = block(5, struct.pack("<2f", 1, 2)) + block(5, struct.pack("<f", 3))
    shape = block(7, block(1, varint(3)))
    found = read(block(100, block(7, halves + shape) + block(1, b"late name")))
    assert_same(found, {"late name.weight": torch.tensor([1.0, 2, 3])})


def test_further_blobs_of_a_layer_are_numbered(
    read: Callable[[bytes], dict[str, Tensor]],
) -> None:
    found = read(network([("bn", "ReLU", [ONE, ONE, ONE[:1]])]))
    assert list(found) == ["bn.weight", "bn.bias", "bn.2"]


def test_the_tensors_may_be_written_to(read: Callable[[bytes], dict[str, Tensor]]) -> None:
    found = read(network(example()))["loss1/classifier.bias"]
    found += 1
    assert torch.equal(found, expected(example())["loss1/classifier.bias"] + 1)


def test_fifty_megabytes_take_less_than_two_seconds(
    read: Callable[[bytes], dict[str, Tensor]],
) -> None:
    data = block(7, block(1, varint(12_500_000))) + block(5, bytes(50_000_000))
    layer = block(100, block(1, b"fc") + block(7, data))
    started = time.process_time()
    assert read(layer)["fc.weight"].shape == (12_500_000,)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("old", [False, True])
def test_the_published_googlenet_has_the_names_and_shapes_of_its_caffe_layers(
    read: Callable[[bytes], dict[str, Tensor]], shared_dir: Path, old: bool
) -> None:
    truth = load_file(shared_dir / "weights" / "bvlc_googlenet.safetensors")
    data = b""
    for name in sorted({key.rpartition(".")[0] for key in truth}):
        layer = block(4, name.encode()) if old else block(1, name.encode())
        kind, code = ("InnerProduct", 14) if name == "loss3/classifier" else ("Convolution", 4)
        layer += number(5, code) if old else block(2, kind.encode())
        for suffix in ("weight", "bias"):
            array = truth[f"{name}.{suffix}"].numpy()
            sides = [1] * (4 - array.ndim) + list(array.shape)
            shape = b"".join(number(i + 1, side) for i, side in enumerate(sides))
            layer += block(6 if old else 7, shape + block(5, array.tobytes()))
        data += block(2 if old else 100, layer)
    found = read(data)
    assert_same(dict(sorted(found.items())), dict(sorted(truth.items())))
