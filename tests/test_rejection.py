"""Early rejection: what it looks at, what it leaves, and how it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import skimage
import torch

from detect.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from detect.detector import Detector
from detect.ensemble import join_checkpoints
from detect.images import read_image
from detect.rejection import Rejection, RejectionNetwork, make_rejection, summarise
from detect.rejection_training import RejectionConfig, train_rejection
from detect.shared_geometry import SharedTrunkConfig
from detect.workers import CoreWorkers
from tests.test_shared_trunk import random_boxes, small_classifier

SMALL = RejectionConfig(regions_per_photo=40, hidden=16, epochs=30, batch_size=16, dropout=0.0)


@pytest.fixture
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    """A detector that was never trained, on two levels."""
    made = load_checkpoint(random_checkpoint)
    made.shared = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=[0.7, 1], region_side=40)
    return made


def random_rejection(num_classes: int = 2) -> RejectionNetwork:
    torch.manual_seed(3)
    return RejectionNetwork(num_classes, hidden=8).eval()


def test_a_summary_is_the_mean_of_overlapping_quarters() -> None:
    pooled = torch.rand(3, 900, 7, 7)
    corners = [slice(0, 4), slice(3, 7)]
    expected = [
        pooled[:, :832, rows, columns].mean((2, 3)) for rows in corners for columns in corners
    ]
    torch.testing.assert_close(summarise(pooled), torch.stack(expected, dim=2).flatten(1))
    assert summarise(pooled.to(torch.bfloat16)).dtype == torch.float32
    assert summarise(pooled[:0]).shape == (0, 3328)


@torch.inference_mode()
def test_foreground_is_what_is_no_background() -> None:
    network, pooled = random_rejection(), torch.rand(5, 832, 7, 7)
    logits = network.classifier(network.hidden(summarise(pooled)).relu())
    torch.testing.assert_close(network(pooled), logits.softmax(dim=1)[:, :2].sum(dim=1))
    several = torch.cat([pooled, torch.rand(5, 832, 7, 7)], dim=1)
    assert torch.equal(network(several), network(pooled))  # an ensemble's first member


@pytest.mark.parametrize(("batch_size", "threads"), [(3, 2), (50, 1)])
def test_regions_are_looked_at_in_their_order(photo, batch_size: int, threads: int) -> None:
    classifier = small_classifier(batch_size, threads, pyramid=[0.5, 1.0], region_side=30.0)
    boxes, network = random_boxes(11, 80, 60), random_rejection()
    found = classifier.on_regions(photo, boxes, network)
    alone = [classifier.on_regions(photo, box[None], network) for box in boxes]
    torch.testing.assert_close(found, torch.cat(alone))
    assert classifier.on_regions(photo, boxes[:0], network).shape == (0,)


def test_what_is_no_background_stays_in_its_order(photo) -> None:
    classifier, boxes = small_classifier(4, 1), random_boxes(9, 80, 60)
    network = random_rejection()
    foreground = classifier.on_regions(photo, boxes, network)
    middle = foreground.median().item()
    kept = Rejection(network, classifier, middle)(photo, boxes)
    assert torch.equal(kept, boxes[foreground >= middle])
    assert 0 < len(kept) < 9
    assert len(Rejection(network, classifier, 1.0)(photo, boxes)) == 0
    assert len(Rejection(network, classifier, 0.5)(photo, boxes[:0])) == 0


def test_it_is_made_only_where_it_can_work() -> None:
    network, classifier = random_rejection(), small_classifier(4, 1)
    assert make_rejection(network, classifier, 0.03) is not None
    assert make_rejection(network, classifier, 0.0) is None
    assert make_rejection(None, classifier, 0.03) is None
    assert make_rejection(network, object(), 0.03) is None


def test_it_learns_what_the_detector_says(checkpoint, photo) -> None:
    boxes = random_boxes(40, 80, 60)
    untold = Detector.load(checkpoint, device="cpu").classifier.score_regions(photo, boxes)[1]
    with torch.no_grad():  # opinions that differ from region to region
        checkpoint.head.classifier.bias -= untold.log().mean(dim=0)
    network, share = train_rejection(
        checkpoint, [(photo, boxes)], SMALL, seed=0, workers=CoreWorkers(1)
    )
    checkpoint.rejection = network
    detector = Detector.load(checkpoint, device="cpu")
    found = detector.classifier.on_regions(photo, boxes, network)  # type: ignore[attr-defined]
    expected = 1 - detector.classifier.score_regions(photo, boxes)[1][:, -1]
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.9
    assert share == pytest.approx((found >= 0.03).float().mean().item(), abs=0.03)
    assert not network.training


def test_the_same_is_learned_with_any_number_of_cores(checkpoint, photo) -> None:
    boxes = random_boxes(60, 80, 60)

    def learn(seed: int, threads: int) -> torch.Tensor:
        few = replace(SMALL, epochs=2, dropout=0.3)
        photos = [(photo, boxes), (photo.flip(1), boxes[:0]), (photo.flip(2), boxes)]
        workers = CoreWorkers(threads)
        return train_rejection(checkpoint, photos, few, seed=seed, workers=workers)[0].hidden.weight

    before = torch.random.get_rng_state()
    one = learn(0, 1)
    assert torch.equal(one, learn(0, 2))
    assert not torch.equal(one, learn(1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_it_cannot_learn_from_is_refused(checkpoint, photo) -> None:
    nothing = [(photo, torch.zeros(0, 4))]
    with pytest.raises(ValueError, match="no proposal on any photo"):
        train_rejection(checkpoint, nothing, SMALL, seed=0, workers=CoreWorkers(1))
    checkpoint.regions = "crops"
    with pytest.raises(ValueError, match="needs regions=shared, not crops"):
        train_rejection(checkpoint, nothing, SMALL, seed=0, workers=CoreWorkers(1))


@pytest.mark.parametrize(
    "wrong", [{"photos": -1}, {"hidden": 0}, {"learning_rate": 0.0}, {"dropout": 1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rejection"):
        RejectionConfig(**wrong)  # type: ignore[arg-type]


def test_it_lies_in_the_file_of_the_detector(checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "without.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "without.safetensors").rejection is None
    checkpoint.rejection = random_rejection()
    save_checkpoint(tmp_path / "with.safetensors", checkpoint)
    read = load_checkpoint(tmp_path / "with.safetensors").rejection
    assert read is not None
    for key, value in checkpoint.rejection.state_dict().items():
        assert torch.equal(read.state_dict()[key], value.half().float())


def test_a_detector_scores_what_is_left(checkpoint, photo) -> None:
    checkpoint.rejection = random_rejection()
    boxes = random_boxes(30, 80, 60)
    everything = Detector.load(checkpoint, proposer=lambda _: boxes, rejection_threshold=0)
    network, classifier = checkpoint.rejection, everything.classifier
    foreground = classifier.on_regions(photo, boxes, network)  # type: ignore[attr-defined]
    middle = foreground.median().item()
    few = Detector.load(checkpoint, proposer=lambda _: boxes, rejection_threshold=middle)
    kept = boxes[foreground >= middle]
    expected = Detector.load(checkpoint, proposer=lambda _: kept, rejection_threshold=0)(photo)
    found = few(photo)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    nothing = Detector.load(checkpoint, proposer=lambda _: boxes, rejection_threshold=1.0)
    assert len(nothing(photo)) == 0
    joined = join_checkpoints([checkpoint, checkpoint])
    assert joined.rejection is checkpoint.rejection


def test_a_threshold_is_a_probability(checkpoint) -> None:
    with pytest.raises(ValueError, match="rejection_threshold=3: give a probability"):
        Detector.load(checkpoint, rejection_threshold=3)


def test_the_bundled_detector_scores_few_of_its_proposals() -> None:
    image = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")
    detector = Detector.load(device="cpu")
    proposals = detector.proposer(image)
    kept = detector.rejection(image, proposals)
    assert 10 < len(kept) < len(proposals) / 2
    best = detector(image)
    full = Detector.load(device="cpu", rejection_threshold=0)(image)
    assert best.names[0] == full.names[0] == "person"
    assert best.scores[0] == pytest.approx(full.scores[0].item(), abs=0.1)
