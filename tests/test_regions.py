from __future__ import annotations

import pytest
import torch

from detect.data.records import Record
from detect.data.regions import label_regions, mirror_boxes, sample_regions


def record(boxes: list[list[float]], labels: list[int], difficult: list[bool]) -> Record:
    return Record(
        "x",
        None,
        100,
        100,
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.bool),
    )


PROPOSALS = torch.tensor(
    [[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 60, 60], [90, 90, 99, 99]]
)


def test_without_objects_all_is_background() -> None:
    regions = label_regions(PROPOSALS, record([], [], []), num_classes=3)
    assert regions.labels.tolist() == [3] * 5
    assert len(label_regions(torch.zeros(0, 4), record([], [], []), 3).labels) == 0


def test_regions_take_the_class_of_the_object_they_overlap_by_half() -> None:
    regions = label_regions(PROPOSALS, record([[0, 0, 10, 10]], [1], [False]), num_classes=3)
    assert regions.boxes[0].tolist() == [0, 0, 10, 10]  # the object itself joins
    assert regions.labels.tolist() == [1, 1, 1, 3, 3, 3]
    assert regions.targets[2].tolist() == [0, 0, 10, 10]


def test_regions_on_difficult_objects_are_left_out() -> None:
    objects = record([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 2], [True, False])
    regions = label_regions(PROPOSALS, objects, num_classes=3)
    assert regions.labels.tolist() == [2, 3, 2, 3]


def test_mirroring_twice_changes_nothing() -> None:
    assert mirror_boxes(PROPOSALS, 100)[0].tolist() == [90, 0, 100, 10]
    torch.testing.assert_close(mirror_boxes(mirror_boxes(PROPOSALS, 100), 100), PROPOSALS)
    assert mirror_boxes(torch.zeros(0, 4), 7).shape == (0, 4)


@pytest.mark.parametrize("count", [1, 4, 8, 100])
def test_sampling_keeps_the_share_of_foreground_and_repeats_nothing(count: int) -> None:
    objects = record([[0, 0, 10, 10]], [0], [False])
    jitter = torch.arange(1, 21)[:, None] * torch.tensor([0.01, 0, 0.01, 0])
    proposals = torch.cat([PROPOSALS[:1] + jitter, PROPOSALS[3:4] + jitter])
    regions = label_regions(proposals, objects, num_classes=2)
    drawn = sample_regions(
        regions,
        count,
        num_classes=2,
        foreground_fraction=0.25,
        generator=torch.Generator().manual_seed(1),
    )
    foreground = int((drawn.labels == 0).sum())
    assert foreground == min(21, round(count * 0.25))
    assert len(drawn.labels) == min(count, foreground + 20)
    assert len({tuple(box) for box in drawn.boxes.tolist()}) == len(drawn.labels)


def test_the_seed_decides_what_is_drawn() -> None:
    regions = label_regions(PROPOSALS, record([], [], []), num_classes=2)
    boxes = [
        sample_regions(
            regions,
            3,
            num_classes=2,
            foreground_fraction=0.25,
            generator=torch.Generator().manual_seed(seed),
        ).boxes
        for seed in (1, 1, 2)
    ]
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])
