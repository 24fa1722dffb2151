"""tools/classify.py as a user runs it, and the data it reads."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from detect.classify_run import class_ids, judge
from detect.data.imagefolder import image_folder
from detect.data.imagenet import imagenet_names, imagenet_wnids
from detect.data.problems import InputError
from detect.detections import Detections
from detect.files import split_paths
from detect.googlenet import PREPROCESSING, GoogLeNet
from detect.image_classifier import ImageClassifier
from detect.multi_crop import crop_views
from detect.results import ImageResult
from tests.data_trees import write_photo
from tests.test_googlenet import caffe_tensors
from tools import classify as tool

CLASSES = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    for i, name in enumerate(CLASSES):
        for k in range(2):
            write_photo(folder / "photos" / name / f"{k}.jpg", 60 + 9 * i, 50 + k)
    torch.manual_seed(0)
    for seed in (0, 1):
        network = GoogLeNet(3)
        torch.nn.init.normal_(network.fc.weight, std=0.05)
        save_file(caffe_tensors(network), folder / f"{seed}.safetensors")
    return folder


def classify_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["classify.py", *arguments])
    return tool.main()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_classes_is_scored(workplace, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    given = ["data=imagefolder", "data.root=photos", "weights=0.safetensors", "crops=10"]
    assert classify_here(monkeypatch, *given, "out=ten", "precision=float32") == 0
    printed = capsys.readouterr().out
    assert "6 photos (0 done before), 0 skipped" in printed
    rows = rows_of(Path("ten/predictions.csv"))
    assert len(rows) == 6 * 3
    best = [row for row in rows if row["rank"] == "1"]
    right = sum(int(row["right"]) for row in best)
    scores = json.loads(Path("ten/scores.json").read_text())
    assert scores["images"] == 6
    assert scores["top1_error"] == pytest.approx(1 - right / 6)
    assert scores["top5_error"] == 0  # of three classes
    lines = Path("ten/clsloc.txt").read_text().splitlines()
    names = Path("ten/images.txt").read_text().splitlines()
    assert names[0] == "ant/0.jpg"
    assert [sorted(line.split()) for line in lines] == [["1", "2", "3"]] * 6
    total = sum(float(row["probability"]) for row in rows[:3])
    assert total == pytest.approx(1, abs=1e-4)
    assert classify_here(monkeypatch, *given, "out=ten", "precision=float32") == 0
    assert "6 photos (6 done before)" in capsys.readouterr().out
    assert classify_here(monkeypatch, *given[:3], "crops=1", "out=ten") == 2
    assert "overwrite=true" in capsys.readouterr().err


def test_probabilities_are_means_over_views_and_networks(workplace) -> None:
    files = [workplace / "0.safetensors", workplace / "1.safetensors"]
    load = ImageClassifier.load
    both = load(files, crops=10, class_names=CLASSES, precision="float32")
    path = workplace / "photos/bee/0.jpg"
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    views, expected = crop_views(image, 10), []
    from detect.imagenet import load_imagenet

    for file in files:
        network = load_imagenet(file)
        with torch.no_grad():
            expected += [network(PREPROCESSING["paper"](v[None])).softmax(1)[0] for v in views]
    assert torch.allclose(both.probabilities(image), torch.stack(expected).mean(0), atol=1e-5)
    found = both(path)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.boxes[0].tolist() == [0, 0, image.shape[2], image.shape[1]]


def test_paths_and_broken_photos(workplace, monkeypatch, capsys, tmp_path) -> None:
    shutil.copy(workplace / "photos/cow/0.jpg", tmp_path / "a b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"broken")
    network = GoogLeNet(1000)
    save_file(caffe_tensors(network), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    given = ["a b.jpg", "c.jpg", "weights=w.safetensors", "crops=1"]
    assert classify_here(monkeypatch, *given) == 1
    assert "skipped c.jpg: " in capsys.readouterr().out
    rows = rows_of(tmp_path / "classes/predictions.csv")
    assert [row["image"] for row in rows] == ["a b.jpg"] * 5
    assert {row["class"] for row in rows} <= set(imagenet_names())
    assert not (tmp_path / "classes/scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "set weights=...; --help explains"),
        (["weights=0.safetensors"], "give either PATHs or data=imagefolder"),
        (["photos", "weights=0.safetensors", "data=imagefolder", "data.root=photos"], "either"),
        (["photos", "weights=0.safetensors"], "has 3 classes, where 0 are known"),
        (["photos", "weights=9.safetensors"], "9.safetensors: no such weights"),
        (["nowhere", "weights=0.safetensors"], "nowhere"),
        (["data=imagefolder", "data.root=photos", "weights=0.safetensors", "crops=7"], "crops=7"),
        (["data=imagefolder", "data.root=none", "weights=0.safetensors"], "none: no such folder"),
        (["photos", "wieghts=0.safetensors"], "did you mean weights"),
    ],
)
def test_wrong_requests_end_in_one_line(
    workplace, monkeypatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(workplace)
    assert classify_here(monkeypatch, *arguments, "out=wrong") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


def test_folders_named_by_wordnet_ids_are_imagenets_classes(tmp_path) -> None:
    wnids = imagenet_wnids()
    for label in (999, 3):
        write_photo(tmp_path / wnids[label] / "x.jpg")
    photos = image_folder(tmp_path)
    assert photos.labels == [3, 999]
    assert [image.name for image in photos.images] == [f"{wnids[i]}/x.jpg" for i in (3, 999)]
    assert photos.class_names == ()
    (tmp_path / "cats").mkdir()
    with pytest.raises(InputError, match="cats is none of ImageNet's 1000 classes"):
        image_folder(tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_lists_give_names_and_labels(tmp_path, first: int) -> None:
    write_photo(tmp_path / "val 1.jpg")
    write_photo(tmp_path / "b.JPEG", format="JPEG")
    text = f"val 1.jpg {7 + first}\n\nb {imagenet_wnids()[9]}\n"
    (tmp_path / "val.txt").write_text(text)
    for photos in (
        image_folder(tmp_path, first_label=first),
        image_folder(tmp_path / "val.txt", first_label=first),
        image_folder(tmp_path, tmp_path / "val.txt", first_label=first),
    ):
        assert photos.labels == [7, 9]
        assert [image.path.name for image in photos.images] == ["val 1.jpg", "b.JPEG"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a.jpg\n", ":1: 'a.jpg' is no"), ("a.jpg 3\nb.jpg x\n", ":2: 'b.jpg x'"), ("", "no photo")],
)
def test_lists_that_make_no_sense_are_named(tmp_path, text: str, message: str) -> None:
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        image_folder(tmp_path)


def test_folders_without_photos_or_lists_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="has no folder for each class; give a list"):
        image_folder(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(InputError, match="no photo in any of its 1 folders"):
        image_folder(tmp_path)


def test_classes_beyond_the_networks_are_named(workplace, monkeypatch, capsys, tmp_path) -> None:
    write_photo(tmp_path / "a.jpg")
    (tmp_path / "val.txt").write_text("a.jpg 1000\n")
    save_file(caffe_tensors(GoogLeNet(1000)), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    given = ["data=imagefolder", "data.root=.", "weights=w.safetensors"]
    assert classify_here(monkeypatch, *given) == 2
    assert "class 1000 of 1000; if the list counts from 1" in capsys.readouterr().err


def test_tools_that_need_objects_say_so(workplace, monkeypatch, capsys) -> None:
    from tools import propose

    monkeypatch.chdir(workplace)
    given = ["data=imagefolder", "data.root=photos", "out=x.npz"]
    monkeypatch.setattr(sys, "argv", ["propose.py", *given])
    assert propose.main() == 2
    assert "data=imagefolder has no objects; choose voc" in capsys.readouterr().err


def test_errors_are_counted_by_hand() -> None:
    def result(name: str, *labels: int) -> ImageResult:
        found = Detections(
            torch.ones(len(labels), 4), torch.ones(len(labels)), torch.tensor(labels)
        )
        return ImageResult(name, 9, 9, found)

    results = [result("a", 1, 2, 3, 4, 5), result("b", 1, 2, 3, 4, 5), result("c", 9, 8, 7, 6, 5)]
    rates = judge(results, {"a": 1, "b": 5, "c": 1})
    assert (rates.images, rates.top1_error) == (3, pytest.approx(2 / 3))
    assert rates.top5_error == pytest.approx(1 / 3)
    assert str(rates).startswith("3 images, top-1 error 66.67 % (+- 27.22), top-5 error 33.33 %")


def test_ids_are_the_devkits_where_it_is_given(tmp_path) -> None:
    assert class_ids(None, 3) == [1, 2, 3]
    backwards = list(reversed(imagenet_wnids()))
    rows = "".join(f"{wnid} {i} name{i}\n" for i, wnid in enumerate(backwards, start=1))
    (tmp_path / "map.txt").write_text(rows)
    assert class_ids(str(tmp_path / "map.txt"), 1000) == list(range(1000, 0, -1))
    (tmp_path / "map.txt").write_text("n00000000 1 thing\n")
    with pytest.raises(InputError, match="lacks n01440764"):
        class_ids(str(tmp_path / "map.txt"), 1000)


def test_weights_are_split_at_commas_unless_a_file_has_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_paths("a.pth,b.pth") == ["a.pth", "b.pth"]
    Path("a.pth,b.pth").touch()
    assert split_paths("a.pth,b.pth") == ["a.pth,b.pth"]


def test_imagenets_classes_are_a_thousand_different_ones() -> None:
    assert len(set(imagenet_wnids())) == len(set(imagenet_names())) == 1000
    assert list(imagenet_wnids()) == sorted(imagenet_wnids())
    # Known from the BVLC model's synset list: a few places in it.
    places = dict(zip(imagenet_wnids(), imagenet_names(), strict=True))
    assert places["n01440764"] == "tench"
    assert places["n02123045"] == "tabby"
    assert places["n15075141"] == "toilet tissue"


def test_bvlc_knows_a_cat(shared_dir) -> None:
    import skimage

    weights = shared_dir / "weights" / "bvlc_googlenet.safetensors"
    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    for crops in (1, 10):
        found = ImageClassifier.load([weights], crops=crops)(cat)
        assert {"tabby", "tiger cat", "Egyptian cat"} & set(found.names[:2])
