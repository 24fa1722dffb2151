import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from detect.data.voc import read_voc
from proposals import Proposer, SelectiveSearch
from proposals.recall import best_overlaps, recall
from proposals.selective_search import COLOUR_SPACES, PRESETS


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
def test_every_colour_space_gives_three_channels(name: str) -> None:
    image = photo().permute(1, 2, 0).contiguous().numpy()
    colours = COLOUR_SPACES[name](image)
    assert colours.shape == image.shape
    assert colours.dtype == np.uint8


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


def test_another_seed_gives_the_same_boxes_in_another_order() -> None:
    one, two = SelectiveSearch(width=200, seed=1)(photo()), SelectiveSearch(width=200)(photo())
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


BAD_IMAGES: list[tuple[Any, type[Exception]]] = [
    (np.zeros((3, 4, 4), np.uint8), TypeError),
    ("photo.jpg", TypeError),
    (None, TypeError),
    (torch.zeros(3, 4, 4), ValueError),
    (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError),
    (torch.zeros(1, 4, 4, dtype=torch.uint8), ValueError),
    (torch.zeros(3, 0, 4, dtype=torch.uint8), ValueError),
    (torch.zeros(3, 4, 0, dtype=torch.uint8), ValueError),
]


@pytest.mark.parametrize(("image", "error"), BAD_IMAGES)
def test_anything_but_an_rgb_uint8_tensor_is_refused(image: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"image must be a uint8 tensor \[3, H, W\]") as caught:
        SelectiveSearch()(image)
    assert "\n" not in str(caught.value)


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"preset": "fats"}, "fast, googlenet, opencv, quality"),
    ({"colour_spaces": ["hvs"]}, "'hvs'"),
    ({"colour_spaces": []}, "must not be empty"),
    ({"similarities": ["colour+shape"]}, "'shape'"),
    ({"similarities": []}, "no similarity ''"),
    ({"scales": []}, "must not be empty"),
    ({"scales": [(0, 50)]}, "from 1 to"),
    ({"scales": [(10**9, 50)]}, "from 1 to"),
    ({"width": 0}, "width must be"),
    ({"max_boxes": 0}, "max_boxes must be"),
    ({"sigma": 0}, "sigma must be"),
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
