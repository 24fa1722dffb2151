"""tools/reproduce.py and what it measures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detect import reproduce_run
from detect.checkpoint import load_checkpoint
from detect.data.records import Record
from detect.data.splits import spread
from detect.googlenet import GoogLeNet
from detect.images import read_image
from detect.paper_architecture import architecture, format_architecture
from detect.paper_claims import detection_claims, network_claims, proposal_claims
from detect.reproduce_settings import ReproduceConfig
from proposals import SelectiveSearch, Union
from tests.data_trees import write_photo, write_voc
from tests.test_googlenet import caffe_tensors
from tools import reproduce as tool
from tools.progress import progress


def test_table_1_is_counted_and_its_slips_are_told() -> None:
    rows = {row.name: row for row in architecture()}
    assert len(rows) == 12
    assert rows["convolution 7x7/2"].weights == 7 * 7 * 3 * 64
    assert rows["inception (3a)"].size == (256, 28, 28)
    network = GoogLeNet(1000)
    counted = sum(p.numel() for n, p in network.named_parameters() if p.ndim > 1)
    assert sum(row.weights for row in rows.values()) == counted
    assert sum(row.depth for row in rows.values()) == 22
    slips = {row.name for row in rows.values() if row.note}
    assert slips == {"convolution 7x7/2", "inception (4c)", "inception (5a)"}
    table = list(format_architecture(list(rows.values())))
    assert len(table) == 2 + 12 + 1
    assert "| inception (3a) | 28x28x256 (28x28x256) | 2 (2) | 159.5K (159K) | 128.0M" in table[4]


def test_counts_of_the_network() -> None:
    operations, parameters, depth = network_claims()
    assert operations.ours == "1.583 billion"
    assert parameters.ours == "61.1 / 7.00 million = 8.7 x"
    assert depth.ours == "22"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    path = write_photo(tmp_path / "a.jpg")
    boxes = torch.tensor([[10.0, 20, 50, 60]])
    return Record("a", path, 100, 80, boxes, torch.tensor([0]), torch.zeros(1, dtype=torch.bool))


def test_proposals_are_compared_by_number_and_coverage(record: Record) -> None:
    calls: list[int] = []
    few = SelectiveSearch("googlenet", max_boxes=5)
    claims = proposal_claims([record], SelectiveSearch("fast"), few, lambda: calls.append(1))
    assert len(calls) == 1
    assert "(5 of " in claims[0].ours
    assert claims[1].data == "1 photos, 1 objects"
    assert "no MultiBox" in claims[1].note
    joined = proposal_claims([record], few, Union([few]), lambda: None)
    assert joined[0].ours.startswith("100 %")
    assert "no MultiBox" not in joined[1].note


def test_detectors_alone_and_together(record: Record, random_checkpoint: Path) -> None:
    one = load_checkpoint(random_checkpoint)
    search = SelectiveSearch("googlenet", max_boxes=8)
    single = detection_claims([record], [one], search, lambda: None)
    told = replace(one, training={"data": {"split": "trainval"}})
    both = detection_claims([record], [told, one], search, lambda: None)
    assert [claim.paper for claim in single] == ["38.02 %", "-"]
    assert [claim.paper for claim in both] == ["38.02 %", "-", "43.9 % (6)", "+3.9 % (6)"]
    assert both[2].ours == both[1].ours  # of the same network twice
    assert both[3].ours in ("+0.0 %", "-0.0 %")
    assert f"mean {both[1].ours}" in both[3].note
    assert single[0].data == "1 photos; learned from photos that its file does not name"
    assert both[0].data.startswith("1 photos; learned from `trainval`, photos that its")


def test_items_are_spread() -> None:
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(3), 5) == spread(range(3), 0) == [0, 1, 2]


def test_the_tool_prints_and_writes_every_table(
    tmp_path, monkeypatch, capsys, random_checkpoint: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path / "voc", {"a": [("cat", (10.0, 20.0, 50.0, 60.0))]})
    write_photo(tmp_path / "imagenet/n02123045/x.jpg")
    save_file(caffe_tensors(GoogLeNet(1000)), tmp_path / "w.safetensors")
    given = ["data=voc", "data.root=voc", f"checkpoints=[{random_checkpoint}]"]
    given += ["imagenet=imagenet", "weights=w.safetensors"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *given])
    assert tool.main() == 0
    printed = capsys.readouterr().out
    tables = json.loads(Path("reproduce/tables.json").read_text())
    assert [len(rows) for rows in tables.values()] == [12, 3, 3, 2, 2]
    for line in Path("reproduce/tables.md").read_text().splitlines()[1:]:
        assert line.removeprefix("## ") in printed


def test_the_papers_proposals_are_not_cut(record: Record, random_checkpoint, monkeypatch) -> None:
    cut = Union([SelectiveSearch("googlenet")], max_boxes=1)
    monkeypatch.setattr(reproduce_run, "default_proposals", lambda *_: cut)
    settings = ReproduceConfig(table="proposals", checkpoints=[str(random_checkpoint)])
    [table] = reproduce_run.make_tables(settings, [record], progress)
    count = int(table.rows[0]["ours"].split("(")[1].split(" of ")[0])
    assert record.path is not None
    assert count == len(Union(cut.proposers)(read_image(record.path)))
    assert count > 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["table=proposals"], 0, "not measured: give data=voc"),
        (["table=classification"], 0, "not measured: give imagenet=FOLDER"),
        (["table=seven"], 2, "choose all or one of architecture"),
        (["photo.jpg"], 2, "photo.jpg: takes settings alone"),
        (["tabel=all"], 2, "did you mean table"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    tmp_path, monkeypatch, capsys, arguments: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    assert tool.main() == status
    output = capsys.readouterr()
    assert message in (output.err if status else output.out)
