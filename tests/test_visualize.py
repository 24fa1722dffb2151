from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from detect import visualize
from detect.detections import Detections
from detect.visualize import class_colour, draw_detections

CLASSES = ("person", "Größe ж", "猫", "شخص", "a very long name " * 20, "", "two\nlines")
GREY = 128


def grey(height: int, width: int) -> Tensor:
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = torch.tensor(rows).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long(), CLASSES)


def changed(drawn: Tensor) -> Tensor:
    return (drawn != GREY).any(dim=0)  # [H, W]


def is_colour(drawn: Tensor, label: int) -> Tensor:
    return (drawn == torch.tensor(class_colour(label), dtype=torch.uint8)[:, None, None]).all(dim=0)


@pytest.mark.parametrize(
    "detections",
    [
        Detections.empty(CLASSES),
        found((10, 10, 20, 20, 0.49, 0)),
        found((-9, -9, 0, 5, 0.9, 0), (50, 0, 70, 9, 0.9, 1)),
        found((20, 20, 20, 30, 0.9, 0), (30, 30, 20, 40, 0.9, 0)),
        found((float("nan"), 1, 9, 9, 0.9, 0)),
    ],
)
def test_nothing_to_see_changes_nothing(detections: Detections) -> None:
    image = grey(40, 50)
    drawn = draw_detections(image, detections)
    assert torch.equal(drawn, image)
    assert drawn.data_ptr() != image.data_ptr()


def test_the_given_photo_is_not_changed() -> None:
    image = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)
    before = image.clone()
    drawn = draw_detections(image, found((20, 20, 200, 200, 0.9, 0)))
    assert torch.equal(image, before)
    assert (drawn.shape, drawn.dtype) == (image.shape, torch.uint8)
    assert not torch.equal(drawn, before)


def test_a_frame_lies_just_inside_its_box() -> None:
    drawn = draw_detections(grey(300, 300), found((100, 150, 200, 250, 0.9, 0)))
    coloured = is_colour(drawn, 0)
    inside = torch.zeros(300, 300, dtype=torch.bool)
    inside[150:250, 100:200] = True
    tag = torch.zeros(300, 300, dtype=torch.bool)
    tag[130:150, 100:200] = True
    assert not (changed(drawn) & ~inside & ~tag).any()
    assert coloured[150, 100:200].all() and coloured[249, 100:200].all()
    assert coloured[150:250, 100].all() and coloured[150:250, 199].all()
    assert not changed(drawn)[160:240, 110:190].any()


def test_half_a_pixel_is_drawn_half() -> None:
    drawn = draw_detections(grey(300, 300), found((100.5, 150, 200, 250, 0.9, 0)))[:, 200, 100]
    halo = 0.25 * np.array(visualize.HALO) + 0.75 * GREY
    expected = 0.5 * np.array(class_colour(0)) + 0.5 * np.rint(halo)
    assert np.abs(drawn.numpy() - expected).max() <= 1


def test_the_threshold_is_inclusive() -> None:
    assert changed(draw_detections(grey(40, 50), found((9, 9, 30, 30, 0.5, 0)))).any()
    low = found((9, 9, 30, 30, 0.1, 0))
    assert changed(draw_detections(grey(40, 50), low, score_threshold=0.1)).any()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_best_box_is_on_top(order: tuple[int, int]) -> None:
    both = found((50, 50, 150, 150, 0.9, 0), (50, 50, 150, 150, 0.8, 1))[list(order)]
    drawn = draw_detections(grey(200, 200), both)
    assert is_colour(drawn, 0)[50, 50:150].all()
    assert not is_colour(drawn, 1)[50:150, 50:150].any()


def test_tags_are_not_crossed_by_frames() -> None:
    # The better box's frame runs through the tag of the other.
    other = (60.0, 100.0, 180.0, 190.0, 0.6, 0)
    alone = draw_detections(grey(200, 200), found(other))
    both = draw_detections(grey(200, 200), found(other, (90, 40, 99, 195, 0.9, 5)))
    tag = slice(89, 99), slice(62, 110)
    assert changed(alone)[tag].all()
    assert torch.equal(both[:, *tag], alone[:, *tag])


@pytest.mark.parametrize(
    "box", [(0, 0, 30, 30), (170, 0, 200, 20), (0, 90, 9, 100), (190, 95, 200, 100)]
)
def test_a_tag_stays_in_the_photo_as_a_whole(box: tuple[int, int, int, int]) -> None:
    centre = draw_detections(grey(100, 200), found((60, 50, 90, 80, 0.9, 0)))
    edge = draw_detections(grey(100, 200), found((*box, 0.9, 0)))
    ink = (centre < 60).all(dim=0)[:50].sum()  # the letters, black on orange
    assert ink > 40
    assert (edge < 60).all(dim=0).sum() >= ink


def test_a_tag_without_room_above_its_box_lies_inside() -> None:
    drawn = draw_detections(grey(100, 200), found((50, 5, 150, 90, 0.9, 0)))
    assert not changed(drawn)[:5].any()
    assert changed(drawn)[5:15, 50:90].all()


@pytest.mark.parametrize("label", range(len(CLASSES)))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (9, 60), (12, 400)])
def test_any_name_is_drawn_on_photos_of_any_size(label: int, height: int, width: int) -> None:
    drawn = draw_detections(grey(height, width), found((0, 0, width, height, 0.9, label)))
    assert drawn.shape == (3, height, width)
    assert changed(drawn).any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.lists(st.tuples(*[st.floats(-40, 120, width=32)] * 4, st.integers(0, 6)), max_size=5),
)
def test_no_box_breaks_the_drawing(
    height: int, width: int, rows: list[tuple[float, float, float, float, int]]
) -> None:
    detections = found(*[(*row[:4], 0.9, row[4]) for row in rows])
    drawn = draw_detections(grey(height, width), detections)
    assert drawn.shape == (3, height, width)
    for x1, y1, x2, y2, _ in rows:
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            assert changed(drawn)[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].any()


def test_unnamed_classes_are_numbered() -> None:
    nameless = Detections(
        torch.tensor([[20.0, 30, 60, 70]]), torch.tensor([0.9]), torch.tensor([7])
    )
    assert changed(draw_detections(grey(100, 100), nameless))[20:30, 20:40].any()


def test_lines_and_letters_grow_with_the_photo() -> None:
    def line_width(side: int) -> int:
        box = found((0.1 * side, 0.5 * side, 0.9 * side, 0.9 * side, 0.9, 0))
        return int(is_colour(draw_detections(grey(side, side), box), 0)[int(0.7 * side)].sum()) // 2

    assert line_width(200) == 1
    assert line_width(3000) == 10


def test_colours_differ_and_keep_their_class() -> None:
    colours = [class_colour(label) for label in range(200)]
    assert len(set(colours)) == 200
    assert class_colour(0) == (230, 159, 0)
    nearest = min(
        np.linalg.norm(np.subtract(a, b)) for a, b in itertools.combinations(colours[:7], 2)
    )
    assert nearest > 60


@pytest.mark.parametrize("label", range(200))
def test_names_stand_out_from_their_tag(label: int) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [part / 255 for part in colour]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    background = class_colour(label)
    low, high = sorted((luminance(background), luminance(visualize.text_colour(background))))
    assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA


def test_greek_and_cyrillic_names_have_their_letters() -> None:
    for name in ("Größe", "Ελληνικά", "кошка"):
        assert visualize._has_letters(visualize._font(name, 12), name)


@pytest.mark.parametrize("shape", [(1, 1), (40, 30)])
def test_a_jpeg_comes_back_nearly_the_same(shape: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "drawn" / "a b.jpg"
    image = torch.from_numpy(skimage.data.chelsea()[: shape[0], : shape[1]]).permute(2, 0, 1)
    visualize.save_jpeg(path, image)
    with Image.open(path) as opened:
        pixels = np.asarray(opened)
    assert pixels.shape == (*shape, 3)
    assert np.abs(pixels - image.permute(1, 2, 0).numpy().astype(float)).mean() < 6
    first = path.read_bytes()
    visualize.save_jpeg(path, image)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["a b.jpg"]
