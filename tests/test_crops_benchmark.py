"""benchmarks/classification.py: which photos it takes, and how it compares numbers of crops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks import classification
from benchmarks.classification import MANY, TEN, compare, labels_of_kinds, of_one_kind
from detect.data.imagenet import imagenet_names
from detect.data.voc import VOC_CLASSES, read_voc
from detect.googlenet import GoogLeNet
from tests.data_trees import write_voc
from tests.test_googlenet import caffe_tensors


def test_each_kind_has_labels_of_its_own() -> None:
    kinds = labels_of_kinds()
    everything = [label for labels in kinds.values() for label in labels]
    assert len(everything) == len(set(everything))
    assert {VOC_CLASSES[label] for label in kinds} == set(VOC_CLASSES) - {"person"}


@pytest.mark.parametrize(
    ("kind", "number", "names"),
    [
        ("dog", 118, {"Chihuahua", "toy poodle", "Mexican hairless"}),
        ("cat", 5, {"tabby", "Siamese cat", "Egyptian cat"}),
        ("bird", 59, {"cock", "macaw", "flamingo", "albatross"}),
        ("train", 5, {"bullet train", "streetcar"}),
        ("cow", 1, {"ox"}),
    ],
)
def test_a_kind_is_made_of_the_right_classes(kind: str, number: int, names: set[str]) -> None:
    labels = labels_of_kinds()[VOC_CLASSES.index(kind)]
    assert len(labels) == number
    assert names <= {imagenet_names()[label] for label in labels}


def test_photos_of_several_kinds_or_of_persons_are_left_out(tmp_path: Path) -> None:
    box = (10.0, 20.0, 50.0, 60.0)
    photos = {
        "two_cats": [("cat", box), ("cat", box)],
        "cat_and_dog": [("cat", box), ("dog", box)],
        "person": [("person", box)],
        "nothing": [],
        "sofa": [("sofa", box)],
    }
    records = read_voc(write_voc(tmp_path, photos), "train")
    kept = of_one_kind(records, labels_of_kinds())
    assert [record.name for record in kept] == ["two_cats", "sofa"]


def test_what_more_crops_gain_is_told_with_its_chance() -> None:
    fewer = np.array([[0, 0], [0, 1], [1, 1], [0, 0]], dtype=bool)
    more = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], dtype=bool)
    first, five = compare(fewer, more, TEN).splitlines()
    assert first.startswith("25.00 points of top-1")
    assert first.endswith("met (+- 43.30; 2 photos put right, 1 wrong)")
    assert five.endswith("met (+- 25.00; 1 photos put right, 0 wrong)")
    assert "MISSED" in compare(more, more, TEN)
    assert "MISSED" not in compare(more, more, MANY)


def test_the_benchmark_prints_each_number_of_crops(tmp_path: Path, monkeypatch, capsys) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("cat", (10.0, 20.0, 50.0, 60.0))]})
    weights = tmp_path / "w.safetensors"
    save_file(caffe_tensors(GoogLeNet(1000)), weights)
    line = ["classification.py", str(root), "--weights", str(weights), "--splits", "train"]
    monkeypatch.setattr(sys, "argv", line)
    classification.main()
    printed = capsys.readouterr().out
    assert [row.split(" | ")[0] for row in printed.splitlines() if row.startswith("| 1")] == [
        "| 1",
        "| 10",
        "| 144",
    ]
    assert "1 photos of train" in printed


def test_data_without_such_photos_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("person", (10.0, 20.0, 50.0, 60.0))]})
    monkeypatch.setattr(
        sys, "argv", ["classification.py", str(root), "--weights", "w", "--splits", "train"]
    )
    with pytest.raises(SystemExit):
        classification.main()
    assert "no photo has objects of one kind" in capsys.readouterr().err
