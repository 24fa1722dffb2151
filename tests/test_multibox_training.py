from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detect.data.records import Record
from detect.multibox_store import FeatureStore
from detect.multibox_training import (
    LevelShow,
    MultiBoxObjective,
    MultiBoxSamplingConfig,
    PartShow,
    draw_window,
    grid_priors,
    objects_inside,
    whole_priors,
)
from detect.multibox_trunk import WholeImageFeatures
from proposals import MultiBox
from proposals.multibox_loss import MultiBoxLossConfig
from tests.data_trees import write_photo
from tests.test_shared_trunk import small_trunk

PLAIN = MultiBoxSamplingConfig(mirror=False, scale_jitter=0.0, colour_jitter=0.0, variants=2)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    path = write_photo(tmp_path / "a.jpg")
    boxes = torch.tensor([[10.0, 20, 50, 60], [2, 2, 98, 78]])
    none = torch.zeros(2, dtype=torch.bool)
    return Record("a", path, 100, 80, boxes, torch.tensor([0, 1]), none)


def make_objective(
    record: Record, sampling: MultiBoxSamplingConfig, store: FeatureStore | None = None
) -> MultiBoxObjective:
    torch.manual_seed(0)
    trunk = small_trunk(pyramid=[0.6, 1.2], region_side=70)
    records = [record, replace(record, name="b", boxes=record.boxes[:0], labels=record.labels[:0])]
    priors = grid_priors(records, trunk.config, 3, 0)
    return MultiBoxObjective(
        MultiBox(832, priors, hidden=8),
        LevelShow(trunk, sampling),
        records,
        sampling=sampling,
        loss=MultiBoxLossConfig(),
        store=store,
    )


def test_each_object_claims_a_prior_at_one_level(record: Record) -> None:
    show = make_objective(record, PLAIN).show
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    seen = set()
    for seed in range(12):
        shown = show(image, record.boxes, torch.Generator().manual_seed(seed))
        height, width = shown.features.values.shape[-2:]
        seen.add((height, width, tuple(shown.claims.tolist())))
    claims = {claimed for *_, claimed in seen}
    assert len(seen) == 2  # levels
    assert claims == {(True, False), (False, True)}
    assert max(seen)[2] == (True, False)  # the small one at the fine level


def test_priors_have_the_sizes_of_objects_at_their_level(record: Record) -> None:
    trunk = small_trunk(pyramid=[0.6, 1.2], region_side=70)
    priors = grid_priors([record], trunk.config, 5, 0)
    # 96 * 1.2 / 80 pixels of the level for one, 16 to a stride; and 96 * 0.6 / 80.
    expected = sorted([(40 * 1.44 / 16, 40 * 1.44 / 16), (96 * 0.72 / 16, 76 * 0.72 / 16)])
    found = sorted(tuple(row) for row in priors[:, 2:].tolist())
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=0.02)
    whole = whole_priors([record], 5, 0)
    assert torch.allclose(whole[0], torch.tensor([0.0, 0.0, 0.96, 0.95]), atol=1e-6)
    assert torch.allclose(whole[1], torch.tensor([-0.2, 0.0, 0.4, 0.5]), atol=1e-6)


def test_mirrored_photos_have_mirrored_objects(record: Record) -> None:
    sampling = replace(PLAIN, mirror=True, variants=8)
    objective = make_objective(record, sampling)
    found = {tuple(objective.prepare(d, torch.Generator()).objects.flatten().tolist()[:4])
             for d in range(8)}  # fmt: skip
    assert {(10, 20, 50, 60), (50, 20, 90, 60)} <= found


def test_what_is_kept_on_the_disk_changes_nothing(record: Record, tmp_path: Path) -> None:
    sampling = MultiBoxSamplingConfig(variants=2)
    store = FeatureStore(tmp_path / "features", 10**9)
    plain, keeping = make_objective(record, sampling), make_objective(record, sampling, store)
    for draw in (*range(4), *range(4, 8)):  # the second half comes from the disk
        a, b = (o.prepare(draw, torch.Generator()) for o in (plain, keeping))
        assert torch.equal(a.features.values, b.features.values)
        assert (a.features.origin, a.features.stride) == (b.features.origin, b.features.stride)
        assert torch.equal(a.objects, b.objects)
        assert torch.equal(a.claims, b.claims)
        loss, logged = plain.loss(a, torch.Generator())
        assert torch.equal(loss, keeping.loss(b, torch.Generator())[0])
        assert loss.item() == pytest.approx(sum(logged.values()))
    assert len(list((tmp_path / "features").iterdir())) == 4


def test_a_full_store_keeps_no_more_and_a_broken_file_is_made_again(
    record: Record, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path / "f", 10**9)
    objective = make_objective(record, PLAIN, store)
    prepared = objective.prepare(0, torch.Generator())
    [path] = (tmp_path / "f").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    again = objective.prepare(0, torch.Generator())
    assert torch.equal(prepared.features.values, again.features.values)
    small = FeatureStore(tmp_path / "g", 10)
    make_objective(record, PLAIN, small).prepare(0, torch.Generator())
    assert not list((tmp_path / "g").iterdir())


def test_objects_are_cut_to_a_window_and_kept_where_most_is_inside() -> None:
    boxes = torch.tensor([[10.0, 10, 30, 30], [0, 0, 12, 40], [50, 50, 60, 60]])
    inside = objects_inside(boxes, (8, 12, 20, 20))
    assert inside.tolist() == [[10, 12, 28, 30]]
    assert objects_inside(boxes[:0], (0, 0, 9, 9)).shape == (0, 4)


def test_parts_of_photos_lie_inside_them() -> None:
    windows = {draw_window((3, 50), torch.Generator().manual_seed(s)) for s in range(40)}
    assert (0, 0, 50, 3) in windows
    assert len(windows) > 10
    for left, top, width, height in windows:
        assert 0 <= left <= left + width <= 50
        assert 0 <= top <= top + height <= 3
        assert width >= 25


def test_the_form_of_the_first_paper_sees_a_vector_of_a_part(record: Record) -> None:
    trunk = small_trunk()
    show = PartShow(WholeImageFeatures(trunk.network, trunk.preprocessing), PLAIN)
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    shown = show(image, record.boxes, torch.Generator().manual_seed(1))
    assert shown.features.values.shape == (1, 1024, 1, 1)
    assert shown.claims.all()


def test_no_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variants=0"):
        MultiBoxSamplingConfig(variants=0)
