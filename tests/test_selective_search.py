import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from detect.data.voc import read_voc
from proposals import Proposer, SelectiveSearch
from proposals.colour import COLOUR_SPACES
from proposals.recall import best_overlaps, recall
from proposals.selective_search import ORDERS, PRESETS


def photo(height: int = 120, width: int = 160, seed: int = 0) -> Tensor:
    """Draw noisy rectangles on a noisy background."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 100.0)
    for _ in range(8):
        y, x = rng.integers(height), rng.integers(width)
        image[y : y + height // 3, x : x + width // 4] = rng.integers(0, 256, 3)
    image += rng.normal(0, 6, image.shape)
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def check_boxes(boxes: Tensor, height: int, width: int) -> None:
    assert boxes.dtype == torch.float32
    assert boxes.shape == (len(boxes), 4)
    x1, y1, x2, y2 = boxes.unbind(-1)
    assert (x1 >= 0).all() and (y1 >= 0).all()
    assert (x2 <= width).all() and (y2 <= height).all()
    assert (x2 > x1).all() and (y2 > y1).all()
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert [0, 0, width, height] in boxes.tolist()


SIZES = [(1, 1), (1, 40), (40, 1), (1, 5000), (5000, 1), (2, 3), (19, 19), (120, 160), (700, 90)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("search_width", [100, None])
def test_boxes_lie_inside_images_of_any_shape(
    height: int, width: int, search_width: int | None
) -> None:
    boxes = SelectiveSearch(width=search_width)(photo(height, width))
    check_boxes(boxes, height, width)


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_constant_image_has_one_proposal(value: int) -> None:
    image = torch.full((3, 30, 50), value, dtype=torch.uint8)
    assert SelectiveSearch()(image).tolist() == [[0, 0, 50, 30]]


def test_grey_images_work() -> None:
    boxes = SelectiveSearch("quality", width=100)(photo()[:1].expand(3, -1, -1))
    check_boxes(boxes, 120, 160)
    assert len(boxes) > 20


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_proposes_boxes_of_the_original_image(preset: str) -> None:
    search = SelectiveSearch(preset, width=200)
    check_boxes(search(photo()), 120, 160)
    assert len(search(photo())) > 10


@pytest.mark.parametrize("name", COLOUR_SPACES)
def test_every_colour_space_gives_channels_of_bytes(name: str) -> None:
    image = photo().permute(1, 2, 0).contiguous().numpy()
    colours = COLOUR_SPACES[name](image)
    assert colours.shape == (*image.shape[:2], 1 if name in ("h", "i") else 3)
    assert colours.dtype == np.uint8
    check_boxes(SelectiveSearch(width=100, colour_spaces=[name])(photo()), 120, 160)


def test_a_rectangle_on_plain_ground_is_found() -> None:
    image = torch.full((3, 100, 200), 40, dtype=torch.uint8)
    image[0, 30:70, 60:140] = 220
    boxes = SelectiveSearch(width=200)(image)
    (overlaps,) = best_overlaps(boxes, torch.tensor([[60.0, 30, 140, 70]]))
    assert overlaps.item() > 0.9


def test_the_same_seed_gives_the_same_boxes_in_every_thread() -> None:
    images = [photo(seed=i) for i in range(4)] * 4
    search = SelectiveSearch(width=200)
    expected = [search(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for boxes, reference in zip(threads.map(search, images), expected, strict=True):
            assert torch.equal(boxes, reference)


def test_the_result_does_not_depend_on_earlier_images() -> None:
    search = SelectiveSearch(width=200)
    first = search(photo())
    search(photo(seed=1))
    torch.rand(3)
    assert torch.equal(search(photo()), first)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("order", ORDERS)
def test_threads_change_nothing(preset: str, order: str) -> None:
    one = SelectiveSearch(preset, width=120, order=order)(photo())
    for threads in (2, 5):
        search = SelectiveSearch(preset, width=120, order=order, threads=threads)
        assert torch.equal(search(photo()), one)


def test_another_seed_gives_the_same_boxes_in_another_order() -> None:
    one, two = (SelectiveSearch(width=200, order="rcnn", seed=i)(photo()) for i in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(one.unique(dim=0), two.unique(dim=0))


def test_both_orders_have_the_same_boxes() -> None:
    one, two = (SelectiveSearch(width=200, order=order)(photo()) for order in ORDERS)
    assert not torch.equal(one, two)
    assert torch.equal(one.unique(dim=0), two.unique(dim=0))


@pytest.mark.parametrize("max_boxes", [1, 10, 10**6])
def test_max_boxes_keeps_the_best(max_boxes: int) -> None:
    boxes = SelectiveSearch(width=200)(photo())
    kept = SelectiveSearch(width=200, max_boxes=max_boxes)(photo())
    assert torch.equal(kept, boxes[:max_boxes])
    assert len(kept) >= 1


def test_boxes_are_at_least_min_side_in_the_resized_image() -> None:
    sides = [
        (boxes[:, 2:] - boxes[:, :2]).min().item()
        for boxes in (SelectiveSearch(width=320, min_side=m)(photo()) for m in (1, 40))
    ]
    assert sides[0] < 20
    assert sides[1] >= 20 - 1e-3  # 40 pixels at twice the size


def test_boxes_scale_with_the_image() -> None:
    small = photo()
    large = small.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    search = SelectiveSearch(width=160)
    assert torch.allclose(search(large), 2 * search(small))


def test_settings_replace_those_of_the_preset() -> None:
    image = photo()
    whole = SelectiveSearch("googlenet", width=200)
    spelled_out = SelectiveSearch(
        "quality",
        width=200,
        colour_spaces=whole.colour_spaces,
        scales=[list(scale) for scale in whole.scales],  # type: ignore[misc]  # as from a config
        similarities=whole.similarities,
    )
    assert torch.equal(whole(image), spelled_out(image))
    assert len(SelectiveSearch(width=200, colour_spaces=["lab"])(image)) < len(
        SelectiveSearch(width=200)(image)
    )


def test_a_search_survives_pickling() -> None:
    search = SelectiveSearch("googlenet", width=200, max_boxes=50, seed=3)
    copy = pickle.loads(pickle.dumps(search))
    assert repr(copy) == repr(search)
    assert torch.equal(copy(photo()), search(photo()))


def test_the_image_is_left_alone_and_may_be_a_view() -> None:
    image = photo()
    before = image.clone()
    assert torch.equal(
        SelectiveSearch(width=200)(image), SelectiveSearch(width=200)(image.contiguous())
    )
    assert torch.equal(image, before)


def test_selective_search_is_a_proposer() -> None:
    assert isinstance(SelectiveSearch(), Proposer)


def forms() -> list[Tensor | NDArray[Any]]:
    """Return one image in every form that is understood."""
    tensor = photo()
    array = tensor.permute(1, 2, 0).numpy()
    return [tensor, array, np.asfortranarray(array), tensor / 255, array / 255, array / 255.0]


@pytest.mark.parametrize("form", range(6))
def test_every_form_of_an_image_gives_the_same_boxes(form: int) -> None:
    search = SelectiveSearch(width=200)
    assert torch.equal(search(forms()[form]), search(photo()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_every_size_are_understood(dtype: torch.dtype) -> None:
    check_boxes(SelectiveSearch(width=200)((photo() / 255).to(dtype)), 120, 160)


def test_grey_images_are_rgb_images_of_equal_channels() -> None:
    search = SelectiveSearch(width=200)
    grey = photo()[:1]
    expected = search(grey.expand(3, -1, -1))
    array = grey[0].numpy()
    for form in (grey, grey[0], array, array[..., None], array / np.float32(255)):
        assert torch.equal(search(form), expected)


BAD_IMAGES: list[tuple[Any, type[Exception], str]] = [
    ("photo.jpg", TypeError, "got str"),
    (None, TypeError, "got NoneType"),
    ([[1, 2]], TypeError, "got list"),
    (np.zeros((3, 4, 5), np.uint8), ValueError, "got an array [3, 4, 5] of uint8"),
    (np.zeros((4, 4, 4), np.uint8), ValueError, "got an array [4, 4, 4] of uint8"),
    (np.zeros(4, np.uint8), ValueError, "got an array [4] of uint8"),
    (np.zeros((4, 4, 3), np.uint16), ValueError, "of uint16"),
    (np.zeros((4, 4, 3), np.int64), ValueError, "of int64"),
    (np.zeros((4, 4, 3), bool), ValueError, "of bool"),
    (np.zeros((4, 4, 3), complex), ValueError, "of complex128"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, "got an array [0, 4, 3]"),
    (np.full((4, 4, 3), 200.0), ValueError, "from 200 to 200"),
    (np.full((4, 4, 3), -0.1), ValueError, "from -0.1 to -0.1"),
    (np.full((4, 4, 3), np.nan), ValueError, "from nan to nan"),
    (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, "got a tensor [4, 4, 3] of uint8"),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError, "got a tensor [1, 3, 4, 4]"),
    (torch.zeros(3, 0, 4, dtype=torch.uint8), ValueError, "got a tensor [3, 0, 4]"),
    (torch.zeros(3, 4, 0, dtype=torch.uint8), ValueError, "got a tensor [3, 4, 0]"),
    (torch.zeros(3, 4, 4, dtype=torch.int32), ValueError, "of int32"),
]


@pytest.mark.parametrize(("image", "error", "message"), BAD_IMAGES)
def test_anything_else_is_refused_in_one_line(
    image: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        SelectiveSearch()(image)
    assert "image must be an RGB or grey image" in str(caught.value)
    assert "\n" not in str(caught.value)


def draw(kind: str, height: int, width: int, seed: int) -> NDArray[Any]:
    """Make an image of a kind that has broken searches."""
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(256), np.uint8)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "grey":
        return rng.integers(0, 256, (height, width)).astype(np.uint8)
    if kind == "float":
        return rng.random((height, width, 3)).astype(np.float32)
    if kind == "ramp":
        shades = np.linspace(0, 255, height * width).astype(np.uint8)
        return shades.reshape(height, width, 1).repeat(3, axis=2)
    checks = np.indices((height, width)).sum(axis=0) % 2 * 255
    return checks.astype(np.uint8)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["flat", "noise", "grey", "float", "ramp", "checks"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.sampled_from([(1, 3000), (3000, 1), (2, 999), (999, 2)]),
    preset=st.sampled_from(["fast", "opencv", "quality"]),
    options=st.fixed_dictionaries(
        {
            "width": st.sampled_from([None, 1, 30, 64]),
            "connectivity": st.sampled_from([4, 8]),
            "exact": st.booleans(),
            "order": st.sampled_from(ORDERS),
            "min_side": st.sampled_from([1, 20]),
            "sigma": st.sampled_from([0, 0.8]),
        }
    ),
    seed=st.integers(0, 1000),
)
def test_no_image_breaks_the_search(
    kind: str, size: tuple[int, int], preset: str, options: dict[str, Any], seed: int
) -> None:
    search = SelectiveSearch(preset, **options)
    check_boxes(search(draw(kind, *size, seed)), *size)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["noise", "ramp", "checks"]),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    exact=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_region_trees_hold_together(
    kind: str, size: tuple[int, int], exact: bool, seed: int
) -> None:
    search = SelectiveSearch(width=None, scales=[(50, 5), (200, 1)], exact=exact)
    trees = search.region_trees(draw(kind, *size, seed))
    ways = [(t.colour_space, t.scale, t.similarity) for t in trees]
    assert ways == [*product(search.colour_spaces, search.scales, search.similarities)]
    for tree in trees:
        assert len(tree) == 2 * tree.num_initial - 1 == len(tree.levels) == len(tree.boxes)
        assert tree.mask(len(tree) - 1).all()
        assert tree.levels[: tree.num_initial].max() == 0
        for region in range(0, len(tree), 7):
            mask = tree.mask(region)
            rows, columns = np.nonzero(mask)
            assert tree.sizes[region] == mask.sum()
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert tree.boxes[region].tolist() == box
            parts = np.flatnonzero(tree.parents == region)
            if len(parts):
                assert (mask == (tree.mask(parts[0]) ^ tree.mask(parts[1]))).all()
                assert tree.levels[region] == 1 + tree.levels[parts].max()
        assert (tree.cut(tree.num_initial) == tree.labels).all()
        for count in range(1, tree.num_initial + 1, 5):
            assert len(np.unique(tree.cut(count))) == count


def test_questions_that_a_tree_cannot_answer_are_refused() -> None:
    tree = SelectiveSearch(width=100).region_trees(photo())[0]
    with pytest.raises(IndexError, match=f"no region {len(tree)}"):
        tree.mask(len(tree))
    with pytest.raises(ValueError, match=f"from 1 to {tree.num_initial}: got 0"):
        tree.cut(0)


def test_boxes_come_from_the_trees() -> None:
    search = SelectiveSearch(width=None, min_side=1)
    boxes = np.concatenate([tree.boxes for tree in search.region_trees(photo())])
    expected = torch.from_numpy(np.unique(boxes, axis=0)).float()
    assert torch.equal(search(photo()).unique(dim=0), expected)


@pytest.mark.parametrize("options", [{"exact": True}, {"connectivity": 8}, {"sigma": 0}])
def test_segmentation_settings_matter(options: dict[str, Any]) -> None:
    usual = SelectiveSearch(width=200)(photo())
    other = SelectiveSearch(width=200, **options)(photo())
    check_boxes(other, 120, 160)
    assert not torch.equal(usual.unique(dim=0), other.unique(dim=0))


def test_weights_of_similarities_matter() -> None:
    usual, same, other = (
        SelectiveSearch(width=200, similarities=[s])(photo())
        for s in ("colour+fill", "fill+1.0*colour", "colour+5*fill")
    )
    assert torch.equal(usual, same)
    assert not torch.equal(usual.unique(dim=0), other.unique(dim=0))


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"preset": "fats"}, "fast, googlenet, opencv, quality"),
    ({"colour_spaces": ["hvs"]}, "'hvs'"),
    ({"colour_spaces": []}, "must not be empty"),
    ({"similarities": ["colour+shape"]}, "'shape'"),
    ({"similarities": []}, "must not be empty"),
    ({"similarities": [""]}, "no similarity ''"),
    ({"scales": []}, "must not be empty"),
    ({"scales": [(0, 50)]}, "from 1 to"),
    ({"scales": [(10**9, 50)]}, "from 1 to"),
    ({"width": 0}, "width must be"),
    ({"max_boxes": 0}, "max_boxes must be"),
    ({"sigma": -1}, "sigma must be"),
    ({"sigma": float("nan")}, "sigma must be"),
    ({"threads": 0}, "threads must be 1 or more: got 0"),
    ({"min_side": 0}, "min_side must be 1 or more: got 0"),
    ({"connectivity": 6}, "connectivity must be 4 or 8: got 6"),
    ({"order": "random"}, "order must be one of evidence, rcnn: got 'random'"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveSearch(**settings)


def test_photos_are_covered(shared_dir: Path) -> None:
    search = SelectiveSearch()
    overlaps = []
    for record in read_voc(shared_dir / "data" / "voc2007", "train")[:12]:
        pixels = np.asarray(cv2.imread(str(record.path)))[..., ::-1].copy()  # BGR
        boxes = search(torch.from_numpy(pixels).permute(2, 0, 1))
        overlaps.append(best_overlaps(boxes, record.boxes)[0])
    assert recall(torch.cat(overlaps)).item() > 0.85
