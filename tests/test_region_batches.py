from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detect.heads import RegionHead, decode_boxes
from detect.region_batches import RegionBatches, fetch, upload
from detect.workers import CoreWorkers

CLASSES = 3
SIZE = (60, 80)
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def random_boxes(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([60.0, 40.0])
    return torch.cat([corners, corners + 5 + 30 * torch.rand(n, 2, generator=generator)], dim=1)


def cut(boxes: Tensor) -> Tensor:
    return boxes / 80


class Scorer:
    """A row's logits and offsets are functions of that row; batches are noted.

    Args:
        room: Rows that fit into memory at a time.
    """

    def __init__(self, room: int = 10**6) -> None:
        self.room = room
        self.batches: list[int] = []

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits = (inputs * 7).sin() * 3  # [n, C + 1], as a box has 4 numbers
        return logits, (
            inputs[:, None] * torch.arange(1, CLASSES + 1, device=inputs.device)[:, None]
        )


def expected_scores(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Score regions one by one."""
    moved, scores = [torch.zeros(0, CLASSES, 4)], [torch.zeros(0, CLASSES + 1)]
    for box in boxes.split(1)[: len(boxes)]:
        logits, offsets = Scorer()(cut(box))
        moved.append(decode_boxes(box, offsets, SIZE))
        scores.append(logits.softmax(dim=1))
    return torch.cat(moved), torch.cat(scores)


def assert_scores_each_region_right(
    batches: RegionBatches, boxes: Tensor, cut: Callable[[Tensor], Tensor] = cut
) -> None:
    found = batches.score(boxes, cut, SIZE)
    for a, b in zip(found, expected_scores(boxes), strict=True):
        assert (a.dtype, a.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_regions_scored_in_batches_equal_those_scored_alone(n, batch_size, threads) -> None:
    scorer = Scorer()
    batches = RegionBatches(scorer, device=CPU, batch_size=batch_size, workers=CoreWorkers(threads))
    assert_scores_each_region_right(batches, random_boxes(n))
    full, rest = divmod(n, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0 or n == 0)
    assert sorted(scorer.batches) == sorted(sizes)


def test_probabilities_are_what_the_head_makes_of_logits() -> None:
    batches = RegionBatches(Scorer(), device=CPU, batch_size=2, workers=CoreWorkers(1))
    boxes = random_boxes(5)
    assert batches.score(boxes, cut, SIZE)[1].sum(dim=1).allclose(torch.ones(5))
    batches.probabilities = RegionHead(CLASSES, "sigmoid").probabilities
    found = batches.score(boxes, cut, SIZE)[1]
    logits = torch.cat([Scorer()(cut(box))[0] for box in boxes.split(1)])
    torch.testing.assert_close(found[:, :-1], logits[:, :-1].sigmoid())


def test_regions_are_cut_in_the_workers_batch_by_batch() -> None:
    given: list[Tensor] = []

    def cut_and_note(boxes: Tensor) -> Tensor:
        given.append(boxes)
        assert torch.get_num_threads() == 1
        return cut(boxes)

    batches = RegionBatches(Scorer(), device=CPU, batch_size=2, workers=CoreWorkers(2))
    boxes = random_boxes(5)
    batches.score(boxes, cut_and_note, SIZE)
    assert torch.equal(torch.cat(sorted(given, key=lambda part: part.data_ptr())), boxes)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_what_is_cut_may_be_other_than_the_boxes_that_are_moved(n: int) -> None:
    boxes, batches = (
        random_boxes(n),
        RegionBatches(Scorer(), device=CPU, batch_size=2, workers=CoreWorkers(2)),
    )
    doubled = torch.cat([boxes * 2, torch.ones(n, 1)], dim=1)
    found = batches.score(boxes, lambda part: cut(part[:, :4] / 2), SIZE, regions=doubled)
    for a, b in zip(found, expected_scores(boxes), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_region_that_cannot_be_cut_reaches_the_caller_and_others_can_follow() -> None:
    def refuse(boxes: Tensor) -> Tensor:
        raise ValueError("1 boxes have no area")

    batches = RegionBatches(Scorer(), device=CPU, batch_size=2, workers=CoreWorkers(2))
    with pytest.raises(ValueError, match="1 boxes have no area"):
        batches.score(random_boxes(5), refuse, SIZE)
    assert_scores_each_region_right(batches, random_boxes(5))


def test_scores_need_no_gradient() -> None:
    weight = torch.ones(4, requires_grad=True)
    batches = RegionBatches(
        lambda x: (x * weight, x[:, None] * weight),
        device=CPU,
        batch_size=2,
        workers=CoreWorkers(1),
    )
    moved, scores = batches.score(random_boxes(3).requires_grad_(), cut, SIZE)
    assert not moved.requires_grad and not scores.requires_grad


# A GPU's path with tensors of the CPU.
def score_as_on_a_gpu(batches: RegionBatches, boxes: Tensor) -> tuple[Tensor, Tensor]:
    parts = batches._score_on_gpu(boxes, cut)
    return torch.cat([logits for logits, _ in parts]), torch.cat([offsets for _, offsets in parts])


@pytest.mark.parametrize(
    ("batch_size", "room", "tried", "left"),
    [
        (8, 8, [8, 2], 8),
        (8, 7, [8, 4, 4, 2], 4),
        (8, 2, [8, 4, 2, 2, 2, 2, 2], 2),
        (8, 1, [8, 4, 2] + [1] * 10, 1),
        (7, 2, [7, 3] + [1] * 10, 1),  # halves are rounded down
    ],
)
def test_out_of_memory_halves_the_batches_and_says_so(
    caplog, batch_size: int, room: int, tried: list[int], left: int
) -> None:
    scorer = Scorer(room)
    batches = RegionBatches(scorer, device=CPU, batch_size=batch_size, workers=CoreWorkers(1))
    boxes = random_boxes(10)
    logits, offsets = score_as_on_a_gpu(batches, boxes)
    expected_logits, expected_offsets = Scorer()(cut(boxes))
    assert torch.equal(logits, expected_logits)
    assert torch.equal(offsets, expected_offsets)
    assert scorer.batches == tried
    assert batches.batch_size == left
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    sizes = sorted(set(tried[: tried.index(left) + 1]) - {batch_size}, reverse=True)
    assert warnings == [f"out of GPU memory: going on with batches of {size}" for size in sizes]


def test_batches_stay_small_once_memory_did_not_suffice(caplog) -> None:
    scorer = Scorer(room=3)
    batches = RegionBatches(scorer, device=CPU, batch_size=4, workers=CoreWorkers(1))
    score_as_on_a_gpu(batches, random_boxes(4))
    scorer.batches.clear()
    caplog.clear()
    score_as_on_a_gpu(batches, random_boxes(5))
    assert scorer.batches == [2, 2, 1]
    assert not caplog.records


def test_memory_that_runs_out_later_starts_the_image_again() -> None:
    scorer = Scorer()

    def cut_less_and_less(boxes: Tensor) -> Tensor:
        scorer.room = 100 if len(scorer.batches) < 2 else 2
        return cut(boxes)

    batches = RegionBatches(scorer, device=CPU, batch_size=4, workers=CoreWorkers(1))
    boxes = random_boxes(11)
    parts = batches._score_on_gpu(boxes, cut_less_and_less)
    assert scorer.batches == [4, 4, 3, 2, 2, 2, 2, 2, 1]
    assert torch.equal(torch.cat([logits for logits, _ in parts]), Scorer()(cut(boxes))[0])


def test_a_single_region_that_does_not_fit_is_given_up() -> None:
    scorer = Scorer(room=0)
    batches = RegionBatches(scorer, device=CPU, batch_size=4, workers=CoreWorkers(1))
    with pytest.raises(torch.OutOfMemoryError):
        score_as_on_a_gpu(batches, random_boxes(5))
    assert scorer.batches == [4, 2, 1]
    assert batches.batch_size == 1
    scorer.room = 1
    score_as_on_a_gpu(batches, random_boxes(5))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def fail(inputs: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("device-side assert")

    batches = RegionBatches(fail, device=CPU, batch_size=4, workers=CoreWorkers(1))
    with pytest.raises(RuntimeError, match="device-side assert"):
        score_as_on_a_gpu(batches, random_boxes(5))
    assert batches.batch_size == 4


def test_on_a_cpu_nothing_is_copied_to_fetch_or_upload() -> None:
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert upload(image, torch.device("cpu")) is image
    boxes, scores = torch.zeros(2, 4), torch.ones(2)
    assert fetch(boxes, scores)[0] is boxes
    assert fetch(boxes, scores)[1] is scores


GPU = torch.device("cuda")


def cut_on_gpu(boxes: Tensor) -> Tensor:
    return cut(boxes.to(GPU))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("n", [0, 1, 40, 200])
def test_regions_scored_on_a_gpu_equal_those_scored_on_the_cpu(n: int) -> None:
    batches = RegionBatches(Scorer(), device=GPU, batch_size=64, workers=CoreWorkers(1))
    for _ in range(2):  # captured, then replayed
        assert_scores_each_region_right(batches, random_boxes(n), cut_on_gpu)


@pytest.mark.gpu
@needs_gpu
def test_out_of_memory_on_a_gpu_halves_the_batches(caplog) -> None:
    batches = RegionBatches(Scorer(room=64), device=GPU, batch_size=256, workers=CoreWorkers(1))
    assert_scores_each_region_right(batches, random_boxes(200), cut_on_gpu)
    assert batches.batch_size == 64
    assert "going on with batches of 64" in caplog.text


@pytest.mark.gpu
@needs_gpu
def test_what_is_uploaded_and_fetched_stays_equal() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8).transpose(1, 2)
    uploaded = upload(image, torch.device("cuda"))
    found, other = fetch(uploaded, uploaded.float() * 2)
    assert torch.equal(found, image)
    assert torch.equal(other, image.float() * 2)
