from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detect.crops import CropConfig, crop_boxes
from detect.data.records import Record
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.objectives import BLOCKS, CropObjective, SharedObjective, choose_parts, drop
from detect.region_training import RegionSampler, SamplingConfig, region_losses
from detect.shared_geometry import SharedTrunkConfig
from detect.shared_trunk import SharedTrunk
from detect.training import Trainer, TrainingConfig
from proposals import SelectiveSearch

SHARED = SharedTrunkConfig(shorter_side=80, max_side=200, pyramid=[1.0, 1.6], region_side=40)
AnyObjective = SharedObjective | CropObjective


@pytest.fixture(scope="module")
def proposals(square_records: list[Record]) -> dict[str, Tensor]:
    from detect.images import read_image

    search = SelectiveSearch("fast")
    return {r.name: search(read_image(r.path)) for r in square_records}  # type: ignore[arg-type]


def make(
    kind: str,
    records: list[Record],
    proposals: dict[str, Tensor],
    *,
    auxiliary: float = 0.0,
    layout: str = "paper",
    **changes: object,
) -> AnyObjective:
    torch.manual_seed(0)
    settings = {"regions_per_photo": 6, "candidates_per_photo": 12, "train_from": "5b", **changes}
    config = SamplingConfig(**settings)  # type: ignore[arg-type]
    head = RegionHead(2)
    network = GoogLeNet(3, layout=layout, auxiliary=bool(auxiliary)).eval()  # type: ignore[arg-type]
    network.fc = nn.Identity()
    network.to(memory_format=torch.channels_last)
    if kind == "shared":
        trunk = SharedTrunk(network, Preprocessing(), SHARED)
        sampler = RegionSampler(records, proposals, 2, config, pyramid=SHARED)
        return SharedObjective(trunk, head, sampler)
    return CropObjective(
        network,
        head,
        RegionSampler(records, proposals, 2, config),
        preprocessing=Preprocessing(),
        crop=CropConfig() if auxiliary else CropConfig(size=64, context=4),
        auxiliary_weight=auxiliary,
    )


def network_of(objective: AnyObjective) -> GoogLeNet:
    return objective.trunk.network if isinstance(objective, SharedObjective) else objective.network


def loss_of(objective: AnyObjective, draw: int = 0) -> tuple[Tensor, dict[str, float]]:
    generator = torch.Generator().manual_seed(draw)
    return objective.loss(objective.prepare(draw, generator), generator)


@pytest.mark.parametrize("kind", ["shared", "crops"])
def test_training_lowers_the_loss(kind, square_records, proposals) -> None:
    objective = make(kind, square_records, proposals, colour_jitter=0.0)
    config = TrainingConfig(steps=12, learning_rate=2e-3, warmup_steps=2, photos_per_step=3)
    trainer = Trainer(objective, config, threads=2)
    losses = [trainer.step().losses["class_loss"] for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("kind", ["shared", "crops"])
@pytest.mark.parametrize("train_from", ["conv", "3b", "4e", "5a", "head"])
def test_blocks_from_the_chosen_one_on_get_gradients(
    kind, train_from, square_records, proposals
) -> None:
    objective = make(kind, square_records, proposals, train_from=train_from)
    loss, _ = loss_of(objective)
    parameters = [p for part in objective.parts for p in part.module.parameters()]
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    assert all(g.isfinite().all() for g in gradients)
    trained = {id(p) for p in parameters}
    for name, parameter in network_of(objective).named_parameters():
        block = "conv" if name.startswith("conv") else name.split(".")[0][-2:]
        chosen = BLOCKS.index(block) >= BLOCKS.index(train_from)
        assert (id(parameter) in trained) == parameter.requires_grad == chosen, name
    first = dict(zip(map(id, parameters), gradients, strict=True))
    if train_from == "head":
        assert first[id(objective.head.classifier.weight)].abs().sum() > 0
        return
    name = "conv1.conv" if train_from == "conv" else f"inception{train_from}.branch1.conv"
    weight = network_of(objective).get_submodule(name).weight
    assert first[id(weight)].abs().sum() > 0


@pytest.mark.parametrize("kind", ["shared", "crops"])
@pytest.mark.parametrize("train_from", ["4a", "5b", "head"])
def test_what_is_frozen_runs_as_the_plain_network_does(
    kind, train_from, square_records, proposals
) -> None:
    """All from the first convolution on, in training's own code, gives the same loss."""
    settings = {"colour_jitter": 0.0, "candidates_per_photo": 6}
    part = loss_of(make(kind, square_records, proposals, train_from=train_from, **settings))[0]
    whole = loss_of(make(kind, square_records, proposals, train_from="conv", **settings))[0]
    torch.testing.assert_close(part, whole, rtol=0.02, atol=0.02)


def test_crops_are_those_of_detection(square_records, proposals) -> None:
    settings = {"colour_jitter": 0.0, "dropout": 0.0, "candidates_per_photo": 6}
    objective = make("crops", square_records, proposals, **settings)
    loss, losses = loss_of(objective)
    sample = objective.sampler(0, torch.Generator().manual_seed(0))
    crops = crop_boxes(sample.image, sample.regions.boxes, CropConfig(size=64, context=4))
    network = network_of(objective)
    with torch.no_grad():
        features = network.features(Preprocessing()(crops))
        class_losses, box_losses, _ = region_losses(objective.head, features, sample.regions, 1.0)
    expected = (class_losses + box_losses).mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=0.02, atol=0.02)
    assert losses["class_loss"] == pytest.approx(class_losses.mean().item(), abs=0.02)


@pytest.mark.parametrize("kind", ["shared", "crops"])
def test_the_hardest_candidates_are_learned_from(kind, square_records, proposals) -> None:
    settings = {"colour_jitter": 0.0, "dropout": 0.0}
    few = make(kind, square_records, proposals, **settings)
    every = make(kind, square_records, proposals, regions_per_photo=12, **settings)
    torch.nn.init.normal_(few.head.classifier.weight, std=0.5)
    every.head.load_state_dict(few.head.state_dict())
    assert loss_of(few)[0] > loss_of(every)[0]


@pytest.mark.parametrize("layout", ["paper", "torchvision"])
def test_auxiliary_classifiers_take_part_with_their_weight(
    layout, square_records, proposals
) -> None:
    settings = {"train_from": "4a", "colour_jitter": 0.0, "layout": layout}
    plain = make("crops", square_records, proposals, **settings)
    joined = make("crops", square_records, proposals, auxiliary=0.3, **settings)
    network_of(joined).load_state_dict(network_of(plain).state_dict(), strict=False)
    joined.head.load_state_dict(plain.head.state_dict())
    assert len(joined.parts) == 3
    loss, losses = loss_of(joined)
    parameters = [p for part in joined.parts for p in part.module.parameters()]
    torch.autograd.grad(loss, parameters)  # each has a part in the loss
    main = losses["class_loss"] + losses["box_loss"]
    assert loss.item() == pytest.approx(main + 0.3 * losses["auxiliary_loss"], rel=1e-4)


def test_auxiliary_classifiers_need_the_blocks_below_them(square_records, proposals) -> None:
    with pytest.raises(ValueError, match="train from 4a or before"):
        make("crops", square_records, proposals, auxiliary=0.3, train_from="4b")


@pytest.mark.parametrize("kind", ["shared", "crops"])
def test_a_photo_without_any_region_has_no_loss(kind, square_records) -> None:
    record = square_records[0]
    nothing = [
        Record("0", record.path, 110, 80, record.boxes[:0], record.labels[:0], record.difficult[:0])
    ]
    objective = make(kind, nothing, {"0": torch.zeros(0, 4)})
    loss, losses = loss_of(objective)
    assert loss.item() == 0
    assert losses["class_loss"] != losses["class_loss"]
    parameters = [p for part in objective.parts for p in part.module.parameters()]
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    assert all((g == 0).all() for g in gradients)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match="train_from='9z': must be one of conv, 3a"):
        choose_parts(GoogLeNet(0), RegionHead(1), "9z")


def test_dropout_follows_from_its_generator_and_keeps_the_mean() -> None:
    features = torch.ones(50, 1024)
    one, two = (drop(features, 0.4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.mean() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop(features, 0.0, torch.Generator()), features)
