from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import skimage
import torch
from numba.core.errors import NumbaError
from torch import Tensor

from detect import map_operations
from detect.checkpoint import Checkpoint, load_checkpoint
from detect.engine import assemble, build_classifier, check_precision
from detect.googlenet import PREPROCESSING, ConvReLU, GoogLeNet
from detect.heads import RegionHead
from detect.images import read_image
from detect.map_operations import CompiledMaxPool
from detect.precision import PrecisionCheck, computes_bfloat16
from detect.region_features import RegionFeatures
from detect.shared_geometry import SharedTrunkConfig, region_levels
from detect.shared_trunk import SharedTrunkClassifier
from detect.workers import CoreWorkers

CPU = torch.device("cpu")
SMALL = SharedTrunkConfig(shorter_side=96, max_side=160, pyramid=[1.0])
needs_bfloat16 = pytest.mark.skipif(
    not computes_bfloat16(CPU), reason="oneDNN has no bfloat16 here"
)
PRECISIONS = ["float32", pytest.param("bfloat16", marks=needs_bfloat16)]


@pytest.fixture(scope="module")
def bundled() -> Checkpoint:
    checkpoint = load_checkpoint()
    checkpoint.shared = SharedTrunkConfig(200, 400, pyramid=[1.0])  # as the photo below
    return checkpoint


@pytest.fixture(scope="module")
def street() -> Tensor:
    """A photo, uint8 [3, 200, 300]."""
    photo = read_image(Path(skimage.__file__).parent / "data" / "coffee.png")
    return photo[:, 100:300, 200:500].contiguous()


def random_boxes(n: int, width: int = 300, height: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    sides = torch.tensor([width, height])
    corners = torch.rand(n, 2, generator=generator) * sides * 0.7
    return torch.cat([corners, corners + 10 + torch.rand(n, 2, generator=generator) * sides], 1)


def small_checkpoint(layout: str = "paper", **settings) -> Checkpoint:
    torch.manual_seed(0)
    network, head = GoogLeNet(0, layout=layout).eval(), RegionHead(2).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(head.classifier.weight, std=0.3)
    preprocessing = PREPROCESSING[layout]  # type: ignore[index]
    return Checkpoint(network, head, ("cat", "dog"), preprocessing, shared=SMALL, **settings)


def plain_classifier(checkpoint: Checkpoint, regions: str):
    return assemble(checkpoint, checkpoint.network, regions=regions, workers=CoreWorkers(1))


def network_of(classifier) -> GoogLeNet:
    return classifier.trunk.network if hasattr(classifier, "trunk") else classifier.network


def warnings_in(caplog) -> list[str]:
    ours = [r for r in caplog.records if r.name.startswith("detect.")]
    return [r.getMessage() for r in ours if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_scores_of_a_photo_equal_the_plain_networks(
    bundled, street, caplog, regions: str, precision: str
) -> None:
    classifier = build_classifier(
        bundled, device=CPU, regions=regions, precision=precision, threads=1
    )
    assert warnings_in(caplog) == []
    network = network_of(classifier)
    assert network.dtype == getattr(torch, precision)
    assert isinstance(network.pool4, CompiledMaxPool)
    n = 40 if regions == "shared" else 9  # more than a batch
    boxes = random_boxes(n)
    moved, scores = classifier.score_regions(street, boxes)
    expected_moved, expected = plain_classifier(bundled, regions).score_regions(street, boxes)
    if precision == "float32":
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(moved, expected_moved, atol=1e-2, rtol=0)
    else:
        assert (scores - expected).abs().max() < 0.1
        assert PrecisionCheck.compare([expected], [scores]).mean_difference < 0.01
        assert (moved - expected_moved).abs().max() < 5  # pixels


@pytest.mark.parametrize(
    ("regions", "precision", "pyramid"),
    [
        ("shared", "float32", [1.0]),
        ("shared", "auto", [1.0]),
        ("shared", "float32", [0.5, 0.7, 1.0, 1.4]),
        ("shared", "auto", [0.5, 0.7, 1.0, 1.4]),
        ("crops", "auto", [1.0]),
    ],
)
def test_scores_are_the_same_bits_for_any_number_of_threads(
    bundled, street, regions: str, precision: str, pyramid: list[float]
) -> None:
    boxes = random_boxes(70 if regions == "shared" else 9)
    shared = replace(bundled.shared, pyramid=pyramid, region_side=130)
    assert len(region_levels(boxes, (200, 300), shared).unique()) == len(pyramid)
    bundled = replace(bundled, shared=shared)
    expected = None
    for threads in (1, 2, 5):
        classifier = build_classifier(
            bundled, device=CPU, regions=regions, precision=precision, threads=threads
        )
        found = classifier.score_regions(street, boxes)
        expected = expected or found
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("regions", ["shared", "crops"])
def test_no_regions_have_no_scores(regions: str) -> None:
    classifier = build_classifier(small_checkpoint(), device=CPU, regions=regions)
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    moved, scores = classifier.score_regions(image, torch.zeros(0, 4))
    assert (moved.shape, scores.shape) == ((0, 2, 4), (0, 3))


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (97, 3), (61, 83)])
def test_images_of_odd_sizes_score_as_by_the_plain_network(size: tuple[int, int]) -> None:
    checkpoint = small_checkpoint()
    classifier = build_classifier(checkpoint, device=CPU, precision="float32", threads=1)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, size[1], size[0]], [-9.0, -3.0, 500.0, 0.5]])
    found = classifier.score_regions(image, boxes)
    expected = plain_classifier(checkpoint, "shared").score_regions(image, boxes)
    torch.testing.assert_close(found[1], expected[1], atol=1e-4, rtol=0)


def levels_of(checkpoint: Checkpoint, monkeypatch) -> list[set[int]]:
    """The levels of the pyramid that each pass of the start's checks uses."""
    image_maps, used = SharedTrunkClassifier.image_maps, []

    def note(classifier, image: Tensor, levels: list[int]):
        used.append(set(levels))
        return image_maps(classifier, image, levels)

    with monkeypatch.context() as patch:
        patch.setattr(SharedTrunkClassifier, "image_maps", note)
        build_classifier(checkpoint, device=CPU, precision="float32", threads=1)
    return used


@pytest.mark.parametrize(
    ("pyramid", "region_side"),
    [
        ([0.3536, 0.5, 0.7071, 1.0, 1.4142], 180.0),
        ([0.5, 1.0, 2.0], 160.0),
        ([1.0, 2.0], 160.0),
        ([1.0, 1.4142], 160.0),
        ([1.0, 0.5], 320.0),
    ],
)
def test_the_check_at_the_start_uses_several_levels_of_a_pyramid(
    monkeypatch, pyramid: list[float], region_side: float
) -> None:
    checkpoint = small_checkpoint()
    checkpoint.shared = SharedTrunkConfig(pyramid=pyramid, region_side=region_side)
    plain, prepared = levels_of(checkpoint, monkeypatch)
    assert plain == prepared
    assert len(plain) >= 2


def test_images_that_enter_smaller_have_their_regions_in_the_same_levels(street) -> None:
    checkpoint = small_checkpoint()
    checkpoint.shared = SharedTrunkConfig(400, 600, pyramid=[0.5, 1.0, 2.0], region_side=160)
    boxes = random_boxes(50)
    levels = region_levels(boxes, (200, 300), checkpoint.shared)
    smaller = assemble(
        checkpoint,
        checkpoint.network,
        regions="shared",
        workers=CoreWorkers(1),
        shorter_side=100,
    )
    assert isinstance(smaller, SharedTrunkClassifier)
    assert smaller.trunk.config.shorter_side == 100
    assert torch.equal(region_levels(boxes, (200, 300), smaller.trunk.config), levels)


@pytest.mark.parametrize("regions", ["shared", "crops"])
@torch.no_grad()
def test_svms_score_each_class_on_its_own(regions: str, photo) -> None:
    checkpoint = small_checkpoint()
    checkpoint.head.activation = "sigmoid"
    classifier = build_classifier(
        checkpoint, device=CPU, regions=regions, precision="float32", threads=1
    )
    boxes = random_boxes(5, 80, 60)
    _, scores = classifier.score_regions(photo, boxes)
    features = RegionFeatures(
        checkpoint.network,
        checkpoint.preprocessing,
        regions=regions,  # type: ignore[arg-type]
        shared=SMALL,
        precision="float32",
    )(photo, boxes)
    logits = checkpoint.head.classifier(features)[:, :2]
    assert logits.std() > 0.1
    torch.testing.assert_close(scores[:, :2], logits.sigmoid(), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[:, 2], 1 - scores[:, :2].amax(dim=1))


def test_regions_are_cut_as_in_training_unless_told_otherwise() -> None:
    for regions in ("shared", "crops"):
        checkpoint = small_checkpoint(regions=regions)
        classifier = build_classifier(checkpoint, device=CPU, precision="float32")
        assert hasattr(classifier, "trunk") == (regions == "shared")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": "crop"}, "regions=crop: choose shared or crops"),
        ({"precision": "half"}, "precision=half: choose one of auto, bfloat16, float32"),
        ({"threads": -1}, "threads=-1: give 1 or more"),
    ],
)
def test_what_is_none_of_the_choices_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_classifier(small_checkpoint(), device=CPU, **settings)


def test_the_checkpoint_is_not_changed() -> None:
    checkpoint = small_checkpoint("torchvision")
    before = copy.deepcopy(checkpoint)
    build_classifier(checkpoint, device=CPU)
    black = torch.zeros(3, 50, 70, dtype=torch.uint8)
    check_precision(checkpoint, [(black, random_boxes(1))], "float32")
    for name in ("network", "head"):
        state, old = getattr(checkpoint, name).state_dict(), getattr(before, name).state_dict()
        assert state.keys() == old.keys()
        assert all(torch.equal(state[key], old[key]) for key in old)
        assert all(p.requires_grad for p in getattr(checkpoint, name).parameters())
    assert checkpoint.precision_check is None


def assert_scores_plainly(classifier, checkpoint: Checkpoint) -> None:
    assert isinstance(network_of(classifier).conv1, ConvReLU)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    found = classifier.score_regions(image, random_boxes(3, 70, 50))
    expected = plain_classifier(checkpoint, "shared").score_regions(image, random_boxes(3, 70, 50))
    assert torch.equal(found[1], expected[1])


def test_without_the_packed_operators_the_plain_network_scores(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    checkpoint = small_checkpoint()
    classifier = build_classifier(checkpoint, device=CPU, precision="bfloat16")
    assert_scores_plainly(classifier, checkpoint)
    first, second = warnings_in(caplog)
    assert first.startswith("the prepared network in bfloat16 cannot be used here:")
    assert second.startswith("the prepared network in float32 cannot be used here:")
    assert "_reorder_convolution_weight" in first


@pytest.mark.parametrize(
    "error", [RuntimeError("could not create\n a primitive"), NotImplementedError(), TypeError("x")]
)
def test_an_operator_that_fails_gives_way_to_the_plain_network(monkeypatch, caplog, error) -> None:
    def fail(*arguments):
        raise error

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", fail)
    checkpoint = small_checkpoint()
    classifier = build_classifier(checkpoint, device=CPU, precision="float32")
    assert_scores_plainly(classifier, checkpoint)
    [warning] = warnings_in(caplog)
    assert warning.startswith("the prepared network in float32 cannot be used here:")
    assert "\n" not in warning


@pytest.mark.parametrize(
    "error", [NumbaError("cannot type it"), OSError("No space left on device")]
)
def test_code_that_cannot_be_compiled_gives_way_to_the_plain_network(
    monkeypatch, caplog, error
) -> None:
    def fail(*arguments):
        raise error

    monkeypatch.setattr(map_operations, "_max_pool", fail)
    checkpoint = small_checkpoint()
    classifier = build_classifier(checkpoint, device=CPU, precision="float32")
    assert_scores_plainly(classifier, checkpoint)
    [warning] = warnings_in(caplog)
    assert (
        warning
        == f"the prepared network in float32 cannot be used here: {type(error).__name__}: {error}"
    )


def test_an_operator_that_computes_wrongly_gives_way_to_the_plain_network(
    monkeypatch, caplog
) -> None:
    right = torch.ops.mkldnn._convolution_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_convolution_pointwise",
        lambda x, weight, bias, *rest: right(x, weight, bias + 0.1, *rest),
    )
    checkpoint = small_checkpoint()
    classifier = build_classifier(checkpoint, device=CPU, precision="float32")
    assert_scores_plainly(classifier, checkpoint)
    [warning] = warnings_in(caplog)
    assert "its scores differ from float32's: PrecisionCheck(regions=4" in warning


@needs_bfloat16
def test_weights_that_bfloat16_does_not_bear_are_used_in_float32(caplog) -> None:
    """Lift a map far above its details and lower it again: bfloat16 has no room for both."""
    checkpoint = small_checkpoint("torchvision")
    lift = 1000.0
    with torch.no_grad():
        checkpoint.network.conv1.bn.bias += lift
        sums = checkpoint.network.conv2.conv.weight.sum(dim=(1, 2, 3))
        checkpoint.network.conv2.bn.running_mean += lift * sums
    classifier = build_classifier(checkpoint, device=CPU, precision="bfloat16")
    network = network_of(classifier)
    assert network.dtype == torch.float32
    assert isinstance(network.pool4, CompiledMaxPool)
    [warning] = warnings_in(caplog)
    assert warning.startswith("the prepared network in bfloat16 cannot be used here: its scores")


def test_a_network_that_gives_no_numbers_is_left_as_it_is(caplog) -> None:
    """Compiled pooling may lose a NaN; what is prepared must not look sound for that."""
    checkpoint = small_checkpoint()
    with torch.no_grad():
        checkpoint.network.conv1.conv.weight[3, 1, 2, 2] = float("nan")
    classifier = build_classifier(checkpoint, device=CPU, precision="float32")
    assert isinstance(network_of(classifier).conv1, ConvReLU)
    assert len(warnings_in(caplog)) == 1
    scores = classifier.score_regions(torch.ones(3, 9, 9, dtype=torch.uint8), random_boxes(1))[1]
    assert scores.isnan().all()


FAILED = PrecisionCheck(500, top1_agreement=0.8, mean_difference=0.1, largest_difference=0.7)
PASSED = PrecisionCheck(500, top1_agreement=0.99, mean_difference=0.001, largest_difference=0.1)


@needs_bfloat16
def test_bfloat16_is_not_used_where_the_checkpoint_failed_its_check(caplog) -> None:
    checkpoint = small_checkpoint(precision_check=FAILED)
    classifier = build_classifier(checkpoint, device=CPU, precision="bfloat16")
    assert network_of(classifier).dtype == torch.float32
    assert isinstance(network_of(classifier).pool4, CompiledMaxPool)
    [warning] = warnings_in(caplog)
    assert warning.startswith("bfloat16 is not used: it failed the check of this checkpoint:")
    assert "top1_agreement=0.8" in warning


@needs_bfloat16
@pytest.mark.parametrize("check", [PASSED, None])
def test_bfloat16_is_used_where_the_checkpoint_passed_or_was_never_checked(
    bundled, caplog, check
) -> None:
    checkpoint = replace(bundled, precision_check=check)
    classifier = build_classifier(checkpoint, device=CPU, precision="bfloat16")
    assert network_of(classifier).dtype == torch.bfloat16
    assert warnings_in(caplog) == []


def test_a_failed_check_of_bfloat16_does_not_concern_float32(caplog) -> None:
    checkpoint = small_checkpoint(precision_check=FAILED)
    classifier = build_classifier(checkpoint, device=CPU, precision="float32")
    assert isinstance(network_of(classifier).pool4, CompiledMaxPool)
    assert warnings_in(caplog) == []


def test_where_nothing_can_be_compiled_the_prepared_network_scores(monkeypatch, caplog) -> None:
    def fail(module):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    classifier = build_classifier(
        small_checkpoint(), device=CPU, precision="float32", compiled=True
    )
    assert isinstance(network_of(classifier).pool4, CompiledMaxPool)
    assert warnings_in(caplog) == [
        "torch.compile in float32 cannot be used here: RuntimeError: no C++ compiler"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_compiled_network_scores_as_the_plain_one(bundled, street, caplog, precision) -> None:
    classifier = build_classifier(
        bundled, device=CPU, precision=precision, threads=2, compiled=True
    )
    assert warnings_in(caplog) == []
    assert not isinstance(network_of(classifier).pool4, CompiledMaxPool)
    boxes = random_boxes(40)
    scores = classifier.score_regions(street, boxes)[1]
    expected = plain_classifier(bundled, "shared").score_regions(street, boxes)[1]
    assert (scores - expected).abs().max() < (1e-4 if precision == "float32" else 0.1)


def test_the_precision_of_float32_is_complete(bundled, street) -> None:
    photos = [
        (street, random_boxes(12)),
        (street.flip(-1), random_boxes(5)),
        (street, random_boxes(0)),
    ]
    check = check_precision(bundled, photos, "float32")
    assert (check.regions, check.top1_agreement) == (17, 1.0)
    assert check.largest_difference < 1e-4


@needs_bfloat16
def test_the_precision_of_bfloat16_is_what_its_scores_say(bundled, street) -> None:
    photos = [(street, random_boxes(12)), (street.flip(-1), random_boxes(5))]
    check = check_precision(bundled, iter(photos))
    fast = build_classifier(bundled, device=CPU, precision="bfloat16", threads=1)
    plain = plain_classifier(bundled, "shared")
    scores = [[c.score_regions(*photo)[1] for photo in photos] for c in (plain, fast)]
    assert check == PrecisionCheck.compare(*scores)
    assert check.largest_difference > 0


def test_precision_cannot_be_checked_without_regions(street) -> None:
    for photos in ([], [(street, random_boxes(0))]):
        with pytest.raises(ValueError, match="no regions to compare precisions on"):
            check_precision(small_checkpoint(), photos, "float32")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("regions", "pyramid"), [("shared", [1.0]), ("shared", [0.5, 1.0, 1.4]), ("crops", [1.0])]
)
def test_scores_on_a_gpu_equal_the_plain_networks_on_the_cpu(
    street, caplog, regions: str, precision: str, pyramid: list[float]
) -> None:
    bundled = load_checkpoint()
    bundled.shared = replace(bundled.shared, pyramid=pyramid)
    classifier = build_classifier(
        bundled, device=torch.device("cuda"), regions=regions, precision=precision
    )
    assert warnings_in(caplog) == []
    assert network_of(classifier).dtype == getattr(torch, precision)
    boxes = random_boxes(40)
    expected = plain_classifier(bundled, regions).score_regions(street, boxes)[1]
    for _ in range(2):  # captured, then replayed
        scores = classifier.score_regions(street, boxes)[1]
        assert PrecisionCheck.compare([expected], [scores]).passes()
