from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detect.training import Part, Trainer, TrainingConfig, photo_of
from detect.training_log import TrainingLog
from proposals.files import FileBusy
from tests.conftest import ROOT


class LineFit:
    """A line through noisy points; enough to see a loop at work."""

    def __init__(self, fresh: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.parts = [Part(self.model, fresh=fresh)]
        self.num_photos = 5
        self.prepared: list[int] = []

    def prepare(self, draw: int, generator: torch.Generator) -> Tensor:
        self.prepared.append(draw)
        return torch.randn(8, 3, generator=generator)

    def loss(self, points: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = 0.01 * torch.randn(8, 1, generator=generator)
        loss = (self.model(points) - points.sum(1, keepdim=True) - noise).square().mean()
        return loss, {"loss": loss.item(), "never": float("nan")}


def make_trainer(threads: int = 2, fresh: bool = False, **settings: object) -> Trainer:
    given = {"steps": 30, "learning_rate": 0.05, "warmup_steps": 2, **settings}
    return Trainer(LineFit(fresh), TrainingConfig(**given), seed=3, threads=threads)


def run(trainer: Trainer, steps: int) -> list[Tensor]:
    for _ in range(steps):
        trainer.step()
    return [p.detach().clone() for p in trainer.parameters]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loss_falls(optimizer: str) -> None:
    trainer = make_trainer(optimizer=optimizer, learning_rate=0.2 if optimizer == "adamw" else 0.05)
    losses = [trainer.step().losses["loss"] for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_number_of_threads_changes_nothing() -> None:
    one, two = (run(make_trainer(threads, photos_per_step=4), 5) for threads in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_draws_are_prepared_once_each_in_order_and_none_beyond_the_end() -> None:
    trainer = make_trainer(threads=1, steps=4, photos_per_step=3)
    run(trainer, 4)
    assert trainer.objective.prepared == list(range(12))  # type: ignore[attr-defined]


class KernelFit(LineFit):
    """A 3 x 3 convolution whose weights lie channels last, as those of a network in training do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(4, 5, 3).to(memory_format=torch.channels_last)  # type: ignore
        self.parts = [Part(self.model)]

    def prepare(self, draw: int, generator: torch.Generator) -> Tensor:
        maps = torch.randn(2, 4, 6, 6, generator=generator)
        return maps.contiguous(memory_format=torch.channels_last)

    def loss(self, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss = (self.model(maps) - maps[:, :1, 1:-1, 1:-1]).square().mean()
        return loss, {"loss": loss.item()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_is_that_of_the_plain_optimizer_whatever_the_strides(optimizer: str) -> None:
    config = TrainingConfig(
        steps=9, optimizer=optimizer, learning_rate=0.01, warmup_steps=0, schedule="constant"
    )
    trainer = Trainer(KernelFit(), config, seed=3, threads=1)
    reference = KernelFit()
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    more = {} if optimizer == "adamw" else {"momentum": config.momentum}
    weight, bias = reference.model.weight, reference.model.bias
    groups = [{"params": [weight], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}]
    plain = kind(groups, lr=0.01, fused=False, **more)  # type: ignore[arg-type]
    for step in range(4):
        trainer.step()
        draws = range(step * config.photos_per_step, (step + 1) * config.photos_per_step)
        plain.zero_grad()
        for draw in draws:
            generator = torch.Generator().manual_seed(3 * 1_000_003 + draw)
            loss, _ = reference.loss(reference.prepare(draw, generator), generator)
            (loss / len(draws)).backward()
        plain.step()
    for found, expected in zip(trainer.parameters, reference.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_strides_survive_an_interruption(tmp_path: Path) -> None:
    config = TrainingConfig(steps=9, learning_rate=0.01, warmup_steps=0)
    whole, first, second = (Trainer(KernelFit(), config, threads=1) for _ in range(3))
    expected = run(whole, 4)
    run(first, 2)
    first.save(tmp_path / "state.safetensors", {})
    second.restore(tmp_path / "state.safetensors", {})
    assert all(torch.equal(a, b) for a, b in zip(expected, run(second, 2), strict=True))


def test_what_starts_from_nothing_learns_faster() -> None:
    slow, fast = (make_trainer(fresh=fresh, optimizer="sgd") for fresh in (False, True))
    before = [p.detach().clone() for p in slow.parameters]
    moved = [
        sum(float((p - q).abs().sum()) for p, q in zip(run(t, 1), before, strict=True))
        for t in (slow, fast)
    ]
    assert moved[1] == pytest.approx(4 * moved[0], rel=1e-4)


def test_weights_decay_and_biases_do_not() -> None:
    trainer = make_trainer(weight_decay=0.5)
    decays = {p: g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert [decays[p] for p in trainer.parameters] == [0.5, 0.0]


def test_losses_that_no_draw_had_are_nan() -> None:
    losses = make_trainer().step().losses
    assert losses["never"] != losses["never"]
    assert losses["loss"] > 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, optimizer: str
) -> None:
    whole = make_trainer(optimizer=optimizer)
    expected = run(whole, 6)
    first = make_trainer(optimizer=optimizer)
    log = TrainingLog(tmp_path, {"a": 1}, save_minutes=0)
    with pytest.raises(KeyboardInterrupt), log.resume(first):
        for stats in log.steps():
            if stats.step == 2:
                raise KeyboardInterrupt
    second = make_trainer(optimizer=optimizer)
    log = TrainingLog(tmp_path, {"a": 1}, save_minutes=60)
    with log.resume(second):
        assert second.next_step == 3
        for stats in log.steps():
            if stats.step == 5:
                break
    assert all(torch.equal(a, b) for a, b in zip(expected, second.parameters, strict=True))
    for a, b in zip(whole.average.values, second.average.values, strict=True):
        assert torch.equal(a, b)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    assert [row["step"] for row in log.rows] == [1, 2, 3, 4, 5, 6]


def test_steps_behind_the_saved_state_are_forgotten(tmp_path: Path) -> None:
    trainer = make_trainer()
    log = TrainingLog(tmp_path, {}, save_minutes=60)
    with log.resume(trainer):
        next(iter(log.steps()))
    text = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(text + text.replace('"step": 1', '"step": 2'))
    log = TrainingLog(tmp_path, {}, save_minutes=60)
    with log.resume(make_trainer()):
        assert [row["step"] for row in log.rows] == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from detect.files import FileLock
lock = FileLock(Path(sys.argv[2], "state.safetensors"))
print("taken", flush=True)
sys.stdin.read()
lock.close()
"""
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path)]
    log = TrainingLog(tmp_path, {}, save_minutes=60)
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "taken\n"
        message = rf"state.safetensors is in use by another run \(process {other.pid}\)"
        with pytest.raises(FileBusy, match=message), log.resume(make_trainer()):
            pass
        assert not (tmp_path / "log.csv").exists()
        other.communicate()
    with log.resume(make_trainer()):  # the lock went with its owner
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.safetensors"]


def test_validations_are_noted_beside_the_steps(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, {}, save_minutes=60)
    with log.resume(make_trainer()):
        log.note_validation(7, {"mAP": 0.25, "AP cat": 0.5, "AP dog, big": None})
    table = (tmp_path / "validation.csv").read_text()
    assert table == 'step,mAP,AP cat,"AP dog, big"\n7,0.25,0.5,\n'
    assert log.validations()[0]["mAP"] == 0.25
    assert not (tmp_path / "log.csv").exists()


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.step()
    trainer.save(tmp_path / "state.safetensors", {"seed": 1})
    with pytest.raises(ValueError, match="saved with other settings"):
        trainer.restore(tmp_path / "state.safetensors", {"seed": 2})


def test_the_average_is_taken_over_for_a_while() -> None:
    trainer = make_trainer()
    before = run(trainer, 3)
    with trainer.averaged():
        for parameter, value in zip(trainer.parameters, trainer.average.values, strict=True):
            assert torch.equal(parameter, value)
        assert not torch.equal(trainer.parameters[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


def test_every_photo_comes_once_an_epoch() -> None:
    epochs = [[photo_of(3 * epoch + i, 3, seed=0) for i in range(3)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "optimizer=lion: choose one of adamw, sgd"),
        ({"steps": 0}, "must be 1 or more"),
        ({"photos_per_step": 0}, "must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)  # type: ignore[arg-type]


TWO = """
import torch
from detect.distributed import process_group
from detect.training import Trainer, TrainingConfig
from tests.test_training import LineFit
with process_group(torch.device("cpu")) as group:
    config = TrainingConfig(steps=9, learning_rate=0.05, warmup_steps=2, photos_per_step=2)
    trainer = Trainer(LineFit(), config, seed=3, threads=1, group=group)
    losses = [trainer.step().losses["loss"] for _ in range(5)]
    assert group.from_first(group.rank) == 0
    if group.rank == 0:
        print(losses, [p.flatten().tolist() for p in trainer.parameters])
"""


def test_two_processes_train_as_one_with_the_doubled_batch() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO],
            cwd=ROOT,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    alone = make_trainer(steps=9, photos_per_step=4)
    losses = [alone.step().losses["loss"] for _ in range(5)]
    text = printed[0].strip().replace("] [", "]|[").split("|")
    torch.testing.assert_close(torch.tensor(eval(text[0])), torch.tensor(losses))
    for found, expected in zip(eval(text[1]), alone.parameters, strict=True):
        torch.testing.assert_close(torch.tensor(found), expected.detach().flatten())
