from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from detect.data.records import Record
from detect.detections import Detections
from detect.heads import RegionHead, decode_boxes
from detect.images import read_image
from detect.merging import MergeConfig, merge_detections
from detect.ridge import RidgeConfig
from detect.scoring.voc import score_voc
from detect.svm import SVMConfig
from detect.svm_training import class_overlaps, train_svm_head
from detect.workers import CoreWorkers

CLASSES = ("red", "green")
SVM = SVMConfig(first_images=3, retrain_after=40, cost=0.01, max_cache_bytes=1 << 23)
RIDGE = RidgeConfig(penalty=10.0)
SIZE = 64


class KilledError(Exception):
    """Takes the place of a signal."""


def make_photo(folder: Path, number: int, objects: int = 2) -> Record:
    """A grey photo with noise, and rectangles of red (class 0) or green (class 1)."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(90, 130, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    boxes = torch.zeros(objects, 4)
    for i in range(objects):
        x, y = torch.randint(0, 14, (2,), generator=generator).tolist()
        w, h = torch.randint(12, 18, (2,), generator=generator).tolist()
        x, y = x + 32 * i, y + 32 * (number % 2)
        image[i % 2, y : y + h, x : x + w] = 240
        boxes[i] = torch.tensor([x, y, x + w, y + h])
    path = folder / f"{number}.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    labels = torch.arange(objects) % 2
    return Record(str(number), path, SIZE, SIZE, boxes, labels, torch.zeros(objects).bool())


def propose(record: Record, n: int = 40) -> Tensor:
    """Random boxes, a third of them near objects."""
    generator = torch.Generator().manual_seed(int(record.name) + 1000)
    corners = torch.rand(n, 2, generator=generator) * 45
    boxes = torch.cat([corners, corners + 8 + 11 * torch.rand(n, 2, generator=generator)], 1)
    if len(record.boxes):
        near = record.boxes.repeat(n // 6, 1)
        boxes[: len(near)] = near + 3 * torch.randn(near.shape, generator=generator)
    return boxes.clamp(0, SIZE)


def features_of(image: Tensor, boxes: Tensor) -> Tensor:
    """Mean colours of the cells and surroundings of each box, spread over 1024 features."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.randn(76, 1024, generator=generator)
    rows = [torch.zeros(0, 1024)]
    for box in boxes:
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
        steps = torch.linspace(-0.9, 0.9, 5)
        x, y = ((centre[i] + half[i] * steps).round().long().clamp(0, SIZE - 1) for i in (0, 1))
        colours = image[:, y][:, :, x].float().flatten() / 255
        rows.append((torch.cat([colours, torch.ones(1)]) @ spread).relu()[None])
    return torch.cat(rows)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder, number, objects=2 if number else 0) for number in range(12)]


def train(records: list[Record], features=features_of, **settings) -> RegionHead:
    arguments = {
        "proposals": {record.name: propose(record) for record in records},
        "num_classes": 2,
        "svm": SVM,
        "ridge": RIDGE,
        "workers": CoreWorkers(1),
    }
    return train_svm_head(features, records, **(arguments | settings))


def equal(one: RegionHead, other: RegionHead) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def detect(head: RegionHead, record: Record) -> Detections:
    assert record.path is not None
    boxes = propose(record)
    logits, offsets = head(features_of(read_image(record.path), boxes))
    moved = decode_boxes(boxes, offsets, (SIZE, SIZE))
    return merge_detections(moved, head.probabilities(logits), MergeConfig())


def test_objects_of_other_photos_are_found(records, tmp_path) -> None:
    head = train(records)
    assert head.activation == "sigmoid"
    assert not head.training
    others = [make_photo(tmp_path, number) for number in range(50, 58)]
    scores = score_voc([detect(head, record) for record in others], others, CLASSES)
    assert scores.mean_ap > 0.8
    found = [detect(head, record)[:1] for record in others]
    overlaps = [box_iou(d.boxes, r.boxes).max() for d, r in zip(found, others, strict=True)]
    assert torch.stack(overlaps).mean() > 0.6


@pytest.mark.parametrize("stop", [1, 5, 12, 13, 17, 24])
def test_a_killed_training_ends_as_an_undisturbed_one(records, tmp_path, stop: int) -> None:
    expected = train(records)
    path = tmp_path / "out" / "state.safetensors"
    calls, told = [], []

    def killed(done: int, total: int) -> None:
        calls.append(done)
        if done == stop:
            raise KilledError

    with pytest.raises(KilledError):
        train(records, state_path=path, save_every=2, on_progress=killed)
    if path.exists():
        path.with_name(".state.safetensors.tmp").write_bytes(b"half a state")
    head = train(
        records,
        state_path=path,
        save_every=5,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert equal(head, expected)
    first = stop - 1 - (stop - 1) % 2  # the last saved
    assert told == [(done, 24) for done in range(first + 1, 25)]
    assert sorted(p.name for p in path.parent.iterdir()) == ["state.safetensors"]


def test_a_finished_training_gives_its_head_again(records, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    head = train(records, state_path=path)
    assert equal(head, train(records, features=None, state_path=path))


def test_others_may_read_the_state_as_any_file(records, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    left = path.with_name(".state.safetensors.tmp")
    left.touch(mode=0o600)  # by a process that was killed while it saved
    train(records[:3], state_path=path)
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_the_number_of_workers_changes_nothing(records) -> None:
    assert equal(train(records), train(records, workers=CoreWorkers(3)))


def test_the_seed_sets_the_order_of_photos(records) -> None:
    seen: list[float] = []

    def note(image: Tensor, boxes: Tensor) -> Tensor:
        seen.append(float(image.double().mean()))
        return features_of(image, boxes)

    train(records, note)
    once = len(records) - 1  # the first photo has no objects, so no part in the first pass
    assert len(seen) == once + len(records)
    assert len(set(seen[:once])) == once
    assert [mean for mean in seen[once:] if mean in set(seen[:once])] == seen[:once]
    assert seen[once:] != [float(read_image(r.path).double().mean()) for r in records]


@pytest.mark.parametrize(
    "change",
    [{"svm": SVMConfig(seed=1)}, {"ridge": RidgeConfig(penalty=1)}, {"recipe": {"weights": "x"}}],
)
def test_a_state_of_other_settings_is_refused(records, tmp_path, change) -> None:
    path = tmp_path / "state.safetensors"
    train(records[:3], state_path=path)
    with pytest.raises(ValueError, match="saved with other settings; choose another out= folder"):
        train(records[:3], state_path=path, **change)
    with pytest.raises(ValueError, match="saved with other settings"):
        train(records[:4], state_path=path)


def test_photos_that_cannot_be_read_are_left_out_and_named_once(records, tmp_path, caplog) -> None:
    broken = make_photo(tmp_path, 77)
    assert broken.path is not None
    broken.path.write_bytes(broken.path.read_bytes()[:60])
    head = train([*records, broken], svm=SVM)
    assert (head.classifier.weight[:-1] != 0).any(dim=1).all()
    assert len([r for r in caplog.records if "77.png" in r.getMessage()]) == 1
    assert "left out" in caplog.text


def test_difficult_objects_are_no_positives(records) -> None:
    hard = [Record(r.name, r.path, SIZE, SIZE, r.boxes, r.labels, r.labels == 1) for r in records]
    head = train(hard)
    assert (head.classifier.weight[1] == 0).all()
    logits, _ = head(torch.rand(5, 1024) * 10)
    assert (head.probabilities(logits)[:, 1] < 1e-4).all()
    assert (head.classifier.weight[0] != 0).any()


def test_without_objects_there_is_nothing_to_train(records) -> None:
    with pytest.raises(ValueError, match="no objects to train SVMs on"):
        train(records[:1])


def test_photos_without_proposals_have_their_objects_alone(records) -> None:
    none = {record.name: torch.zeros(0, 4) for record in records}
    head = train(records, proposals=none)
    assert (head.classifier.weight[:2] != 0).any(dim=1).all()  # of each other's objects
    assert not head.box_regression.weight.any()


def test_one_class_is_enough(records) -> None:
    reds = [
        Record(r.name, r.path, SIZE, SIZE, r.boxes[:1], r.labels[:1], r.difficult[:1])
        for r in records
    ]
    head = train(reds, num_classes=1)
    assert head.classifier.weight.shape == (2, 1024)
    assert len(detect(head, reds[1])) > 0


@pytest.mark.parametrize("n", [0, 6])
@pytest.mark.parametrize("objects", [0, 1, 5])
def test_overlaps_with_a_class_are_the_largest_with_one_of_its_objects(
    n: int, objects: int
) -> None:
    generator = torch.Generator().manual_seed(objects)
    corners = torch.rand(n + objects, 2, generator=generator) * 10
    boxes = torch.cat([corners, corners + 1 + torch.rand(n + objects, 2) * 20], dim=1)
    labels = torch.randint(3, (objects,), generator=generator)
    record = Record("a", None, 9, 9, boxes[n:], labels, torch.zeros(objects).bool())
    found = class_overlaps(boxes[:n], record, 3)
    assert found.shape == (n, 3)
    for row in range(n):
        for label in range(3):
            iou = box_iou(boxes[row : row + 1], boxes[n:][labels == label]).flatten().tolist()
            assert found[row, label] == max(iou, default=0)
