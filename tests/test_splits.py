"""Parts of labelled photos: held back, of a few classes, or simply fewer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detect.data.labelled import LabelledPhotos
from detect.data.problems import InputError
from detect.data.records import Record
from detect.data.splits import first, only_classes, split_randomly

CLASSES = ("ant", "bear", "cat", "dog")


def photos_of(labels: list[list[int]], difficult: list[int] | None = None) -> LabelledPhotos:
    """Make photos that show these classes; all objects of some photos may be difficult."""
    records = [
        Record(
            name=f"ü {i}",
            path=None,
            width=9,
            height=9,
            boxes=torch.arange(4.0 * len(shown)).view(-1, 4),
            labels=torch.tensor(shown, dtype=torch.int64),
            difficult=torch.full((len(shown),), i in (difficult or [])),
            image_id=i + 1,
        )
        for i, shown in enumerate(labels)
    ]
    return LabelledPhotos(records, CLASSES, ["something was left out"])


def names(photos: LabelledPhotos) -> list[str]:
    return [record.name for record in photos.records]


LABELS = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=2, max_size=30)


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_split_parts_the_photos_whatever_their_order(
    labels: list[list[int]], fraction: float, seed: int, shuffler: random.Random
) -> None:
    photos = photos_of(labels)
    try:
        train, held = split_randomly(photos, fraction, seed)
    except InputError as error:
        assert "each has the only object" in str(error)
        assert all(any(sum(k in o for o in labels) == 1 for k in shown) for shown in labels)
        return
    assert sorted(names(train) + names(held)) == sorted(names(photos))
    assert names(train) == [name for name in names(photos) if name not in names(held)]
    assert 1 <= len(held.records) <= max(1, round(fraction * len(labels)))
    assert train.records
    shown = {label for record in train.records for label in record.labels.tolist()}
    assert shown == {label for found in labels for label in found}
    shuffled = replace(photos, records=shuffler.sample(photos.records, len(labels)))
    assert set(names(split_randomly(shuffled, fraction, seed)[1])) == set(names(held))


def test_a_split_takes_its_share_and_another_seed_takes_another() -> None:
    photos = photos_of([[i % 4] for i in range(200)])
    train, held = split_randomly(photos, 0.2, 0)
    assert (len(train.records), len(held.records)) == (160, 40)
    assert (train.class_names, held.class_names) == (CLASSES, CLASSES)
    assert names(split_randomly(photos, 0.2, 0)[1]) == names(held)
    assert len(set(names(split_randomly(photos, 0.2, 1)[1])) & set(names(held))) < 20


def test_the_only_photo_of_a_class_stays_to_be_learned_from() -> None:
    photos = photos_of([[0], [0, 1], [0], [0], [0, 0, 2], [2]], difficult=[5])
    for seed in range(20):  # of class 2 the other object is difficult: nothing to learn from
        train, held = split_randomly(photos, 0.9, seed)
        assert {"ü 1", "ü 4"} <= set(names(train))
        assert len(held.records) == 4


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([], 0.5, "a share 0.5 of 0 photos"),
        ([[0]], 0.5, "a share 0.5 of 1 photos"),
        ([[0], [0]], 0, "a share 0 of 2 photos"),
        ([[0], [0]], 1, "a share 1 of 2 photos"),
        ([[0], [0]], float("nan"), "a share nan of 2 photos"),
        ([[0], [1]], 0.5, "each has the only object of some class"),
    ],
)
def test_what_cannot_be_held_back_is_refused(
    labels: list[list[int]], fraction: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        split_randomly(photos_of(labels), fraction, 0)


def test_few_classes_keep_their_photos_and_objects() -> None:
    photos = photos_of([[0, 3, 1, 3], [0], [], [1]], difficult=[3])
    shown = only_classes(photos, ["dog", "bear"], photos_without=False)
    assert shown.class_names == ("dog", "bear")
    assert names(shown) == ["ü 0", "ü 3"]
    assert shown.records[0].labels.tolist() == [0, 1, 0]
    assert shown.records[0].boxes.tolist() == photos.records[0].boxes[1:].tolist()
    assert shown.records[1].difficult.tolist() == [True]
    note = "2 objects of other classes and 2 photos without the chosen ones left out"
    assert shown.notes == ["something was left out", note]
    every = only_classes(photos, ["dog", "bear"], photos_without=True)
    assert names(every) == names(photos)
    assert [len(record.labels) for record in every.records] == [3, 0, 0, 1]
    assert photos.records[0].labels.tolist() == [0, 3, 1, 3]


@pytest.mark.parametrize("without", [True, False])
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "names no class"),
        (["dogs"], "no class 'dogs'; it has dog, "),
        (["dog", "dog"], "names 'dog' twice"),
        (["cat"], "no photo shows any of the classes cat"),
    ],
)
def test_classes_without_a_photo_are_refused(
    chosen: list[str], message: str, without: bool
) -> None:
    with pytest.raises(InputError, match=message):
        only_classes(photos_of([[0], [3]]), chosen, photos_without=without)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_more_photos_include_fewer(one: int, other: int, seed: int) -> None:
    photos = photos_of([[0]] * 30)
    fewer, more = sorted((one, other))
    drawn = names(first(photos, fewer, seed))
    assert len(drawn) == min(fewer, 30)
    assert set(drawn) <= set(names(first(photos, more, seed)))
    backwards = replace(photos, records=photos.records[::-1])
    assert names(first(backwards, fewer, seed)) == drawn[::-1]


def test_the_first_photos_are_drawn_and_not_the_first_in_the_list() -> None:
    photos = photos_of([[0]] * 100)
    draws = [names(first(photos, 10, seed)) for seed in range(3)]
    assert len({tuple(drawn) for drawn in draws}) == 3
    assert all(drawn != names(photos)[:10] for drawn in draws)
    assert first(photos_of([]), 3, 0).records == []
    with pytest.raises(InputError, match="0 photos: give 1 or more"):
        first(photos, 0, 0)
