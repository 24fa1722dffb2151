from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detect.heads import RegionHead, decode_boxes, encode_boxes

sides = st.floats(1, 200)
corners = st.floats(0, 300)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_head_has_a_logit_a_class_and_background_and_offsets_a_class(n: int) -> None:
    logits, offsets = RegionHead(3)(torch.rand(n, 1024))
    assert logits.shape == (n, 4)
    assert offsets.shape == (n, 3, 4)


@given(corners, corners, sides, sides, corners, corners, sides, sides)
def test_decoding_undoes_encoding(x, y, w, h, tx, ty, tw, th) -> None:
    box = torch.tensor([[x, y, x + w, y + h]])
    target = torch.tensor([[tx, ty, tx + tw, ty + th]])
    if tw > 3.9 * w or th > 3.9 * h:  # beyond the limit on growth
        return
    offsets = encode_boxes(box, target)[:, None]
    decoded = decode_boxes(box, offsets, (1000, 1000))[:, 0]
    torch.testing.assert_close(decoded, target, atol=0.05, rtol=1e-3)


def test_encoding_equals_the_formula_of_r_cnn() -> None:
    offsets = encode_boxes(
        torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 20.0]])
    )
    expected = [(15 - 5) / 10 / 0.1, 0, math.log(2) / 0.2, 0]
    torch.testing.assert_close(offsets[0], torch.tensor(expected))


def test_no_boxes_encode_and_decode() -> None:
    none = torch.zeros(0, 4)
    assert encode_boxes(none, none).shape == (0, 4)
    assert decode_boxes(none, torch.zeros(0, 7, 4), (10, 10)).shape == (0, 7, 4)


def test_decoded_boxes_stay_inside_the_image_and_finite() -> None:
    boxes = torch.tensor([[0.0, 0.0, 30.0, 40.0], [10.0, 10.0, 11.0, 11.0]])
    offsets = torch.tensor([1e6, -1e6, 1e6, 50.0]).expand(2, 3, 4)
    decoded = decode_boxes(boxes, offsets, (40, 30))
    assert decoded.isfinite().all()
    assert decoded[..., 0::2].max() <= 30
    assert decoded[..., 1::2].max() <= 40
    assert decoded.min() >= 0


@pytest.mark.parametrize("n", [0, 1, 5])
def test_softmax_probabilities_sum_to_one(n: int) -> None:
    logits = 5 * torch.randn(n, 4)
    probabilities = RegionHead(3).probabilities(logits)
    assert torch.equal(probabilities, logits.softmax(dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(n))


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("classes", [1, 3])
def test_sigmoid_probabilities_are_each_classs_own(n: int, classes: int) -> None:
    logits = 3 * torch.randn(n, classes + 1)
    head = RegionHead(classes, "sigmoid")
    probabilities = head.probabilities(logits)
    assert probabilities.shape == (n, classes + 1)
    for row, values in enumerate(logits.tolist()):
        own = [1 / (1 + math.exp(-value)) for value in values[:-1]]
        expected = torch.tensor([*own, 1 - max(own)])
        torch.testing.assert_close(probabilities[row], expected)
    other = logits.clone()
    other[:, -1] = 99  # the logit of background counts for nothing
    assert torch.equal(head.probabilities(other), probabilities)


def test_extreme_logits_have_finite_probabilities() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 0.0]])
    found = RegionHead(2, "sigmoid").probabilities(logits)
    assert found.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation=relu: choose softmax or sigmoid"):
        RegionHead(3, "relu")  # type: ignore[arg-type]
