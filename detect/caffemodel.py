"""Weights straight from a Caffe ``.caffemodel``, without Caffe and without protobuf.

Field numbers and types are those of ``src/caffe/proto/caffe.proto`` in BVLC/caffe; the encoding is
that of https://protobuf.dev/programming-guides/encoding. Only what leads to weights is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not in use


@dataclass(frozen=True)
class _LayerFields:
    """Field numbers of one of the two generations of layers, and its fully connected type."""

    name: int
    type: int
    blobs: int
    fully_connected: int | bytes


# By field number in NetParameter: `layer` is a LayerParameter, `layers` a V1LayerParameter.
LAYER_FIELDS = {
    100: _LayerFields(name=1, type=2, blobs=7, fully_connected=b"InnerProduct"),
    2: _LayerFields(name=4, type=5, blobs=6, fully_connected=14),
}
LEGACY_SHAPE = (1, 2, 3, 4)  # BlobProto num, channels, height, width
BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLE_DATA = 5, 7, 8


def read_caffemodel(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of every layer of a trained Caffe network.

    A file cut off exactly between two layers is a valid file of fewer layers: compare the names
    with those expected.

    Args:
        path: A binary ``.caffemodel``, of the present or of the older (V1) generation of layers.

    Returns:
        ``<layer>.weight`` and ``<layer>.bias``, and ``<layer>.2`` and on where a layer has more,
        float32, in the order of the file. Filters are ``[out, in, height, width]`` and look at
        the channels in the order of training, BGR for the published networks; fully connected
        weights are ``[out, in]``, biases ``[out]``.

    Raises:
        ValueError: If the file is truncated, or no Caffe network, or one without weights. The
            message is one line that names the file.
    """
    try:
        return _read_network(memoryview(Path(path).read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path} is not a whole Caffe model: {error}") from error


def _read_network(data: memoryview) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, value in _fields(data):
        if number not in LAYER_FIELDS:
            continue
        for key, tensor in _read_layer(_message(value), LAYER_FIELDS[number]):
            if key in tensors:
                raise ValueError(f"{key} occurs twice")
            tensors[key] = tensor
    if not tensors:
        raise ValueError("no layer holds weights")
    return tensors


def _read_layer(data: memoryview, numbers: _LayerFields) -> Iterator[tuple[str, Tensor]]:
    name, fully_connected, blobs = "", False, []
    for number, value in _fields(data):
        if number == numbers.name:
            name = bytes(_message(value)).decode()
        elif number == numbers.type:
            fully_connected = value == numbers.fully_connected
        elif number == numbers.blobs:
            blobs.append(_read_blob(_message(value)))
    if blobs and not name:
        raise ValueError("a layer with weights has no name")
    for index, blob in enumerate(blobs):
        # Older files give every blob four sides, the unused ones in front and 1.
        if index == 0 and fully_connected and blob.ndim == 4 and blob.shape[:2] == (1, 1):
            blob = blob.reshape(blob.shape[2:])
        elif index == 1 and blob.shape[:-1] == (1, 1, 1):
            blob = blob.reshape(-1)
        yield f"{name}.{('weight', 'bias')[index] if index < 2 else index}", torch.from_numpy(blob)


def _read_blob(data: memoryview) -> np.ndarray:
    sides: list[int] | None = None
    legacy = dict.fromkeys(LEGACY_SHAPE, 0)
    chunks: dict[int, list[memoryview]] = {BLOB_DATA: [], BLOB_DOUBLE_DATA: []}
    for number, value in _fields(data):
        if number == BLOB_SHAPE:
            sides = (sides or []) + _read_shape(_message(value))
        elif number in chunks:
            chunks[number].append(_message(value))  # packed, or a number on its own
        elif number in legacy:
            legacy[number] = _integer(value)
    shape = list(legacy.values()) if sides is None else sides
    kind = BLOB_DOUBLE_DATA if chunks[BLOB_DOUBLE_DATA] else BLOB_DATA
    size = 8 if kind == BLOB_DOUBLE_DATA else 4
    length = sum(len(chunk) for chunk in chunks[kind])
    if any(len(chunk) % size for chunk in chunks[kind]) or length != size * math.prod(shape):
        raise ValueError(f"a blob of shape {shape} holds {length} bytes")
    if not length:
        raise ValueError("a blob is empty")
    buffer = chunks[kind][0] if len(chunks[kind]) == 1 else b"".join(chunks[kind])
    return np.frombuffer(buffer, f"<f{size}").astype(np.float32).reshape(shape)


def _read_shape(data: memoryview) -> list[int]:
    sides: list[int] = []
    for number, value in _fields(data):
        if number != 1:
            continue
        if isinstance(value, int):
            sides.append(value)
            continue
        place = 0
        while place < len(value):
            side, place = _varint(value, place)
            sides.append(side)
    return sides


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field of a message; only varints are integers."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire_type == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire_type == LENGTH:
            length, place = _varint(data, place)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"a field has the wire type {wire_type}")
        if length > len(data) - place:
            raise ValueError(f"{length} bytes are announced where {len(data) - place} are left")
        yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Read an integer of seven bits a byte, lowest first; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place == len(data):
            raise ValueError("the data end within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is longer than 64 bits")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where text, data or a message belongs")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("data stand where a number belongs")
    return value
