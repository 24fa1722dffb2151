from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from detect.data.records import Record
from detect.heads import encode_boxes
from detect.region_training import (
    RegionSampler,
    SamplingConfig,
    box_regression_losses,
    distort_colours,
    hardest,
    jitter_boxes,
    place_window,
)
from detect.shared_geometry import SharedTrunkConfig, map_boxes, region_levels, resized_size

PYRAMID = SharedTrunkConfig(shorter_side=160, max_side=300, pyramid=[0.5, 1.0], region_side=60)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_proposals(count: int = 300, seed: int = 0, size: tuple[int, int] = (80, 110)) -> Tensor:
    height, width = size
    corners = torch.rand(count, 2, 2, generator=generator(seed)) * torch.tensor([width, height])
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, torch.maximum(high, low + 2)], dim=1)


def sampler(records: list[Record], **changes: object) -> RegionSampler:
    given: dict[str, object] = {"regions_per_photo": 8, "candidates_per_photo": 24, **changes}
    pyramid = given.pop("pyramid", None)
    proposals = {record.name: some_proposals(seed=i) for i, record in enumerate(records)}
    config = SamplingConfig(**given)  # type: ignore[arg-type]
    return RegionSampler(records, proposals, 2, config, pyramid=pyramid)  # type: ignore[arg-type]


def test_a_draw_follows_from_its_number(square_records) -> None:
    draw = sampler(square_records, pyramid=PYRAMID)
    one, two, other = draw(4, generator(4)), draw(4, generator(4)), draw(5, generator(5))
    assert torch.equal(one.regions.boxes, two.regions.boxes)
    assert torch.equal(one.image, two.image)
    assert one.scale == two.scale
    assert not torch.equal(one.regions.boxes, other.regions.boxes)


def test_a_quarter_of_the_candidates_shows_an_object(square_records) -> None:
    sample = sampler(square_records, jittered_truth=30)(0, generator())
    assert len(sample.regions.boxes) == 24
    assert int((sample.regions.labels < 2).sum()) == 6


def test_mirrored_regions_show_what_they_showed(square_records) -> None:
    plain = sampler(square_records, mirror=False)(0, generator())
    for seed in range(20):  # one of them is mirrored
        sample = sampler(square_records)(0, generator(seed))
        if not torch.equal(sample.image, plain.image):
            break
    assert torch.equal(sample.image, plain.image.flip(-1))
    shown = sample.regions.labels < 2
    boxes, targets = sample.regions.boxes[shown], sample.regions.targets[shown]
    assert (box_iou(boxes, targets).diagonal() >= 0.5).all()
    x1, y1, x2, y2 = targets[0].int().tolist()
    assert sample.image[:, y1:y2, x1:x2].float().mean() > 180  # the bright square


@pytest.mark.parametrize("window", [60, 90, 10_000])
def test_all_regions_of_a_draw_come_from_one_level_and_lie_in_the_window(
    square_records, window
) -> None:
    draw = sampler(square_records, pyramid=PYRAMID, window=window, mirror=False, scale_jitter=0.0)
    levels = set()
    for seed in range(30):
        sample = draw(seed, generator(seed))
        height, width = sample.image.shape[-2:]
        boxes = sample.regions.boxes
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        # The level of each box in the whole photo is the one at whose size the window enters.
        zoom = resized_size((height, width), sample.scale)[0] / height
        chosen = region_levels(boxes, (80, 110), PYRAMID).unique()
        assert len(chosen) == 1
        expected = 2.0 * PYRAMID.pyramid[int(chosen)]
        assert zoom == pytest.approx(expected, rel=0.05)
        levels.add(int(chosen))
    assert levels == {0, 1}


def test_the_part_of_a_photo_enters_the_trunk_at_the_zoom_of_the_whole(square_records) -> None:
    draw = sampler(square_records, pyramid=PYRAMID, window=80, mirror=False, scale_jitter=0.0)
    sample = draw(1, generator(1))
    height, width = sample.image.shape[-2:]
    on_map = map_boxes(sample.regions.boxes, (height, width), sample.scale)
    level = int(region_levels(sample.regions.boxes[:1], (80, 110), PYRAMID))
    whole = map_boxes(sample.regions.boxes, (80, 110), PYRAMID, PYRAMID.pyramid[level])
    sides, expected = on_map[:, 2:] - on_map[:, :2], whole[:, 2:] - whole[:, :2]
    torch.testing.assert_close(sides, expected, rtol=0.05, atol=0.01)


def test_scale_jitter_varies_the_zoom(square_records) -> None:
    draw = sampler(square_records, pyramid=PYRAMID, mirror=False, scale_jitter=0.5, window=10_000)
    zooms = [draw(i, generator(i)).scale.shorter_side / 80 for i in range(40)]
    assert 0.65 < min(zooms) < 0.9
    assert 2.2 < max(zooms) < 2.9


def test_photos_without_objects_or_proposals_can_be_drawn(square_records) -> None:
    record = square_records[0]
    nothing = Record(
        "0", record.path, 110, 80, torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool()
    )
    config = SamplingConfig(regions_per_photo=8, candidates_per_photo=8)
    draw = RegionSampler([nothing], {"0": some_proposals()}, 2, config, pyramid=PYRAMID)
    sample = draw(0, generator())
    assert (sample.regions.labels == 2).all() and len(sample.regions.labels) > 0
    draw = RegionSampler([nothing], {"0": torch.zeros(0, 4)}, 2, config, pyramid=PYRAMID)
    assert len(draw(0, generator()).regions.boxes) == 0


def test_no_photos_and_too_few_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="no photos"):
        RegionSampler([], {}, 2, SamplingConfig())
    with pytest.raises(ValueError, match="candidates_per_photo=8 must not be fewer"):
        SamplingConfig(candidates_per_photo=8)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.integers(1, 200),
    st.integers(0, 5),
)
def test_a_window_lies_in_the_image_and_holds_its_box(size, corners, side, seed) -> None:
    height, width = size
    x, y = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([x[0] * width, y[0] * height, x[1] * width, y[1] * height])
    left, top, w, h = place_window(box, size, side, generator(seed))
    assert left >= 0 and top >= 0 and left + w <= width and top + h <= height
    assert min(w, h) >= 1
    assert left <= box[0] and top <= box[1] and left + w >= box[2] and top + h >= box[3]
    assert w <= max(side, box[2] - box[0] + 2) and h <= max(side, box[3] - box[1] + 2)


def test_jittered_boxes_stay_near_and_inside() -> None:
    truth = torch.tensor([[0.0, 0, 40, 60], [50, 20, 100, 80]])
    near = jitter_boxes(truth, 50, (80, 100), generator())
    assert near.shape == (100, 4)
    assert (near >= 0).all() and near[:, 2].max() <= 100 and near[:, 3].max() <= 80
    overlaps = box_iou(near, truth)[torch.arange(100), torch.tensor([0, 1] * 50)]
    assert (overlaps > 0.5).float().mean() > 0.7
    assert jitter_boxes(truth[:0], 50, (80, 100), generator()).shape == (0, 4)


def test_colours_are_distorted_alike_and_stay_in_range() -> None:
    images = torch.rand(2, 3, 5, 6) * 255
    assert distort_colours(images, 0.0, generator()) is images
    distorted = distort_colours(images, 0.5, generator())
    assert distorted.min() >= 0 and distorted.max() <= 255
    assert not torch.allclose(distorted, images)
    again = distort_colours(images[:1], 0.5, generator())
    # One image alone has another mean, from which contrast is counted.
    assert again.shape == (1, 3, 5, 6)
    grey = torch.full((1, 3, 4, 4), 100.0)
    flat = distort_colours(grey, 0.2, generator(1))
    assert torch.allclose(flat, flat[0, 0, 0, 0]) and not torch.allclose(flat, grey)


def test_the_hardest_of_regions_that_coincide_stands_for_them() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60], [80, 0, 90, 10]])
    losses = torch.tensor([3.0, 4.0, 1.0, 2.0])
    assert hardest(losses, boxes, 2).tolist() == [1, 3]
    assert hardest(losses, boxes, 3).tolist() == [1, 2, 3]
    assert hardest(losses, boxes, 4).tolist() == [0, 1, 2, 3]  # none other is left


def test_ties_between_hard_regions_go_to_the_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 4)
    assert hardest(torch.ones(4), boxes, 2).tolist() == [0, 1]
    assert hardest(torch.zeros(0), torch.zeros(0, 4), 0).tolist() == []


def test_box_losses_count_foreground_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 9, 9]])
    targets = torch.tensor([[1.0, 0, 11, 10], [0, 0, 20, 20], [0, 0, 1, 1]])
    labels = torch.tensor([1, 0, 2])
    offsets = torch.randn(3, 2, 4, requires_grad=True)
    losses = box_regression_losses(offsets, boxes, labels, targets)
    for i in (0, 1):
        wanted = encode_boxes(boxes[i : i + 1], targets[i : i + 1])[0]
        expected = F.smooth_l1_loss(offsets[i, labels[i]], wanted, reduction="sum")
        torch.testing.assert_close(losses[i], expected)
    assert losses[2] == 0
    losses.sum().backward()
    assert offsets.grad is not None and (offsets.grad[2] == 0).all()
    none = torch.zeros(0, 4)
    assert box_regression_losses(torch.zeros(0, 2, 4), none, torch.zeros(0).long(), none).shape == (
        0,
    )
