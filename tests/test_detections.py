from __future__ import annotations

import pytest
import torch

from detect.detections import Detections


def three() -> Detections:
    boxes = torch.arange(12, dtype=torch.float32).view(3, 4)
    return Detections(boxes, torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1]), ("a", "b"))


def test_nothing_has_no_names() -> None:
    nothing = Detections.empty(("a",))
    assert len(nothing) == 0
    assert nothing.names == []
    assert nothing.boxes.shape == (0, 4)


def test_names_follow_labels() -> None:
    assert three().names == ["b", "a", "b"]
    assert Detections(three().boxes, three().scores, three().labels).names == ["1", "0", "1"]


@pytest.mark.parametrize("keep", [torch.tensor([True, False, True]), torch.tensor([0, 2]), [0, 2]])
def test_masks_and_indices_select(keep) -> None:
    some = three()[keep]
    assert some.names == ["b", "b"]
    assert some.boxes.shape == (2, 4)


def test_slices_select_the_best() -> None:
    assert three()[:1].scores.tolist() == pytest.approx([0.9])


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        Detections(torch.zeros(2, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64))


def test_labels_without_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels 0\.\.1 leave the 1 classes"):
        Detections(three().boxes, three().scores, three().labels, ("a",))
