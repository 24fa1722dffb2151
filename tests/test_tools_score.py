from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from detect.detections import Detections
from detect.results import ImageResult, write_results
from detect.score_settings import ScoreConfig

ROOT = Path(__file__).resolve().parent.parent
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>60</xmax>"
    "<ymax>60</ymax></bndbox></object></annotation>"
)
SCRIPT = [str(ROOT / "tools" / "score.py")]
MODULE = ["-m", "tools.score"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


def run_apart(folder: Path, *arguments: str, form: list[str] = SCRIPT) -> Done:
    """Run the tool as people do, from another folder than the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if form is MODULE else os.environ
    process = subprocess.run(
        [sys.executable, *form, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = process.stderr.splitlines()  # that code is compiled is no complaint
    errors = "".join(f"{line}\n" for line in told if not line.startswith("compiling "))
    return Done(process.returncode, process.stdout, errors)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the tool in this process, which has loaded torch already."""

    def run_here(folder: Path, *arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [*SCRIPT, *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        status = 0
        try:
            runpy.run_path(SCRIPT[0], run_name="__main__")
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        return Done(status, *capfd.readouterr())

    return run_here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ground truth of a cat and a dog in three formats, and a run that found only the cat."""
    (tmp_path / "xml").mkdir()
    (tmp_path / "wnid xml").mkdir()
    for name, label, wnid in (("a b", "cat", "n02121808"), ("c", "dog", "n02084071")):
        (tmp_path / "xml" / f"{name}.xml").write_text(XML.format(label))
        (tmp_path / "wnid xml" / f"{name}.xml").write_text(XML.format(wnid))
    (tmp_path / "list.txt").write_text("a b\nc\n")
    (tmp_path / "list_ids.txt").write_text("c 1\na b 2\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "map.txt").write_text("n02084071 1 dog\nn02121808 2 domestic_cat\n")
    truth = {
        "images": [{"id": 8, "file_name": "c.jpg"}, {"id": 9, "file_name": "a b.jpg"}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}],
        "annotations": [
            {"id": 2, "image_id": 9, "category_id": 6, "bbox": [10, 10, 50, 50]},
            {"id": 1, "image_id": 8, "category_id": 5, "bbox": [10, 10, 50, 50]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    classes = ("cat", "dog")
    box = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
    found = Detections(box, torch.tensor([0.75]), torch.tensor([0]), classes)
    results = [ImageResult("a b.jpg", 90, 90, found)]
    write_results(tmp_path / "run", results, classes)
    return tmp_path


def scores_of(folder: Path) -> dict:
    assert sorted(path.name for path in (folder / "scores").iterdir()) == ["scores.json"]
    return json.loads((folder / "scores" / "scores.json").read_text())


def check_half_found(content: dict) -> None:
    """The cat was found, the dog was not."""
    by_name = {found["name"].removeprefix("domestic_"): found for found in content["classes"]}
    assert by_name["cat"]["ap"] == pytest.approx(1)
    assert by_name["dog"]["ap"] == 0
    assert content["mean_ap"] == pytest.approx(0.5)


@pytest.mark.parametrize("form", [SCRIPT, MODULE], ids=["script", "module"])
def test_voc_scores_from_any_folder_in_both_forms(folder: Path, form: list[str]) -> None:
    before = set(folder.iterdir())
    files = ("predictions=run/voc", "annotations=xml", "image_list=list.txt", "classes=names.txt")
    done = run_apart(folder, "format=voc", *files, "out=scores", "voc_metric=2007", form=form)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(folder.iterdir()) - before == {folder / "scores"}  # no outputs/ by surprise
    content = scores_of(folder)
    check_half_found(content)
    assert (content["format"], content["protocol"]) == ("voc", "voc2007-11-points")
    heads = ["id", "name", "ap", "positives", "detections", "true_positives", "false_positives"]
    heads += ["ignored", "recall", "best_f1", "best_threshold"]
    assert list(content["classes"][0]) == heads
    assert "mean AP     0.500" in done.stdout
    assert done.stdout.splitlines()[-1] == "written to scores/scores.json"


def test_coco_scores_a_runs_results_by_name(run: Run, folder: Path) -> None:
    files = ("predictions=run/detections.json", "annotations=instances.json")
    done = run(folder, "format=coco", *files, "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    content = scores_of(folder)
    check_half_found(content)
    assert len(content["stats"]) == 12
    assert "detections.json were matched by name" in done.stdout
    assert "Accumulating" not in done.stdout


def test_ilsvrc_scores_a_runs_results_by_wordnet_id(run: Run, folder: Path) -> None:
    (folder / "run" / "categories.json").write_text(
        '[{"id": 1, "name": "n02121808"}, {"id": 2, "name": "Dog"}]'
    )
    files = ("predictions=run/detections.txt", "annotations=wnid xml", "image_list=list_ids.txt")
    done = run(folder, "format=ilsvrc", *files, "classes=map.txt", "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    check_half_found(scores_of(folder))
    assert "detections.txt were matched by name" in done.stdout


def test_ilsvrc_takes_numbers_as_they_are_without_a_runs_lists(run: Run, folder: Path) -> None:
    (folder / "mine.txt").write_text("2 2 0.75 11 11 60 60\n")
    (folder / "blacklist.txt").write_text("1 n02084071\n")
    files = ("predictions=mine.txt", "annotations=wnid xml", "image_list=list_ids.txt")
    lists = ("classes=map.txt", "blacklist=blacklist.txt")
    done = run(folder, "format=ilsvrc", *files, *lists, "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    content = scores_of(folder)
    assert [found["ap"] for found in content["classes"]] == [None, 1]  # the dog is not judged
    assert content["mean_ap"] == 1
    assert "left out of the mean: dog" in done.stdout
    assert "by name" not in done.stdout


VOC = ("format=voc", "predictions=run/voc", "annotations=xml", "out=scores")
COCO = ("format=coco", "annotations=instances.json", "out=scores")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=coco",), "set predictions=...; --help explains"),
        (("fromat=coco",), "fromat"),
        ((*COCO, "predictions=absent.json"), "absent.json: No such file"),
        ((*COCO, "predictions=cut.json"), "cut.json, line 1, column"),
        ((*VOC, "image_list=list.txt", "classes=owl.txt"), "holds no comp4_det_test_owl.txt"),
        (VOC, "format=voc needs image_list=..., the name of one image a line"),
        ((*COCO[:1], "predictions=a", "out=b"), "format=coco needs annotations=..., the instances"),
        ((*VOC, "image_list=list.txt", "bootstrap=-1"), "bootstrap=-1 seed=0: give numbers from 0"),
        (
            (*VOC, "image_list=list.txt", "report=true", "photos=absent"),
            "photos=absent: is no folder",
        ),
        ((*VOC, "image_list=list.txt", "photos=xml"), "photos=... is for the report; add report"),
        ((*VOC, "image_list=list.txt", "repair=[xyxy]"), "is for format=coco alone"),
        ((*VOC, "image_list=list.txt", "blacklist=list.txt"), "is for format=ilsvrc and clsloc"),
        ((*VOC[:-1], "image_list=list.txt", "out=list.txt/a"), "list.txt is a file; give the name"),
        ((*VOC[:-1], "image_list=list.txt", "out="), "out=: give the name of a folder"),
        (("list.txt",), "list.txt: give settings as name=value"),
        ((*VOC, "image_list=list.txt", "drop=[typo]"), "drop: no choice 'typo'; there are"),
        (
            ("format=png", "predictions=a", "annotations=b", "out=c"),
            "choose one of ilsvrc, coco, voc, clsloc",
        ),
        (
            (*VOC, "image_list=list.txt", "classes=names.txt", "voc_metric=2012"),
            "VOC metric '2012': choose one of 2007, 2010",
        ),
    ],
)
def test_a_wrong_request_ends_with_status_2_and_a_clear_line(
    run: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "owl.txt").write_text("owl\ncat\n")
    (folder / "cut.json").write_text('[{"image_id": 9, "category')
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "scores").exists()


def test_a_misspelt_setting_ends_with_status_2_at_the_prompt_too(folder: Path) -> None:
    done = run_apart(folder, *VOC, "image_lost=list.txt")
    assert done.returncode == 2
    assert "image_lost" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_every_setting(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for setting in fields(ScoreConfig):
        assert f"  {setting.name}=" in done.stdout
    assert "folder or tar archive of XML" in done.stdout


def test_the_devkits_demo_prints_its_means(run: Run, shared_dir: Path, tmp_path: Path) -> None:
    data = shared_dir / "data" / "ilsvrc_det"
    done = run(
        tmp_path,
        "format=ilsvrc",
        f"predictions={data}/demo.val.pred.det.txt.xz",
        f"annotations={data}/ILSVRC2013_DET_bbox_val.tar.xz",
        f"image_list={data}/val.txt",
        f"classes={data}/map_det.txt",
        f"blacklist={data}/ILSVRC2014_det_validation_blacklist.txt",
        "out=scores",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "mean AP 0.590" in lines
    assert "median AP 0.601" in lines
    assert f"{scores_of(tmp_path)['mean_ap']:.4f}" == "0.5901"


def test_a_report_shows_reasons_curves_and_photos(run: Run, folder: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    Image.new("RGB", (90, 90), "navy").save(photos / "c.png")
    files = ("predictions=run/voc", "annotations=xml", "image_list=list.txt", "classes=names.txt")
    extra = ("report=true", "bootstrap=20", "photos=photos")
    done = run(folder, "format=voc", *files, *extra, "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    out = sorted(path.name for path in (folder / "scores").iterdir())
    assert out == ["curves.npz", "curves.png", "curves.svg", "report.html", "scores.json"]
    content = json.loads((folder / "scores" / "scores.json").read_text())
    assert content["bootstrap"] == {"repetitions": 20, "seed": 0, "level": 0.95}
    low, high = content["mean_ap_interval"]
    assert low <= content["mean_ap"] <= high
    assert content["classes"][0]["ap_interval"] == [1, 1]
    assert done.stdout.splitlines()[-1] == "open scores/report.html"
    page = (folder / "scores" / "report.html").read_text()
    assert "data:image/jpeg" in page  # the dog that was missed, on c.png


def test_two_submissions_are_compared_on_the_same_draws(run: Run, folder: Path) -> None:
    (folder / "both").mkdir()
    for name, line in (("cat", "a b 0.75 11 11 60 60\n"), ("dog", "c 0.5 11 11 60 60\n")):
        (folder / "both" / f"comp4_det_test_{name}.txt").write_text(line)
    files = ("annotations=xml", "image_list=list.txt", "predictions=both", "compare=run/voc")
    outs = []
    for out in ("one", "two"):
        done = run(folder, "format=voc", *files, "bootstrap=50", f"out={out}")
        assert (done.returncode, done.stderr) == (0, "")
        outs.append((folder / out / "scores.json").read_bytes())
    assert outs[0] == outs[1]  # the same seed, the same draws
    content = json.loads(outs[0])
    assert content["difference"]["value"] == 0.5
    by_name = {found["name"]: found["difference"] for found in content["classes"]}
    assert (by_name["cat"]["value"], by_name["dog"]["value"]) == (0, 1)
    assert "run/voc has mean AP 0.500: both has +0.500 to it" in done.stdout
    assert content["compared_with"] == "run/voc"
    assert "classes that differ beyond the draws' 95%: dog +1.000" in done.stdout


def test_wrong_predictions_are_named_and_dropped_on_request(run: Run, folder: Path) -> None:
    (folder / "mine.txt").write_text(
        "2 2 0.75 11 11 60 60\n2 9 0.5 1 1 2 2\n1 2 nan 1 1 2 2\n7 x\n"
    )
    files = ("predictions=mine.txt", "annotations=wnid xml", "image_list=list_ids.txt")
    request = ("format=ilsvrc", *files, "classes=map.txt", "out=scores")
    done = run(folder, *request)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line, words in zip(
        lines,
        (
            ("line 4: '7 x' is not 'image_id class_id", "drop=[malformed]"),
            ("line 3: '1 2 nan 1 1 2 2' holds a number that is not finite", "drop=[not_finite]"),
            ("line 2: class id 9 is none of the classes", "drop=[unknown_class]"),
        ),
        strict=True,
    ):
        assert all(word in line for word in ("mine.txt", *words))
    done = run(folder, *request, "drop=[malformed,not_finite,unknown_class]")
    assert done.returncode == 0
    assert done.stdout.count("1 left out") == 3
    check_half_found(scores_of(folder))


def test_everything_wrong_in_all_files_is_told_at_once(run: Run, folder: Path) -> None:
    (folder / "mine.txt").write_text("9 2 0.75 11 11 60 60\n")
    (folder / "list_ids.txt").write_text("c 1\na b 2\nghost 3\n")
    files = ("predictions=mine.txt", "annotations=wnid xml", "image_list=list_ids.txt")
    done = run(folder, "format=ilsvrc", *files, "classes=map.txt", "out=scores")
    assert done.returncode == 2
    assert "ghost.xml is not there" in done.stderr
    assert "image id 9 is not in the image list" in done.stderr


def test_an_empty_submission_scores_zero_and_says_so(run: Run, folder: Path) -> None:
    (folder / "mine.txt").write_text("")
    files = ("predictions=mine.txt", "annotations=wnid xml", "image_list=list_ids.txt")
    done = run(folder, "format=ilsvrc", *files, "classes=map.txt", "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    assert scores_of(folder)["mean_ap"] == 0
    assert "mine.txt: holds no detection" in done.stdout


def test_classification_and_localisation_are_scored(run: Run, folder: Path) -> None:
    (folder / "guesses.txt").write_text("1 11 11 60 60 2 1 1 5 5\n1 1 1 5 5 2 11 11 60 60\n")
    (folder / "truth.txt").write_text("1\n2\n")
    files = ("predictions=guesses.txt", "ground_truth=truth.txt", "annotations=wnid xml")
    lists = ("image_list=order.txt", "classes=map.txt")
    (folder / "order.txt").write_text("c\na b\n")
    done = run(folder, "format=clsloc", *files, *lists, "boxes=true", "out=scores")
    assert (done.returncode, done.stderr) == (0, "")
    content = scores_of(folder)
    assert (content["format"], content["top1_error"], content["top5_error"]) == ("clsloc", 0.5, 0)
    assert content["localisation_error"] == 0
    done = run(folder, "format=clsloc", *files, *lists, "report=true", "out=scores")
    assert "report=True is for format=ilsvrc and coco and voc alone" in done.stderr


def test_coco_ground_truth_with_id_0_is_refused_or_repaired(run: Run, folder: Path) -> None:
    truth = json.loads((folder / "instances.json").read_text())
    for i, annotation in enumerate(truth["annotations"]):
        annotation["id"] = i
    (folder / "zero.json").write_text(json.dumps(truth))
    request = ("format=coco", "annotations=zero.json", "predictions=run/detections.json")
    done = run(folder, *request, "out=scores")
    assert done.returncode == 2
    assert "zero.json, annotations[0]: " in done.stderr
    assert "repair=[annotation_ids]" in done.stderr
    for engine in ("numba", "pycocotools"):
        again = ("repair=[annotation_ids]", f"engine={engine}", "out=scores")
        done = run(folder, *request, *again)
        assert (done.returncode, done.stderr) == (0, "")
        check_half_found(scores_of(folder))
    assert run(folder, *request, "engine=octave", "out=scores").returncode == 2


def test_paths_may_hold_any_sign(run: Run, folder: Path) -> None:
    name = "ü (1), b=[x].txt"
    (folder / name).write_text("2 2 0.75 11 11 60 60\n")
    files = (f"predictions={name}", "annotations=wnid xml", "image_list=list_ids.txt")
    done = run(folder, "format=ilsvrc", *files, "classes=map.txt", "out=~sco/ré s")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "~sco" / "ré s" / "scores.json").is_file()
    done = run(folder, "format=ilsvrc", *files, "classes=map.txt", "out=scores", "drop=malformed")
    assert (done.returncode, done.stderr) == (0, "")
