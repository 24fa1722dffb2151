from __future__ import annotations

import pytest
from hydra.utils import instantiate

from detect.checkpoint import load_checkpoint
from detect.classify_settings import ClassifyConfig
from detect.config import (
    CONFIGS,
    ConfigError,
    build,
    load_config,
    settings_help,
    split_arguments,
    write_yaml,
)
from detect.export_settings import ExportConfig
from detect.multibox_settings import MultiBoxTrainConfig
from detect.reproduce_settings import ReproduceConfig
from detect.score_settings import ScoreConfig
from detect.settings import DetectConfig, ProposeConfig, RecallConfig
from detect.svm import SVMConfig
from detect.train_settings import SoftmaxConfig, TrainConfig
from proposals import Proposer

PROPOSERS = sorted(path.stem for path in (CONFIGS / "proposer").glob("*.yaml"))


@pytest.mark.parametrize("name", PROPOSERS)
def test_every_proposer_can_be_chosen_and_made(name: str) -> None:
    _, plain = load_config("detect", [f"proposer={name}", "proposer.max_boxes=7"])
    proposer = instantiate(plain["proposer"])
    assert isinstance(proposer, Proposer)
    assert proposer.max_boxes == 7


def test_settings_arrive_as_the_dataclasses_of_their_stages() -> None:
    settings, plain = load_config("detect", ["merge.nms_threshold=0.4", "out=some where"])
    assert isinstance(settings, DetectConfig)
    assert settings.merge.nms_threshold == 0.4
    assert settings.out == "some where"
    assert plain["merge"]["nms_threshold"] == 0.4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("merge.nms_treshold=0.4", "did you mean merge.nms_threshold"),
        ("checkpiont=x", "did you mean checkpoint"),
        ("nms_threshold=0.4", "did you mean merge.nms_threshold?"),
        ("zzzzzz=1", "see --help"),
        ("merge.nms_threshold=much", "much"),
        ("merge.nms_threshold=3", "nms_threshold is an IoU, 0 to 1: got 3"),
        ("proposer=fastest", "fastest"),
        ("merge.nms_threshold=[", "merge.nms_threshold=[: "),
    ],
)
def test_wrong_overrides_end_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("detect", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["a=b", "x, [y] {z}", "it's \\ there", "ü: 1", "'quoted'", "1"])
def test_text_settings_need_no_quotes(path: str) -> None:
    settings, _ = load_config("detect", [f"out={path}", "checkpoint=null"])
    assert settings.out == path
    assert settings.checkpoint is None


@pytest.mark.parametrize(
    ("override", "levels"),
    [
        ("pyramid=[0.5,1]", [0.5, 1.0]),
        ("pyramid=1", [1.0]),
        ("pyramid=[]", []),
        ("experiment=fast", [0.3536, 0.5, 0.7071, 1.19]),
    ],
)
def test_levels_are_those_of_classifier_and_multibox(override: str, levels: list[float]) -> None:
    settings, plain = load_config("detect", [override, "proposer=multibox"])
    assert settings.pyramid == levels
    proposer = build("proposer", plain["proposer"])
    assert list(proposer.trunk.factors) == (levels or load_checkpoint().shared.pyramid)


def test_paths_are_told_from_overrides(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jpg").touch()
    arguments = ["photos/x y.jpg", "a=b.jpg", "-", "./c=d.jpg", "out=o", "merge.nms_threshold=0.4"]
    arguments += ["~proposer.seed=1", "ü[1],2.jpg"]
    paths, overrides = split_arguments(arguments)
    assert paths == ["photos/x y.jpg", "a=b.jpg", "-", "./c=d.jpg", "ü[1],2.jpg"]
    assert overrides == ["out=o", "merge.nms_threshold=0.4", "~proposer.seed=1"]
    assert split_arguments([]) == ([], [])


@pytest.mark.parametrize(
    "settings",
    [
        DetectConfig,
        TrainConfig,
        ScoreConfig,
        ProposeConfig,
        RecallConfig,
        ExportConfig,
        MultiBoxTrainConfig,
        ClassifyConfig,
        ReproduceConfig,
    ],
)
def test_help_shows_every_setting_with_its_comment(settings: type) -> None:
    text = settings_help(settings)["template"]
    for line in text.splitlines():
        if "=" in line and line.startswith("  "):
            name, comment = line.split(maxsplit=1)
            assert len(comment) > 5, name
    assert "out=" in text


@pytest.mark.parametrize("tool", ["propose", "recall"])
@pytest.mark.parametrize("name", ["coco", "ilsvrc", "voc"])
def test_every_data_set_can_be_chosen_and_its_settings_given(tool: str, name: str) -> None:
    settings, _ = load_config(tool, [f"data={name}", "data.root=here", "data.split=mine"])
    assert (settings.data["root"], settings.data["split"]) == ("here", "mine")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=voc"], "set data.root=...; --help explains"),
        (["data.root=x", "data=voc", "data.spilt=y"], "did you mean data.split"),
        (["data.root=x", "data=coc"], "data=coc: "),
        (["data.root=x"], "no setting 'data.root'"),
        (["data=voc", "data.root=x", "workers=y"], "workers=y: "),
    ],
)
def test_what_there_is_to_set_depends_on_what_is_chosen(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("propose", overrides)
    assert message in str(caught.value)


def test_lists_are_shown_in_the_help_as_they_are_given() -> None:
    assert "budgets=[100,200,500,1000,2000]" in settings_help(RecallConfig)["template"]


def test_settings_are_written_as_yaml(tmp_path) -> None:
    write_yaml(tmp_path / "run.yaml", {"a": {"b": [1, None]}, "ü": "x: y"})
    assert (tmp_path / "run.yaml").read_text(encoding="utf-8") == (
        "a:\n  b:\n  - 1\n  - null\nü: 'x: y'\n"
    )


@pytest.mark.parametrize(("head", "kind"), [("softmax", SoftmaxConfig), ("svm", SVMConfig)])
def test_the_files_of_heads_hold_the_defaults_of_their_classes(head: str, kind: type) -> None:
    settings, _ = load_config("train", ["out=x", "data.root=x", f"head={head}"])
    assert build("head", settings.head) == kind()
