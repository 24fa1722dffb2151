"""Which proposals a detector has, and whose trunk a MultiBox reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detect.checkpoint import BUNDLED, load_checkpoint, save_checkpoint
from detect.detector import Detector
from detect.multibox_file import MultiBoxFile, load_multibox, save_multibox
from detect.multibox_proposals import (
    BUNDLED_MULTIBOX,
    UNION_BUDGET,
    default_proposals,
    multibox_proposals,
    share_trunk,
)
from detect.multibox_trunk import PyramidMaps, trunk_digest
from detect.shared_geometry import SharedTrunkConfig
from proposals import MultiBox, MultiBoxProposer, SelectiveSearch, Union

LEVELS = [0.7, 1.0]


@pytest.fixture(scope="module")
def detector(tmp_path_factory, random_checkpoint: Path) -> Path:
    """A small detector of two levels."""
    made = load_checkpoint(random_checkpoint)
    made.shared = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=LEVELS, region_side=40)
    path = tmp_path_factory.mktemp("detector") / "two, levels.safetensors"
    save_checkpoint(path, made)
    return path


@pytest.fixture(scope="module")
def multibox(detector: Path) -> Path:
    """A MultiBox on its trunk that was never trained."""
    made = load_checkpoint(detector)
    torch.manual_seed(0)
    head = MultiBox(832, torch.tensor([[0.0, 0, 2, 2], [0, 0, 3, 1]]), hidden=8)
    digest = trunk_digest(made.network, "grid")
    path = detector.with_name("multibox.safetensors")
    save_multibox(path, MultiBoxFile(head, "grid", digest, made.shared))
    return path


def test_the_bundled_multibox_goes_with_the_bundled_detector() -> None:
    made, detector = load_multibox(BUNDLED_MULTIBOX), load_checkpoint()
    assert made.trunk == trunk_digest(detector.network, made.form)
    assert made.shared == detector.shared
    assert BUNDLED_MULTIBOX.with_suffix(".md").is_file()
    chosen = default_proposals()
    assert isinstance(chosen, Union)
    assert isinstance(chosen.proposers[0], MultiBoxProposer)
    assert isinstance(chosen.proposers[1], SelectiveSearch)
    assert chosen.max_boxes == UNION_BUDGET
    assert chosen.proposers[1].scales == SelectiveSearch("googlenet").scales


def test_detectors_of_another_trunk_do_without(detector: Path, tmp_path: Path) -> None:
    for source in (detector, str(detector), load_checkpoint(detector), tmp_path):
        assert isinstance(default_proposals(source), SelectiveSearch)
    limited = default_proposals(detector, max_boxes=7)
    assert isinstance(limited, SelectiveSearch)
    assert limited.max_boxes == 7


def test_a_multibox_that_is_given_joins(detector: Path, multibox: Path, photo) -> None:
    chosen = default_proposals(detector, multibox, max_boxes=30)
    assert isinstance(chosen, Union)
    assert len(chosen(photo)) <= 30
    with pytest.raises(ValueError, match="max_boxes must be 1 or more"):
        default_proposals(detector, multibox, max_boxes=0)


def test_a_multibox_can_read_the_bundled_trunk_beside_any_detector(detector: Path) -> None:
    proposer = multibox_proposals(None, detector)  # the bundled one: of another trunk
    assert isinstance(proposer.trunk, PyramidMaps)
    assert proposer.trunk.digest == trunk_digest(load_checkpoint(BUNDLED).network, "grid")


def test_maps_are_shared_at_some_levels_too(detector: Path, multibox: Path, photo) -> None:
    made = load_checkpoint(detector)
    for pyramid in ([], [0.7], [0.7, 0.8]):
        proposer = multibox_proposals(multibox, made, pyramid=pyramid, device="cpu")
        expected = proposer(photo)
        loaded = Detector.load(made, pyramid=pyramid, proposer=proposer, device="cpu")
        assert isinstance(loaded.proposer, MultiBoxProposer)
        assert isinstance(loaded.proposer.trunk, PyramidMaps)
        assert loaded.proposer.trunk.image_maps == loaded.classifier.image_maps
        assert torch.allclose(loaded.proposer(photo), expected, atol=1e-2)
        assert loaded.classifier.trunk.config.pyramid == (pyramid or LEVELS)
    assert made.shared.pyramid == LEVELS  # is not changed
    whole = multibox_proposals(multibox, made, device="cpu")
    one_level = Detector.load(made, pyramid=[0.7], proposer=whole, device="cpu")
    assert one_level.proposer is whole  # it reads a level that the classifier does without
    digest = trunk_digest(made.network, "grid")
    assert share_trunk(SelectiveSearch(), one_level.classifier, digest).scales  # nothing to share


def test_the_boxes_do_not_depend_on_the_cores(photo) -> None:
    images = [photo, torch.randint(0, 256, (3, 150, 90), dtype=torch.uint8)]
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            proposer = multibox_proposals(threads=threads, device="cpu")
            found.append([proposer.score(image) for image in images])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for (boxes, scores), (same_boxes, same_scores) in zip(found[0], other, strict=True):
            assert torch.equal(boxes, same_boxes)
            assert torch.equal(scores, same_scores)


def test_a_pyramid_without_levels_is_refused(detector: Path, multibox: Path) -> None:
    with pytest.raises(ValueError, match=r"pyramid must hold factors above 0: got \[0.7, 0.0\]"):
        Detector.load(detector, pyramid=[0.7, 0.0])
    with pytest.raises(ValueError, match="got"):
        multibox_proposals(multibox, detector, pyramid=[-1.0])
    with pytest.raises(ValueError, match="needs backend=torch"):
        Detector.load(detector, pyramid=[0.7], backend="onnxruntime")


def test_a_multibox_of_no_known_trunk_is_refused(detector: Path, multibox: Path, tmp_path) -> None:
    made = load_multibox(multibox)
    save_multibox(tmp_path / "x.safetensors", replace(made, trunk="another"))
    with pytest.raises(ValueError, match=r"x\.safetensors: learned from a trunk that is"):
        multibox_proposals(tmp_path / "x.safetensors", detector)
    with pytest.raises(ValueError, match="neither the given detector's nor"):
        default_proposals(load_checkpoint(detector), tmp_path / "x.safetensors")
