"""Labelled photos of VOC, COCO and ILSVRC, and the rules for annotations that are wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detect.config import load_config
from detect.data import checking
from detect.data.annotated import BLACKLISTED, AnnotatedPhotos
from detect.data.checking import checked_records
from detect.data.ilsvrc import read_blacklist, read_ilsvrc, read_synsets
from detect.data.labelled import (
    COCO_DROP,
    ILSVRC_DROP,
    VOC_DROP,
    LabelledPhotos,
    coco_photos,
    ilsvrc_photos,
    voc_photos,
)
from detect.data.problems import InputError, Kind
from detect.data.voc import VOC_CLASSES, read_voc
from tests.conftest import ROOT
from tests.data_trees import (
    Box,
    write_coco,
    write_ilsvrc,
    write_list,
    write_photo,
    write_voc,
    write_xml,
)

DOG, CAT, BEAR = (("dog", (0, 1, 10, 20)), ("cat", (5, 5, 9, 9)), ("polar bear", (10, 20, 50, 60)))
SIZE = "<size><width>100</width><height>80</height></size>"


def names(photos: LabelledPhotos) -> list[str]:
    return [record.name for record in photos.records]


def objects(photos: LabelledPhotos) -> list[list[tuple[str, list[float]]]]:
    return [
        [
            (photos.class_names[label], box)
            for label, box in zip(r.labels.tolist(), r.boxes.tolist(), strict=True)
        ]
        for r in photos.records
    ]


def in_one(note: list[str], *parts: str) -> None:
    """Check that there is a single note, with these parts."""
    assert len(note) == 1, note
    for part in parts:
        assert part in note[0], note


# VOC, and folders of one's own


def test_a_voc_tree_gives_records_and_the_classes_found_in_alphabetical_order(
    tmp_path: Path,
) -> None:
    write_voc(tmp_path, {"b": [DOG, CAT], "a b": [], "ü 猫": [BEAR]})
    photos = voc_photos(tmp_path)
    assert names(photos) == ["b", "a b", "ü 猫"]  # as listed
    assert photos.class_names == ("cat", "dog", "polar bear")
    assert objects(photos) == [
        [("dog", [0, 1, 10, 20]), ("cat", [5, 5, 9, 9])],
        [],
        [("polar bear", [10, 20, 50, 60])],
    ]
    assert [record.path for record in photos.records] == [
        tmp_path / "JPEGImages" / f"{name}.jpg" for name in names(photos)
    ]
    assert [record.image_id for record in photos.records] == [1, 2, 3]
    empty = photos.records[1]
    assert (empty.boxes.shape, empty.boxes.dtype) == ((0, 4), torch.float32)
    assert (empty.labels.dtype, empty.difficult.dtype) == (torch.int64, torch.bool)
    assert (empty.width, empty.height) == (100, 80)
    assert photos.notes == []


def test_difficult_objects_stay_difficult(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [DOG, CAT]})
    write_xml(tmp_path / "Annotations/a.xml", [DOG], extra="<difficult>1</difficult>")
    assert voc_photos(tmp_path).records[0].difficult.tolist() == [True]


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize(
    ("annotations", "photos"), [("", ""), ("Annotations", "JPEGImages"), ("Annotations", "")]
)
def test_a_folder_of_ones_own_needs_no_list(
    tmp_path: Path, annotations: str, photos: str, split: str | None
) -> None:
    files = ["b.PNG", "a b.jpeg", "ü 猫.bmp", "not annotated.jpg"]
    for file in files:
        write_photo(tmp_path / photos / file)
    for file in files[:3]:
        write_xml(tmp_path / annotations / f"{Path(file).stem}.xml", [BEAR])
    (tmp_path / annotations / "._b.xml").write_bytes(b"\0\5\26\7")  # as macOS leaves them
    found = voc_photos(tmp_path, split)
    assert names(found) == ["a b", "b", "ü 猫"]
    assert [record.path for record in found.records] == [
        tmp_path / photos / file for file in ("a b.jpeg", "b.PNG", "ü 猫.bmp")
    ]
    assert found.class_names == ("polar bear",)
    assert found.notes == []


def test_folders_of_other_names_are_given(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "a.png")
    write_xml(tmp_path / "labels" / "a.xml", [DOG])
    given = {"annotations": tmp_path / "labels", "photos": tmp_path / "images"}
    assert voc_photos(tmp_path, **given).records[0].path == tmp_path / "images" / "a.png"
    with pytest.raises(InputError, match="no XML file; give their folder, annotations="):
        voc_photos(tmp_path)
    with pytest.raises(InputError, match="give the folder of the photos, photos="):
        voc_photos(tmp_path, annotations=tmp_path / "labels")


@pytest.mark.parametrize(
    ("file_name", "there", "taken"),
    [
        ("IMG 1.jpg", ["IMG 1.jpg"], "IMG 1.jpg"),
        (r"C:\my photos\ü.png", ["ü.png"], "ü.png"),
        ("/home/me/x.png", ["x.png", "a.jpg"], "a.jpg"),  # its own name comes first
        ("a.png", ["a.jpg", "a.png"], "a.png"),
        ("b.png", ["a.jpg", "a.png", "b.png"], "a.jpg"),
        ("", ["a.png", "a.gif"], "a.gif"),
    ],
)
def test_the_file_name_helps_where_the_name_of_the_annotation_does_not(
    tmp_path: Path, file_name: str, there: list[str], taken: str
) -> None:
    write_xml(tmp_path / "a.xml", [DOG], f"<filename>{file_name}</filename>{SIZE}")
    for file in there:
        write_photo(tmp_path / file)
    assert [record.path for record in voc_photos(tmp_path).records] == [tmp_path / taken]


def test_what_has_the_name_of_a_photo_is_not_always_one(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [DOG], "b": [DOG], "c": [DOG], "d": [DOG]})
    for name in "bcd":
        (tmp_path / f"JPEGImages/{name}.jpg").unlink()
    (tmp_path / "JPEGImages/b.jpg").mkdir()
    (tmp_path / "JPEGImages/c.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "JPEGImages/d.txt").touch()
    photos = voc_photos(tmp_path)
    assert names(photos) == ["a"]
    in_one(photos.notes, "3 left out (missing_photo), the first at image b: its photo is not there")


def test_lists_choose_photos(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", {"a": [DOG], "b": [CAT]}, "train")
    write_list(tmp_path / "voc/ImageSets/Main/val.txt", ["b"])
    own = write_list(tmp_path / "my list.txt", ["b", "a"])
    assert names(voc_photos(tmp_path / "voc", "val")) == ["b"]
    assert names(voc_photos(tmp_path / "voc", str(own))) == ["b", "a"]
    write_xml(tmp_path / "voc/Annotations/0.xml", [DOG])
    write_photo(tmp_path / "voc/JPEGImages/0.jpg")
    assert names(voc_photos(tmp_path / "voc", None)) == ["0", "a", "b"]
    with pytest.raises(InputError, match=r"test\.txt: no such list; give the name of another"):
        voc_photos(tmp_path / "voc", "test")
    shutil.rmtree(tmp_path / "voc/ImageSets")
    with pytest.raises(InputError, match=r"val\.txt: no such list.*split=null"):
        voc_photos(tmp_path / "voc", "val")  # it would be the photos of the training
    assert names(voc_photos(tmp_path / "voc")) == ["0", "a", "b"]


def test_annotations_in_an_archive_need_a_list(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"a": [DOG], "b": [CAT]})
    with tarfile.open(tmp_path / "xml.tar.gz", "w:gz") as tar:
        tar.add(root / "Annotations")
    assert names(voc_photos(root, annotations=tmp_path / "xml.tar.gz")) == ["a", "b"]
    with pytest.raises(InputError, match="give split= a list"):
        voc_photos(root, None, annotations=tmp_path / "xml.tar.gz")


def test_absent_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        voc_photos(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no XML file"):
        voc_photos(tmp_path)
    write_list(tmp_path / "empty.txt", [])
    with pytest.raises(InputError, match=r"empty\.txt: names no image"):
        voc_photos(tmp_path, str(tmp_path / "empty.txt"))
    write_voc(tmp_path, {"a": [], "b": []})
    with pytest.raises(InputError, match="no object of any class on 2 photos"):
        voc_photos(tmp_path)


def test_real_voc_reads_as_ever(shared_dir: Path) -> None:
    root = shared_dir / "data" / "voc2007"
    train = voc_photos(root)
    assert train.class_names == VOC_CLASSES
    assert train.notes == []
    for record, plain in zip(train.records, read_voc(root, "train"), strict=True):
        assert (record.name, record.path, record.image_id) == (
            plain.name,
            plain.path,
            plain.image_id,
        )
        assert torch.equal(record.boxes, plain.boxes) and torch.equal(record.labels, plain.labels)
        assert torch.equal(record.difficult, plain.difficult)
    assert len(voc_photos(root, None).records) == 2182 + 1090


# COCO


def test_a_coco_tree_gives_records_with_categories_in_the_order_of_their_ids(
    tmp_path: Path,
) -> None:
    write_coco(tmp_path, {"b": [DOG, CAT], "sub/a b": [], "ü 猫": [BEAR, DOG]})
    photos = coco_photos(tmp_path)
    assert names(photos) == ["b", "a b", "ü 猫"]
    assert photos.class_names == ("polar bear", "cat", "dog")  # ids 88, 89, 90
    assert objects(photos) == [
        [("dog", [0, 1, 10, 20]), ("cat", [5, 5, 9, 9])],
        [],
        [("polar bear", [10, 20, 50, 60]), ("dog", [0, 1, 10, 20])],
    ]
    assert photos.records[1].path == tmp_path / "train2017/sub/a b.jpg"
    assert [record.image_id for record in photos.records] == [10, 11, 12]
    assert photos.notes == []


def change_truth(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "annotations/instances_train2017.json"
    truth = json.loads(path.read_text())
    change(truth)
    path.write_text(json.dumps(truth))


def test_images_keep_the_order_of_the_file_and_crowds_are_difficult(tmp_path: Path) -> None:
    write_coco(tmp_path, {"a": [DOG], "b": [CAT, DOG]})
    change_truth(tmp_path, lambda truth: truth["annotations"][1].update(iscrowd=1))
    change_truth(tmp_path, lambda truth: truth["images"].reverse())
    photos = coco_photos(tmp_path)
    assert names(photos) == ["b", "a"]
    assert objects(photos)[0][0] == ("cat", [5, 5, 9, 9])
    assert [record.difficult.tolist() for record in photos.records] == [[True, False], [False]]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x/a.b.jpg", "c.png"], ["a.b", "c"]),
        (["x/a.b.jpg", "y/a.b.jpg", "c.png"], ["x/a.b", "y/a.b", "c"]),
        (["x/a.jpg", "x/a.png", "c.png"], ["x/a.jpg", "x/a.png", "c.png"]),
    ],
)
def test_names_are_as_short_as_they_can_be_and_differ(
    tmp_path: Path, files: list[str], expected: list[str]
) -> None:
    write_coco(tmp_path, {str(i): [DOG] for i in range(len(files))})
    for i, file in enumerate(files):
        write_photo(tmp_path / "train2017" / file)
        change_truth(tmp_path, lambda t, i=i, file=file: t["images"][i].update(file_name=file))
    photos = coco_photos(tmp_path)
    assert names(photos) == expected
    assert [record.path for record in photos.records] == [tmp_path / "train2017" / f for f in files]


def test_an_export_of_a_tool_is_read_from_where_it_lies(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", {"a": [DOG]})
    file = (root / "annotations/instances_train2017.json").rename(tmp_path / "all.json")
    (root / "train2017").rename(tmp_path / "images")
    photos = coco_photos(root, annotations=file, photos=tmp_path / "images")
    assert photos.records[0].path == tmp_path / "images" / "a.jpg"
    with pytest.raises(InputError, match=r"instances_val2017\.json: No such file"):
        coco_photos(root, "val2017")


def test_categories_of_the_same_name_are_one_class(tmp_path: Path) -> None:
    write_coco(tmp_path, {"a": [DOG, CAT]})
    change_truth(
        tmp_path, lambda truth: truth["categories"].append({"id": 1, "name": "cat", "more": "x"})
    )
    change_truth(tmp_path, lambda truth: truth["annotations"][0].update(category_id=1))
    photos = coco_photos(tmp_path)
    assert photos.class_names == ("cat", "dog")
    assert objects(photos) == [[("cat", [0, 1, 10, 20]), ("cat", [5, 5, 9, 9])]]
    in_one(photos.notes, "no object of 1 classes is left: dog")


# ILSVRC


def test_a_det_tree_gives_records_with_the_ids_of_its_list(tmp_path: Path) -> None:
    write_ilsvrc(tmp_path, {"n01/b": [DOG, CAT], "a b": [], "ü 猫": [BEAR]})
    photos = ilsvrc_photos(tmp_path)
    assert names(photos) == ["n01/b", "a b", "ü 猫"]
    assert photos.class_names == ("dog", "cat", "polar bear")  # ids 1, 2, 3
    assert objects(photos)[0] == [("dog", [0, 1, 10, 20]), ("cat", [5, 5, 9, 9])]
    assert photos.records[0].path == tmp_path / "Data/DET/train/n01/b.JPEG"
    assert [record.image_id for record in photos.records] == [1, 2, 3]
    assert photos.notes == []


def test_every_file_of_det_can_lie_elsewhere(tmp_path: Path) -> None:
    root = write_ilsvrc(tmp_path / "det", {"a": [DOG], "b": [CAT]}, "val")
    with tarfile.open(tmp_path / "xml.tar", "w") as tar:
        tar.add(root / "Annotations/DET/val")
    elsewhere: dict[str, Path] = {
        "annotations": tmp_path / "xml.tar",
        "photos": (root / "Data/DET/val").rename(tmp_path / "photos"),
        "image_list": (root / "ImageSets/DET/val.txt").rename(tmp_path / "list.txt"),
        "synsets": (root / "devkit/data/map_det.txt").rename(tmp_path / "classes.txt"),
    }
    assert names(ilsvrc_photos(root, "val", **elsewhere)) == ["a", "b"]
    del elsewhere["synsets"]
    with pytest.raises(InputError, match=r"no devkit/data/meta_det\.mat .* give synsets="):
        ilsvrc_photos(root, "val", **elsewhere)


def test_objects_of_blacklisted_classes_count_neither_way(tmp_path: Path) -> None:
    write_ilsvrc(tmp_path, {"a": [DOG, CAT, DOG], "b": [DOG]})
    blacklist = write_list(tmp_path / "blacklist.txt", ["1 n01", "2 n02"])
    photos = ilsvrc_photos(tmp_path, blacklist=blacklist)
    assert [r.difficult.tolist() for r in photos.records] == [[True, False, True], [False]]
    in_one(photos.notes, "2 marked difficult (blacklisted), the first at a: dog at [0, 1, 10, 20]")


def test_classes_of_det_go_by_name_or_wordnet_id(tmp_path: Path) -> None:
    write_ilsvrc(tmp_path, {"a": [DOG, CAT, BEAR]})
    photos = ilsvrc_photos(tmp_path, class_names=["polar bear", "n01"])
    assert objects(photos) == [[("dog", [0, 1, 10, 20]), ("polar bear", [10, 20, 50, 60])]]
    assert photos.class_names == ("polar bear", "dog")
    in_one(photos.notes, "1 left out (unknown_class), of other classes: cat 1")
    with pytest.raises(InputError, match=r"no class 'polar_bear'; it has polar bear, \.\.\."):
        ilsvrc_photos(tmp_path, class_names=["polar_bear"])
    with pytest.raises(InputError, match="names 'dog' twice"):
        ilsvrc_photos(tmp_path, class_names=["dog", "n01"])


def test_objects_that_the_class_list_does_not_have_are_left_out(tmp_path: Path) -> None:
    write_ilsvrc(tmp_path, {"a": [DOG], "b": [CAT]})
    write_list(tmp_path / "devkit/data/map_det.txt", ["n01 1 dog"])
    photos = ilsvrc_photos(tmp_path)
    assert objects(photos) == [[("dog", [0, 1, 10, 20])], []]
    in_one(photos.notes, "1 left out (unknown_class), of other classes: n02 1")


def test_real_ilsvrc_ground_truth_is_read_and_its_blacklist_heeded(
    shared_dir: Path, tmp_path: Path
) -> None:
    folder = shared_dir / "data" / "ilsvrc_det"
    listed = (folder / "val.txt").read_text().splitlines()[:400]
    photo = write_photo(tmp_path / "large.jpg", 2000, 2000)  # sizes that are not given come from it
    (tmp_path / "photos").mkdir()
    for line in listed:
        (tmp_path / "photos" / f"{line.split()[0]}.JPEG").symlink_to(photo)
    given = {
        "annotations": folder / "ILSVRC2013_DET_bbox_val.tar.xz",
        "image_list": write_list(tmp_path / "list.txt", listed),
        "blacklist": folder / "ILSVRC2014_det_validation_blacklist.txt",
    }
    photos = ilsvrc_photos(folder, photos=tmp_path / "photos", **given)
    assert photos.class_names[::199] == ("accordion", "zebra")
    synsets = read_synsets(folder / "meta_det.mat")
    plain = read_ilsvrc(given["annotations"], given["image_list"], synsets)
    pairs = read_blacklist(given["blacklist"], synsets)
    for record, same in zip(photos.records, plain, strict=True):
        assert (record.name, record.image_id) == (same.name, same.image_id)
        assert record.labels.tolist() == same.labels.tolist()
        assert record.difficult.tolist() == [
            (same.image_id, label) in pairs for label in same.labels.tolist()
        ]
        assert record.width > 0 or not len(record.labels)
        assert (record.boxes[:, 2:] <= torch.tensor([record.width, record.height])).all()
        assert torch.equal(record.boxes, same.boxes.clamp(min=0))
    assert any(record.difficult.any() for record in photos.records)
    assert not all(record.width for record in plain)


# What is wrong with annotations


Write = Callable[..., Path]
READERS: dict[Write, Callable[..., LabelledPhotos]] = {
    write_voc: voc_photos,
    write_coco: coco_photos,
    write_ilsvrc: ilsvrc_photos,
}
everywhere = pytest.mark.parametrize("write", READERS)


@everywhere
def test_photos_that_are_missing_are_counted_and_named(tmp_path: Path, write: Write) -> None:
    write(tmp_path, {"a": [DOG], "b": [CAT], "c": [BEAR]})
    for path in tmp_path.rglob("[bc].[jJ]*"):
        path.unlink()
    photos = READERS[write](tmp_path)
    assert objects(photos) == [[("dog", [0, 1, 10, 20])]]
    assert "2 left out (missing_photo), the first at image b" in photos.notes[0]
    next(tmp_path.rglob("a.[jJ]*")).unlink()
    with pytest.raises(InputError, match=r"not one of the 3 photos.*photos=") as caught:
        READERS[write](tmp_path)
    assert "\n" not in str(caught.value)


@everywhere
@pytest.mark.parametrize(
    ("box", "kind", "left"),
    [
        ((0, 0, 100, 80), None, [0, 0, 100, 80]),
        ((-4, 70, 30, 90), "clipped (beyond_edge)", [0, 70, 30, 80]),
        ((90, -1, 100.25, 9), "clipped (beyond_edge)", [90, 0, 100, 9]),
        ((100, 10, 110, 20), "left out (outside)", None),
        ((10, -20, 20, 0), "left out (outside)", None),
        ((10, 20, 10, 30), "left out", None),
        ((10, 20, 30, 20), "left out", None),
        ((30, 20, 10, 40), "left out", None),
        ((10, 40, 30, 20), "left out", None),
    ],
)
def test_boxes_are_inside_their_photos_or_left_out(
    tmp_path: Path, write: Write, box: Box, kind: str | None, left: list[float] | None
) -> None:
    write(tmp_path, {"a": [DOG, ("dog", box)], "b": [DOG] * 9})  # mostly right, or COCO is refused
    photos = READERS[write](tmp_path)
    expected = [("dog", [0, 1, 10, 20])] + ([("dog", left)] if left else [])
    assert objects(photos)[0] == expected
    if kind:
        in_one(photos.notes, f": 1 {kind}", "the first at a")
    else:
        assert photos.notes == []


@everywhere
def test_objects_of_classes_not_asked_for_are_left_out_and_counted(
    tmp_path: Path, write: Write
) -> None:
    write(tmp_path, {"a": [DOG, CAT, BEAR], "b": [BEAR], "c": [BEAR]})
    photos = READERS[write](tmp_path, class_names=["dog"])
    assert objects(photos) == [[("dog", [0, 1, 10, 20])], [], []]
    in_one(photos.notes, "4 left out (unknown_class), of other classes: polar bear 3, cat 1")
    assert READERS[write](tmp_path, class_names="dog").class_names == ("dog",)
    for wrong, message in (([], "names no class"), (["dog", "dog"], "names 'dog' twice")):
        with pytest.raises(InputError, match=message):
            READERS[write](tmp_path, class_names=wrong)


@everywhere
def test_photos_without_any_object_left_are_refused(tmp_path: Path, write: Write) -> None:
    write(tmp_path, {"a": [DOG], "b": [CAT]})
    next(tmp_path.rglob("b.[jJ]*")).unlink()
    with pytest.raises(InputError, match=r"no object of any class \(cat\) on 1 photos"):
        READERS[write](tmp_path, class_names=["cat"])


def test_classes_without_an_object_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [DOG]})
    in_one(voc_photos(tmp_path, class_names=["Dog", "dog"]).notes, "no object of 1 classes", "Dog")
    with pytest.raises(InputError, match=r"no object of any class \(Dog\) on 1 photos"):
        voc_photos(tmp_path, class_names=["Dog"])


@pytest.mark.parametrize("head", ["", "<size><width>0</width><height>0</height></size>"])
def test_sizes_that_annotations_lack_come_from_the_photos(tmp_path: Path, head: str) -> None:
    turned = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    write_photo(tmp_path / "a.jpg")
    write_photo(tmp_path / "b.jpg", exif=turned)  # stored 100 x 80, shown 80 x 100
    for name in "ab":
        write_xml(tmp_path / f"{name}.xml", [("dog", (70, 70, 110, 110))], head)
    photos = voc_photos(tmp_path)
    assert [(r.width, r.height) for r in photos.records] == [(100, 80), (80, 100)]
    assert [r.boxes.tolist() for r in photos.records] == [[[70, 70, 100, 80]], [[70, 70, 80, 100]]]


def test_only_photos_whose_size_is_needed_are_opened(tmp_path: Path) -> None:
    for name, content in {"a": b"", "b": b"no photo", "c": b"", "d": b""}.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    for name in "ab":
        write_xml(tmp_path / f"{name}.xml", [DOG], "")
    write_xml(tmp_path / "c.xml", [], "")
    write_xml(tmp_path / "d.xml", [DOG])
    photos = voc_photos(tmp_path)
    assert names(photos) == ["c", "d"]
    in_one(photos.notes, "2 left out (unreadable_photo), the first at", "a.jpg: an empty file")
    for path in (tmp_path / "c.xml", tmp_path / "d.xml"):
        path.unlink()
    with pytest.raises(InputError, match=r"not one of the 2 photos .*an empty file"):
        voc_photos(tmp_path)


BROKEN_XML = [
    (None, "missing_xml", False),
    ("<annotation><object>", "no_xml", False),
    ("<html>404</html>", "no_annotation", False),
    (f"<annotation>{SIZE}<object></object></annotation>", "no_name", True),
    ("<annotation><size><width>wide</width></size></annotation>", "no_size", True),
]


@pytest.mark.parametrize("write", [write_voc, write_ilsvrc])
@pytest.mark.parametrize(("content", "kind", "stays"), BROKEN_XML)
def test_broken_xml_is_refused_unless_it_may_be_dropped(
    tmp_path: Path, write: Write, content: str | None, kind: str, stays: bool
) -> None:
    write(tmp_path, {"b": [CAT], "a": [DOG], "c": [DOG, CAT]})
    path = next(tmp_path.rglob("a.xml"))
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"a\.xml"):
        READERS[write](tmp_path)
    photos = READERS[write](tmp_path, drop=[kind])
    assert names(photos) == (["b", "a", "c"] if stays else ["b", "c"])
    assert objects(photos)[-1] == [("dog", [0, 1, 10, 20]), ("cat", [5, 5, 9, 9])]
    assert [r.image_id for r in photos.records] == ([1, 2, 3] if stays else [1, 3])
    in_one(photos.notes, f"1 left out ({kind}), the first at", "a.xml")


def test_boxes_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [DOG, CAT]})
    path = tmp_path / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<xmin>6</xmin>", "<xmin>nan</xmin>"))
    photos = voc_photos(tmp_path)
    assert objects(photos) == [[("dog", [0, 1, 10, 20])]]
    in_one(photos.notes, "1 left out (no_box), the first at a.xml: cat at ['nan', '6', '9', '9']")


def test_nothing_but_broken_xml_is_refused(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(InputError, match="no annotation of any photo is left"):
        voc_photos(tmp_path, drop="no_xml")


@pytest.mark.parametrize(
    ("change", "kind", "always"),
    [
        ({"category_id": 7}, "unknown_category", True),
        ({"bbox": [1, 2, -3, 4]}, "bad_box", True),
        ({"bbox": [1, 2, float("nan"), 4]}, "bad_box", True),
        ({"bbox": [1, 2, 3]}, "bad_box", True),
        ({"bbox": [1, 2, 1e150, 1e150]}, None, True),
        ({"image_id": 7}, "unknown_image", False),
        ({"bbox": None}, "bad_box", True),
    ],
)
def test_wrong_coco_annotations_are_left_out_or_refused(
    tmp_path: Path, change: dict[str, Any], kind: str | None, always: bool
) -> None:
    write_coco(tmp_path, {"a": [CAT, DOG], "b": [DOG] * 10})
    change_truth(tmp_path, lambda truth: truth["annotations"][0].update(change))
    if not always:
        with pytest.raises(InputError, match=rf"annotations\[0\]: .* {change['image_id']}"):
            coco_photos(tmp_path)
    photos = coco_photos(tmp_path, drop=[] if always else [kind])
    assert [name for name, _ in objects(photos)[0]] == (["dog"] if kind else ["cat", "dog"])
    expected = f"1 left out ({kind}), the first at annotations[0]" if kind else "1 clipped"
    assert expected in photos.notes[0]


def test_broken_json_and_an_empty_data_set_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, {})
    with pytest.raises(InputError, match="no annotation of any photo is left"):
        coco_photos(tmp_path)
    (tmp_path / "annotations/instances_train2017.json").write_text('{"images": [')
    with pytest.raises(InputError, match="no valid JSON"):
        coco_photos(tmp_path)


def test_two_annotations_of_one_photo_are_refused_unless_the_later_may_be_dropped(
    tmp_path: Path,
) -> None:
    write_photo(tmp_path / "voc/a.jpg")
    write_xml(tmp_path / "voc/a.xml", [DOG], SIZE)
    write_xml(tmp_path / "voc/old a.xml", [CAT], f"<filename>a.jpg</filename>{SIZE}")
    write_coco(tmp_path / "coco", {"a": [DOG], "b": [CAT]})
    change_truth(tmp_path / "coco", lambda truth: truth["images"][1].update(file_name="a.jpg"))
    for read, root in ((voc_photos, tmp_path / "voc"), (coco_photos, tmp_path / "coco")):
        with pytest.raises(InputError, match=r"a\.jpg is the photo of an annotation before it too"):
            read(root)
        photos = read(root, drop=["repeated_photo"])
        assert objects(photos) == [[("dog", [0, 1, 10, 20])]]
        assert "1 left out (repeated_photo)" in photos.notes[0]


@everywhere
def test_what_cannot_be_dropped_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(InputError, match="drop: no choice 'outside'; there are "):
        READERS[write](tmp_path, drop="outside")


SIDE = st.floats(-30, 130) | st.sampled_from([-1e300, 0.0, 79.99999999, 80.0, 100.0, 1e300])


@given(st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), max_size=6), st.lists(st.booleans()))
def test_clipping_equals_a_slow_reference(boxes: list[Box], hard: list[bool]) -> None:
    boxes = [(10, 20, 50, 60), *boxes]
    expected, counts = [], {"empty_box": 0, "outside": 0, "beyond_edge": 0}
    for box in boxes:
        limits = (100, 80, 100, 80)
        clipped = [min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)]
        x1, y1, x2, y2 = (float(np.float32(side)) for side in clipped)
        if not (box[0] < box[2] and box[1] < box[3]):
            counts["empty_box"] += 1
        elif not (x1 < x2 and y1 < y2):
            counts["outside"] += 1
        else:
            counts["beyond_edge"] += tuple(clipped) != box
            expected.append([x1, y1, x2, y2])
    found = AnnotatedPhotos(
        source="here",
        names=["a"],
        paths=[Path("a.jpg")],
        image_ids=[1],
        sizes=np.array([[100, 80]]),
        images=np.zeros(len(boxes), dtype=np.int32),
        classes=["dog"],
        labels=np.zeros(len(boxes), dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64),
        difficult=np.zeros(len(boxes), dtype=np.bool_),
    )
    (record,), _, notes = checked_records(found, None)
    assert record.boxes.tolist() == expected
    told = {kind: note for kind in counts for note in notes if f"({kind})" in note}
    assert {kind: int(note.split()[1]) for kind, note in told.items()} == {
        kind: count for kind, count in counts.items() if count
    }


DOCS = (ROOT / "docs" / "data.md").read_text()


def test_the_settings_in_the_commands_of_the_docs_exist() -> None:
    import detect.settings  # noqa: F401  # registers them

    commands = re.findall(r"^python tools/propose\.py (.+)$", DOCS, re.M)
    assert {"data=voc", "data=coco", "data=ilsvrc"} <= set(" ".join(commands).split())
    for command in commands:
        words = shlex.split(command)
        tool = "recall" if words[0] == "recall" else "propose"
        load_config(tool, [word for word in words if "=" in word])


def test_the_docs_tell_of_every_kind_of_wrong_annotation() -> None:
    told = set(re.findall(r"`(\w+)`", DOCS.partition("## What becomes")[2]))
    always = vars(checking).values()
    kinds = {kind.name for kind in (*always, BLACKLISTED) if isinstance(kind, Kind)}
    assert len(kinds) == 7
    assert kinds | {"unknown_class", *VOC_DROP, *COCO_DROP, *ILSVRC_DROP} <= told


def test_the_python_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.+?)^```$", DOCS, re.M | re.S)
    write_voc(tmp_path / "VOC2007", {str(i): [DOG, CAT] for i in range(10)})
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    assert [len(found[name].records) for name in ("train", "held_back", "small")] == [8, 2, 8]
