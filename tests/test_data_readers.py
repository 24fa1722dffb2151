from __future__ import annotations

import gzip
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detect.data.annotations import parse_annotation, read_annotations
from detect.data.coco_instances import read_instances
from detect.data.ilsvrc import (
    Synsets,
    read_blacklist,
    read_ilsvrc,
    read_image_list,
    read_synsets,
)
from detect.data.problems import InputError, Problems
from detect.data.sources import read_json, read_lines
from detect.data.voc import VOC_CLASSES, read_voc, read_voc_annotations, read_voc_classes

OBJECT = (
    "<object><name>{name}</name>{extra}<bndbox><ymin>{ymin}</ymin><xmin>{xmin}</xmin>"
    "<ymax>{ymax}</ymax><xmax>{xmax}</xmax></bndbox></object>"
)


def xml_object(name: str, *box: float, extra: str = "") -> str:
    xmin, ymin, xmax, ymax = box
    return OBJECT.format(name=name, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, extra=extra)


def write_voc_tree(root: Path, annotations: dict[str, str], split: str = "train") -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, body in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")
    listed = "".join(f"{name}\n" for name in annotations)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    return root


def pack(folder: Path, archive: Path, mode: str) -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname="some/folder")
    return archive


def test_voc_boxes_become_half_open_and_keep_difficult_and_size(tmp_path: Path) -> None:
    body = (
        "<size><width>50</width><height>40</height></size>"
        + xml_object("dog", 1, 2, 10, 20)
        + xml_object("unicorn", 1, 1, 2, 2)
        + xml_object("cat", 5.5, 6, 5.5, 6, extra="<difficult>1</difficult>")
    )
    root = write_voc_tree(tmp_path, {"a b": body, "empty": ""})
    dog_and_cat, empty = read_voc(root, "train")
    assert dog_and_cat.name == "a b"
    assert dog_and_cat.path == root / "JPEGImages" / "a b.jpg"
    assert (dog_and_cat.width, dog_and_cat.height, dog_and_cat.image_id) == (50, 40, 1)
    assert dog_and_cat.boxes.tolist() == [[0, 1, 10, 20], [4.5, 5, 5.5, 6]]
    assert [VOC_CLASSES[label] for label in dog_and_cat.labels] == ["dog", "cat"]
    assert dog_and_cat.difficult.tolist() == [False, True]
    assert (empty.boxes.shape, empty.labels.shape, empty.difficult.shape) == ((0, 4), (0,), (0,))
    assert (empty.boxes.dtype, empty.labels.dtype) == (torch.float32, torch.int64)
    assert empty.difficult.dtype == torch.bool
    assert (empty.width, empty.height, empty.image_id) == (0, 0, 2)


def test_parts_of_a_person_are_no_objects() -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax>"
    person = xml_object("person", 1, 1, 9, 9, extra=part + "</bndbox></part>")
    xml = f"<annotation>{person}</annotation>".encode()
    objects, size = parse_annotation(xml, "a", Problems("here"))
    assert (objects, size) == ([("person", (1, 1, 9, 9), False)], (0, 0))


def test_voc_classes_are_the_20_in_alphabetical_order() -> None:
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_an_archive_reads_like_its_folder(tmp_path: Path, mode: str, long: bool) -> None:
    bodies = {"a": xml_object("dog", 1, 2, 10, 20), "b c": xml_object("cat", 1, 1, 2, 2), "d": ""}
    if long:  # such names need extensions of the format
        bodies["é" * 60] = xml_object("cat", 1, 1, 9, 9)
    root = write_voc_tree(tmp_path / "voc", bodies)
    image_list = root / "ImageSets" / "Main" / "train.txt"
    archive = pack(root / "Annotations", tmp_path / "annotations.tar", mode)
    from_folder = read_voc_annotations(root / "Annotations", image_list)
    from_archive = read_voc_annotations(archive, image_list)
    for one, other in zip(from_folder, from_archive, strict=True):
        assert (one.name, one.boxes.tolist(), one.labels.tolist()) == (
            other.name,
            other.boxes.tolist(),
            other.labels.tolist(),
        )


def test_a_missing_annotation_is_named_in_folder_and_archive(tmp_path: Path) -> None:
    root = write_voc_tree(tmp_path / "voc", {"a": xml_object("dog", 1, 2, 10, 20)})
    image_list = tmp_path / "list.txt"
    image_list.write_text("a\nghost\n")
    archive = pack(root / "Annotations", tmp_path / "annotations.tar", "w")
    for source in (root / "Annotations", archive):
        with pytest.raises(InputError, match=r"image ghost: ghost\.xml is not there") as error:
            read_voc_annotations(source, image_list)
        assert str(source) in str(error.value)


def test_broken_absent_and_ambiguous_archives_are_named(tmp_path: Path) -> None:
    root = write_voc_tree(tmp_path / "voc", {"a": xml_object("dog", 1, 2, 10, 20)})
    image_list = root / "ImageSets" / "Main" / "train.txt"
    archive = pack(root / "Annotations", tmp_path / "annotations.tar.xz", "w:xz")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(InputError, match=r"annotations\.tar\.xz: no complete tar archive"):
        read_voc_annotations(archive, image_list)
    with pytest.raises(InputError, match=r"absent\.tar: No such file"):
        read_voc_annotations(tmp_path / "absent.tar", image_list)
    twice = tmp_path / "twice.tar"
    with tarfile.open(twice, "w") as tar:
        for folder in ("one", "two"):
            tar.add(root / "Annotations" / "a.xml", arcname=f"{folder}/a.xml")
    with pytest.raises(InputError, match=r"holds a\.xml twice"):
        read_voc_annotations(twice, image_list)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "keeps it from being proper XML"),
        ("<annotation><object>", "keeps it from being proper XML"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
            "keeps it from being proper XML",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>',
            "keeps it from being proper XML",
        ),
        ("<html>404</html>", "<html> is not the root <annotation>"),
        ("<annotation><object></object></annotation>", "has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", "cat at .* is no box"),
        (f"<annotation>{xml_object('cat', 9, 1, 8, 9)}</annotation>", "is no box"),
        (f"<annotation>{xml_object('cat', 1, 1, float('nan'), 9)}</annotation>", "is no box"),
        ("<annotation><size><width>wide</width></size></annotation>", "is no <size>"),
    ],
)
def test_malformed_and_hostile_xml_is_refused(xml: str, message: str) -> None:
    problems = Problems("here")
    for data in (xml.encode(), f'<?xml version="1.0"?>{xml}'.encode(), xml.encode("utf-16")):
        problems = Problems("here")
        parse_annotation(data, "a", problems)
        with pytest.raises(InputError, match=rf"^here, a\.xml: .*{message}"):
            problems.raise_if_any()


def test_the_first_five_bad_files_are_named_and_all_counted(tmp_path: Path) -> None:
    good, bad = xml_object("dog", 1, 2, 10, 20), xml_object("cat", 9, 1, 8, 9)
    root = write_voc_tree(tmp_path, {"a": good} | {f"b{i}": bad for i in range(7)})
    names = ["a", *(f"b{i}" for i in range(7)), "ghost"]
    with pytest.raises(InputError) as error:
        read_annotations(root / "Annotations", names)
    lines = str(error.value).splitlines()
    assert "7 entries" in lines[0] and "the first" in lines[0] and "correct or remove" in lines[0]
    assert [line.split(":")[0] for line in lines[1:6]] == [f"  b{i}.xml" for i in range(5)]
    assert "ghost.xml is not there" in lines[6] and len(lines) == 7
    official = read_annotations(root / "Annotations", names[:-1], any_box=True)
    assert (official.images.tolist()[:2], official.classes[:2]) == ([0, 1], ["dog", "cat"])
    assert official.corners[1].tolist() == [9, 1, 8, 9]


@pytest.mark.parametrize(
    ("listed", "message"),
    [("", ": names no image"), ("a\nb\na\n", ", line 3: 'a' is listed a second time")],
)
def test_bad_voc_lists_are_named(tmp_path: Path, listed: str, message: str) -> None:
    root = write_voc_tree(tmp_path, {"a": xml_object("dog", 1, 2, 10, 20), "b": ""})
    (root / "ImageSets" / "Main" / "bad.txt").write_text(listed)
    with pytest.raises(InputError, match=rf"bad\.txt{message}"):
        read_voc(root, "bad")


def test_a_voc_data_set_without_any_listed_class_is_refused(tmp_path: Path) -> None:
    root = write_voc_tree(tmp_path, {"a": xml_object("dog", 1, 2, 10, 20)})
    with pytest.raises(InputError, match=r"no object of any class \(Dog\)"):
        read_voc(root, "train", class_names=["Dog"])
    assert len(read_voc(root, "train", class_names=["dog"])) == 1


def test_voc_class_lists_hold_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("polar bear\r\ncat\n\n")
    assert read_voc_classes(path) == ("polar bear", "cat")
    for text, message in (("cat\ncat\n", "names the class 'cat' twice"), ("\n", "names no class")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_voc_classes(path)


def test_real_voc_lists_hold_what_is_known_of_them(shared_dir: Path) -> None:
    root = shared_dir / "data" / "voc2007"
    train, val = read_voc(root, "train"), read_voc(root, "val")
    assert (len(train), len(val)) == (2182, 1090)
    assert sum(len(record.labels) for record in train + val) == 10_492
    assert {label for record in train for label in record.labels.tolist()} == set(range(20))
    for record in train[:20]:
        assert record.path is not None
        with Image.open(record.path) as photo:
            assert photo.size == (record.width, record.height)
        assert (record.boxes >= 0).all()
        assert (record.boxes[:, 2] <= record.width).all()
        assert (record.boxes[:, 3] <= record.height).all()


SYNSETS = Synsets(("n01", "n02"), ("ant", "polar bear"))


def test_ilsvrc_records_follow_the_list_and_its_ids(tmp_path: Path) -> None:
    bodies = {"x": xml_object("n02", 3, 4, 7, 9) + xml_object("n01", 1, 1, 1, 1), "y": ""}
    root = write_voc_tree(tmp_path, bodies)
    image_list = tmp_path / "list.txt"
    image_list.write_text("y 7\nx 2\n")
    y, x = read_ilsvrc(root / "Annotations", image_list, SYNSETS)
    assert (y.name, y.image_id, y.boxes.shape) == ("y", 7, (0, 4))
    assert (x.name, x.image_id, x.path) == ("x", 2, None)
    assert x.boxes.tolist() == [[2, 3, 7, 9], [0, 0, 1, 1]]
    assert x.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"x\.xml: 'n02' is an object of a class that"):
        read_ilsvrc(root / "Annotations", image_list, Synsets(("n01",), ("ant",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no image"),
        ("a 1\nb\n", "line 2: 'b' is not 'name id'"),
        ("a 1\nb -2\n", "line 2: 'b -2' is not 'name id'"),
        ("a 1\nb ²\n", "line 2: .* is not 'name id'"),
        ("a 1\nb 0\n", "line 2: 'b' has id 0; image ids are 1-based"),
        ("a 1\nb 1\n", "line 2: 'b', id 1: 'a' has that id too"),
        ("a 1\n\na 2\n", "line 3: 'a' is listed a second time"),
    ],
)
def test_bad_image_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_image_list(path)


def test_image_names_may_hold_spaces_and_any_letter(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffholiday/a b.jpg 2\r\n\n1 3\nä\u2028ö 1\n".encode())
    assert read_image_list(path) == {"holiday/a b.jpg": 2, "1": 3, "ä\u2028ö": 1}


def test_class_lists_read_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text("n02 2 polar bear\nn01 1 ant\n")
    assert read_synsets(path) == SYNSETS
    for text in (
        "n02 2 bear\n",
        "n01 one ant\n",
        "n01 1\n",
        "",
        "n1 1 a\nn1 2 b\n",
        "n 1 a\nm 1 b",
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"map\.txt"):
            read_synsets(path)
    (tmp_path / "meta.mat").write_bytes(b"not MATLAB")
    for name in ("meta.mat", "absent.mat"):
        with pytest.raises(InputError, match=name):
            read_synsets(tmp_path / name)


def test_both_real_class_lists_agree(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "ilsvrc_det"
    matlab, text = read_synsets(folder / "meta_det.mat"), read_synsets(folder / "map_det.txt")
    assert len(matlab.wnids) == 200
    assert matlab.wnids == text.wnids
    assert matlab.names == tuple(name.replace("_", " ") for name in text.names)
    assert (matlab.names[0], matlab.names[199]) == ("accordion", "zebra")


def test_blacklists_are_pairs_of_image_id_and_label(tmp_path: Path, shared_dir: Path) -> None:
    path = tmp_path / "blacklist.txt"
    path.write_text("46 n02\n\n3 n01\n")
    assert read_blacklist(path, SYNSETS) == {(46, 1), (3, 0)}
    for line in ("46", "n02 46", "46 n99", "46 n02 1"):
        path.write_text(f"3 n01\n{line}\n")
        with pytest.raises(InputError, match="line 2"):
            read_blacklist(path, SYNSETS)
    folder = shared_dir / "data" / "ilsvrc_det"
    real = folder / "ILSVRC2014_det_validation_blacklist.txt"
    assert len(read_blacklist(real, read_synsets(folder / "meta_det.mat"))) == 409


def test_real_ilsvrc_ground_truth_holds_what_is_known_of_it(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "ilsvrc_det"
    archive = folder / "ILSVRC2013_DET_bbox_val.tar.xz"
    records = read_ilsvrc(archive, folder / "val.txt", read_synsets(folder / "map_det.txt"))
    assert len(records) == 20_121
    assert sum(len(record.labels) for record in records) == 55_502
    assert sum(not len(record.labels) for record in records) == 1_441
    boxes = torch.cat([record.boxes for record in records]).double()
    w, h = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    assert int((w * h / ((w + 10) * (h + 10)) < 0.5).sum()) == 3_566


def coco_truth() -> dict[str, Any]:
    def annotation(category_id: int, *bbox: float, **extra: Any) -> dict[str, Any]:
        return {"image_id": 5, "category_id": category_id, "bbox": list(bbox), **extra}

    return {
        "images": [
            {"id": 5, "file_name": "sub/a.b.jpg", "width": 60, "height": 50},
            {"id": 2, "file_name": "c.png"},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 4, "name": "ant"}],
        "annotations": [
            annotation(90, 1.5, 2, 10, 20),
            annotation(4, 3, 3, 0, 9),
            annotation(4, 0, 0, 5, 5, iscrowd=1),
        ],
    }


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (("images", 1), {"id": 5}, r"images\[1\]: id 5 occurs before"),
        (("images", 1), {"id": "2"}, r"images\[1\]: id '2'"),
        (("images", 1), {"file_name": None}, r"images\[1\]: file_name None is not a text"),
        (("categories", 1), {"id": 90}, r"categories\[1\]: id 90 occurs before"),
        (("categories", 1), {"id": "4"}, r"categories\[1\]: id '4'"),
        (("annotations", 2), {"image_id": 6}, r"annotations\[2\]: image_id 6 is not the id of an"),
        (("annotations", 2), {"category_id": "4"}, r"annotations\[2\]: category_id '4' is not"),
        (("annotations", 2), {"bbox": [1, 2, 3]}, r"annotations\[2\]: bbox \[1, 2, 3\] is not"),
        (("annotations", 2), {"bbox": [1, 2, float("inf"), 1]}, r"annotations\[2\]: bbox .*inf"),
    ],
)
def test_bad_coco_ground_truth_is_named(
    tmp_path: Path, where: tuple[str, int], change: dict[str, Any], message: str
) -> None:
    truth = coco_truth()
    truth[where[0]][where[1]] |= change
    with pytest.raises(InputError, match=r"instances\.json.*" + message):
        read_instances(write_json(tmp_path / "instances.json", truth))


@pytest.mark.parametrize("content", [[], {}, {"images": [], "annotations": []}, {"images": [1]}])
def test_json_that_is_no_coco_ground_truth_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"instances\.json: "):
        read_instances(write_json(tmp_path / "instances.json", content))


def test_an_empty_coco_data_set_has_no_images_and_no_classes(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    found = read_instances(write_json(tmp_path / "instances.json", empty))
    assert (found.names, found.class_names) == ((), ())


def test_packed_json_reads_like_plain_and_cut_off_json_is_named(tmp_path: Path) -> None:
    text = json.dumps({"a": [1, 2, 3]}, indent=1)
    plain, gz, xz = (tmp_path / f"x.json{suffix}" for suffix in ("", ".gz", ".xz"))
    plain.write_text(text)
    gz.write_bytes(gzip.compress(text.encode()))
    xz.write_bytes(lzma.compress(text.encode()))
    assert read_json(plain) == read_json(gz) == read_json(xz) == {"a": [1, 2, 3]}
    plain.write_text(text[:-5])
    with pytest.raises(InputError, match=r"x\.json, line 5, .*may be cut off"):
        read_json(plain)
    for path in (gz, xz):
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(InputError, match="cannot be unpacked"):
            read_json(path)
    with pytest.raises(InputError, match="No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(InputError, match="Is a directory"):
        read_lines(tmp_path)
