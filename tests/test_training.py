from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from detect.data.records import Record
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead, encode_boxes
from detect.images import ImageError
from detect.shared_geometry import SharedTrunkConfig
from detect.shared_trunk import SharedTrunk
from detect.training import (
    PolyakAverage,
    RegionTrainer,
    TrainingConfig,
    box_regression_loss,
    learning_rate_at,
    trained_blocks,
)
from detect.training_cache import TrainingCache
from detect.training_log import TrainingLog
from proposals import SelectiveSearch


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Three photos with one bright square each, on the left, in the middle, on the right."""
    folder = tmp_path_factory.mktemp("photos")
    records = []
    for i, x in enumerate((10, 40, 70)):
        pixels = torch.randint(0, 60, (80, 110, 3), generator=torch.Generator().manual_seed(i))
        pixels[20:50, x : x + 30] += 180
        path = folder / f"{i}.png"
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
        box = torch.tensor([[x, 20, x + 30, 50]], dtype=torch.float32)
        label, easy = torch.tensor([i % 2]), torch.tensor([False])
        records.append(Record(str(i), path, 110, 80, box, label, easy))
    return records


CONFIG = TrainingConfig(
    steps=8, regions_per_photo=8, learning_rate=1e-3, warmup_steps=2, train_from="5b", seed=3
)


def make_trainer(records: list[Record], folder: Path, threads: int = 2) -> RegionTrainer:
    torch.manual_seed(0)
    shared = SharedTrunkConfig(shorter_side=96, max_side=160)
    trunk = SharedTrunk(GoogLeNet(0).eval(), Preprocessing(), shared)
    cache = TrainingCache(folder, trunk, SelectiveSearch("fast"), {})
    for record in cache.missing(records):
        cache.prepare(record)
    head = RegionHead(2)
    return RegionTrainer(trunk, head, cache=cache, records=records, config=CONFIG, threads=threads)


def test_the_loss_falls(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    losses = [trainer.step().class_loss for _ in range(CONFIG.steps)]
    assert losses[-1] < 0.9 * losses[0]


def test_only_the_chosen_blocks_and_the_head_change(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    before = copy.deepcopy(trainer.trunk.state_dict())
    trainer.step()
    trainer.step()
    changed = {k for k, v in trainer.trunk.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(key.startswith("network.inception5b.") for key in changed)


def test_the_number_of_threads_changes_nothing(records, tmp_path) -> None:
    weights = []
    for threads in (1, 2):
        trainer = make_trainer(records, tmp_path, threads)
        stats = [trainer.step() for _ in range(2)]
        weights.append((stats, [p.detach().clone() for p in trainer.parameters]))
    assert weights[0][0] == weights[1][0]
    assert all(torch.equal(a, b) for a, b in zip(weights[0][1], weights[1][1], strict=True))


def test_an_interrupted_training_ends_as_an_uninterrupted_one(records, tmp_path) -> None:
    whole = make_trainer(records, tmp_path / "cache")
    rows = [whole.step() for _ in range(4)]

    out = tmp_path / "out"
    first = make_trainer(records, tmp_path / "cache")
    log = TrainingLog(out, {"seed": 3}, save_minutes=0)
    with pytest.raises(KeyboardInterrupt), log.resume(first):
        for _ in log.steps():
            if first.next_step == 2:
                raise KeyboardInterrupt
    second = make_trainer(records, tmp_path / "cache")
    log = TrainingLog(out, {"seed": 3}, save_minutes=60)
    with log.resume(second):
        assert second.next_step == 2
        for _ in log.steps():
            if second.next_step == 4:
                break
    for a, b in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.average.values, second.average.values, strict=True):
        assert torch.equal(a, b)
    lines = (out / "log.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("3,") and f"{rows[3].class_loss}" in lines[4]


def test_a_state_of_another_recipe_is_refused(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    trainer.save(tmp_path / "state.safetensors", {"seed": 1})
    with pytest.raises(ValueError, match="saved with other settings"):
        trainer.restore(tmp_path / "state.safetensors", {"seed": 2})


def test_finishing_takes_the_average_over(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    trainer.step()
    expected = [value.clone() for value in trainer.average.values]
    trainer.finish()
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, expected, strict=True))
    assert not any(p.requires_grad for p in trainer.trunk.parameters())


def test_the_cache_is_resumed_and_names_damage(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    cache = trainer.cache
    assert cache.missing(records) == []
    plain = cache.load(records[0], mirror=False)
    assert plain.image_size == (80, 110)
    assert plain.stem_map.shape == (1, 480, 6, 8)
    assert plain.stem_map.is_contiguous(memory_format=torch.channels_last)
    sizes = [path.stat().st_size for path in cache.folder.glob("*.safetensors")]
    assert 0.5 < cache.expected_bytes(records) / sum(sizes) < 1.5
    damaged = next(cache.folder.glob("0.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"0\.safetensors: damaged"):
        cache.load(records[0], mirror=False)
    damaged.unlink()
    assert cache.missing(records) == records[:1]


def test_a_photo_that_is_gone_is_named(records, tmp_path) -> None:
    cache = make_trainer(records, tmp_path).cache
    gone = Record(
        "gone",
        tmp_path / "gone.jpg",
        1,
        1,
        records[0].boxes,
        records[0].labels,
        torch.tensor([False]),
    )
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        cache.prepare(gone)


def test_every_photo_comes_once_an_epoch(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    epochs = [[trainer._photo_of(3 * epoch + i) for i in range(3)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0)


def test_the_average_of_a_constant_is_the_constant() -> None:
    parameter = torch.full((3,), 2.0)
    average = PolyakAverage([parameter], decay=0.9)
    for step in range(5):
        average.update([parameter], step)
    torch.testing.assert_close(average.values[0], parameter)
    average.update([parameter * 2], 1000)
    torch.testing.assert_close(average.values[0], torch.full((3,), 2.2))


def test_box_loss_counts_foreground_and_divides_by_all() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 9, 9]])
    targets = torch.tensor([[1.0, 0, 11, 10], [0, 0, 20, 20], [0, 0, 1, 1]])
    labels = torch.tensor([1, 0, 2])
    offsets = torch.randn(3, 2, 4)
    expected = 0.0
    for i in (0, 1):
        wanted = encode_boxes(boxes[i : i + 1], targets[i : i + 1])[0]
        expected += F.smooth_l1_loss(offsets[i, labels[i]], wanted, reduction="sum").item()
    loss = box_regression_loss(offsets, boxes, labels, targets)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)
    none = torch.zeros(0, 4)
    empty = box_regression_loss(torch.zeros(0, 2, 4), none, torch.zeros(0).long(), none)
    assert empty.item() == 0


def test_unknown_blocks_and_no_photos_are_refused(records, tmp_path) -> None:
    trainer = make_trainer(records, tmp_path)
    with pytest.raises(ValueError, match="train_from='3a': must be one of 4a"):
        trained_blocks(trainer.trunk, "3a")
    with pytest.raises(ValueError, match="no photos"):
        RegionTrainer(trainer.trunk, trainer.head, cache=trainer.cache, records=[], config=CONFIG)
