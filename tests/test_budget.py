from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor, nn

from detect.budget import PAPER_MULTIPLY_ADDS, Cost, add_costs, count_budget, count_cost
from detect.budget_measures import StageTime, StageTimer
from detect.budget_run import Measured, make_boxes
from detect.checkpoint import Checkpoint
from detect.googlenet import INCEPTION_CHANNELS, GoogLeNet, Inception, Layout
from detect.heads import RegionHead
from detect.prepare import prepare_network
from detect.shared_geometry import SharedTrunkConfig


def budget_of(layout: Layout, shared: SharedTrunkConfig | None = None, **changes):
    checkpoint = Checkpoint(GoogLeNet(0, layout=layout), RegionHead(20), ("class",) * 20)
    checkpoint.shared = shared or SharedTrunkConfig(pyramid=[1.0])
    settings = {
        "image_size": (375, 500),
        "proposals": 1300,
        "dtype": torch.bfloat16,
        "batch_sizes": {"crops": 8, "shared": 32},
    }
    return count_budget(checkpoint, **{**settings, **changes})


def run(module: nn.Module, inputs: Tensor) -> Tensor:
    return module(inputs)


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds", "parameters"),
    [
        # 2 x 5 x 5 outputs, each of 3 x 3 x 4 weights.
        (nn.Conv2d(4, 2, 3), (4, 7, 7), 2 * 5 * 5 * 36, 2 * 36 + 2),
        (nn.Conv2d(4, 2, 3, padding=1, stride=2), (4, 7, 7), 2 * 4 * 4 * 36, 2 * 36 + 2),
        # Two groups: an output sees half of the channels.
        (nn.Conv2d(4, 6, (1, 5), groups=2), (4, 3, 5), 6 * 3 * 1 * 10, 6 * 10 + 6),
        (nn.Linear(12, 5), (12,), 60, 65),
    ],
)
def test_layers_cost_what_is_counted_by_hand(
    layer: nn.Module, shape: tuple[int, ...], multiply_adds: int, parameters: int
) -> None:
    cost = count_cost(nn.Sequential(layer), shape, run)
    assert (cost.multiply_adds, cost.parameters) == (multiply_adds, parameters)
    assert cost.output_shape == layer(torch.rand(1, *shape)).shape[1:]
    assert cost.live_numbers == math.prod(shape) + math.prod(cost.output_shape)


@pytest.mark.parametrize(
    ("layout", "multiply_adds", "parameters"),
    [("paper", 1_582_671_872, 6_998_552), ("torchvision", 1_498_376_192, 6_624_904)],
)
def test_whole_networks_cost_what_is_known_of_them(
    layout: Layout, multiply_adds: int, parameters: int
) -> None:
    network = GoogLeNet(1000, layout=layout)
    cost = count_cost(network, (3, 224, 224), run)
    assert cost.multiply_adds == multiply_adds
    assert sum(p.numel() for p in network.parameters()) == parameters
    # 57 convolutions and the classifier, in the order in which they run.
    assert len(cost.layers) == 58
    assert (cost.layers[0].name, cost.layers[-1].name) == ("conv1.conv", "fc")
    assert cost.layers[0].multiply_adds == 64 * 112 * 112 * 3 * 7 * 7


def reference(layout: Layout, height: int, width: int) -> int:
    """Count conv1 .. 4e from Table 1, without a network."""
    five = 25 if layout == "paper" else 9

    def pooled(side: int) -> int:
        return -(-(side - 3) // 2) + 1

    height, width = -(-height // 2), -(-width // 2)
    total = height * width * 64 * 3 * 49
    height, width = pooled(height), pooled(width)
    total += height * width * (64 * 64 + 64 * 192 * 9)
    height, width, inputs = pooled(height), pooled(width), 192
    for name, (one, reduce3, three, reduce5, fives, pool) in INCEPTION_CHANNELS.items():
        if name == "4a":
            height, width = pooled(height), pooled(width)
        if name == "5a":
            break
        a_point = inputs * (one + reduce3 + reduce5 + pool) + reduce3 * three * 9
        total += height * width * (a_point + reduce5 * fives * five)
        inputs = one + three + fives + pool
    return total


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
@pytest.mark.parametrize("size", [(224, 224), (600, 800), (601, 903)])
def test_the_trunk_costs_what_table_1_says(layout: Layout, size: tuple[int, int]) -> None:
    checkpoint_config = SharedTrunkConfig(min(size), max(size), pyramid=[1.0])
    checkpoint = Checkpoint(GoogLeNet(0, layout=layout), RegionHead(2), ("a", "b"))
    checkpoint.shared = checkpoint_config
    budget = count_budget(
        checkpoint,
        image_size=size,
        proposals=1,
        dtype=torch.float32,
        batch_sizes={"crops": 1, "shared": 1},
    )
    assert budget.trunk_sizes == (size,)
    assert budget.trunk.multiply_adds == reference(layout, *size)


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
def test_an_image_costs_its_crops_or_its_trunk_and_regions(layout: Layout) -> None:
    budget = budget_of(layout)
    head = 1024 * (21 + 80)
    assert budget.head.multiply_adds == head
    assert budget.parameters["head"] == head + 21 + 80
    # A crop of 224 is the trunk at 224 and one region.
    at_224 = reference(layout, 224, 224)
    assert budget.crop.multiply_adds == at_224 + budget.region.multiply_adds
    assert abs(budget.crop.multiply_adds / PAPER_MULTIPLY_ADDS - 1) < 0.06
    image = budget.image_multiply_adds()
    assert image["crops"] == 1300 * (budget.crop.multiply_adds + head)
    regions = 1300 * (budget.region.multiply_adds + head)
    assert image["shared"] == reference(layout, 600, 800) + regions
    alone = budget_of(layout, proposals=0).image_multiply_adds()
    assert alone == {"crops": 0, "shared": budget.trunk.multiply_adds}


@pytest.mark.parametrize("levels", [None, [0, 1, 2], [2], [0, 1]])
def test_a_pyramid_costs_the_sum_of_the_levels_in_use(levels: list[int] | None) -> None:
    pyramid = SharedTrunkConfig(pyramid=[0.5, 1.5, 0.8], region_side=200)
    sizes = [(300, 400), (900, 1200), (480, 640)]  # of 375 x 500 at a shorter side of 600
    used = [0, 1, 2] if levels is None else levels
    budget = budget_of("paper", shared=pyramid, levels=levels)
    assert budget.trunk_sizes == tuple(sizes[level] for level in used)
    scales = [SharedTrunkConfig(min(size), max(size), pyramid=[1.0]) for size in sizes]
    alone = [budget_of("paper", shared=scale) for scale in scales]
    expected = sum(reference("paper", *sizes[level]) for level in used)
    assert budget.trunk.multiply_adds == expected
    assert sum(layer.multiply_adds for layer in budget.trunk.layers) == expected
    assert budget.trunk.parameters == alone[0].trunk.parameters
    assert budget.bytes["map"] == sum(alone[level].bytes["map"] for level in used)
    assert budget.bytes["trunk"] == max(alone[level].bytes["trunk"] for level in used)
    regions = 1300 * (budget.region.multiply_adds + budget.head.multiply_adds)
    assert budget.image_multiply_adds()["shared"] == expected + regions
    assert {**budget.bytes, "map": 0, "trunk": 0} == {**alone[0].bytes, "map": 0, "trunk": 0}


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
def test_bytes_are_those_of_the_prepared_network(layout: Layout) -> None:
    budget = budget_of(layout, dtype=torch.float32)
    cpu = torch.device("cpu")
    network = GoogLeNet(0, layout=layout)
    prepared = prepare_network(network, dtype=torch.float32, device=cpu, own_kernels=False)
    stored = sum(tensor.numel() * 4 for tensor in prepared.state_dict().values())
    head = sum(p.numel() * 4 for p in RegionHead(20).parameters())
    assert budget.bytes["weights"] == stored + head
    assert budget.bytes["map"] == 4 * 832 * 37 * 50
    assert budget.bytes["proposals"] == 1300 * 16
    assert budget.bytes["results"] == 1300 * (21 + 80) * 4
    halved = budget_of(layout, dtype=torch.bfloat16).bytes
    for name in ("map", "trunk", "crops batch", "shared batch"):
        assert 2 * halved[name] == budget.bytes[name]


def test_all_branches_of_a_block_live_at_a_time() -> None:
    block = Inception(8, (1, 2, 3, 4, 5, 6), "paper")
    cost = count_cost(block, (8, 10, 10), run)
    assert cost.output_shape == (1 + 3 + 5 + 6, 10, 10)
    assert cost.live_numbers == 100 * (8 + (1 + 2 + 3 + 4 + 5 + 6) + (1 + 3 + 5 + 6))


def test_counting_leaves_the_network_as_it_is() -> None:
    network = GoogLeNet(0).train()
    before = network.conv1.conv.weight.clone()
    count_cost(network, (3, 64, 64), GoogLeNet.features)
    assert network.training
    assert torch.equal(network.conv1.conv.weight, before)
    assert not network.conv1.conv._forward_hooks


def test_a_share_of_the_peak_is_that_of_the_workers_of_the_stage() -> None:
    # Two workers reach 200 a second: one alone 100. A stage of 3 s by both computes at most 600.
    stages = {"network": StageTime(6.0, 6.0, 2), "trunk": StageTime(1.0, 1.0, 1)}
    measured = Measured(peak=200.0, threads=2, stages=stages)
    assert measured.share_of_peak({"network": 300}) == 0.5
    assert measured.share_of_peak({"trunk": 50}) == 0.5
    assert measured.share_of_peak({"trunk": 50, "network": 300}) == 0.5
    assert measured.seconds == 4.0


@pytest.mark.parametrize("count", [0, 1, 500])
def test_made_up_boxes_lie_in_the_image(count: int) -> None:
    boxes = make_boxes(count, (30, 500))
    assert boxes.shape == (count, 4)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([500, 30, 500, 30])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_costs_of_passes_add_up_and_the_largest_fills_the_memory() -> None:
    layer = nn.Conv2d(4, 2, 3)
    small, large = (count_cost(nn.Sequential(layer), (4, s, s), run) for s in (7, 10))
    for both in (add_costs([small, large]), add_costs([large, small])):
        assert both.multiply_adds == small.multiply_adds + large.multiply_adds
        assert both.parameters == small.parameters
        assert both.layers[0].outputs == 2 * 25 + 2 * 64
        assert (both.live_numbers, both.output_shape) == (large.live_numbers, (2, 8, 8))
    assert add_costs([small]) == small


@pytest.mark.parametrize("part", [False, True])
def test_a_stage_of_two_workers_counts_both_whole_or_part_by_part(part: bool) -> None:
    timer = StageTimer(torch.device("cpu"))
    for _ in range(2 if part else 1):
        with timer("stage", workers=2, part=part):
            time.sleep(0.02)
    stage = timer.stages["stage"]
    assert stage.workers == 2
    assert stage.worker_seconds >= 0.04
    assert stage.seconds == stage.worker_seconds / 2


def test_costs_add_up() -> None:
    cost = count_cost(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,), run)
    assert [layer.name for layer in cost.layers] == ["0", "1"]
    assert (cost.multiply_adds, cost.parameters) == (12 + 8, 16 + 10)
    assert Cost((), (3,), 0).multiply_adds == 0
