from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from detect.multi_crop import crop_views, squares


def random_image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(1, 3, 5, 7, generator=generator) * 255
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).byte()[0]


def literally(image: torch.Tensor) -> list[torch.Tensor]:
    """The paper's section 7, one view after another."""

    def scale(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return F.interpolate(
            picture[None].float(), size=(height, width), mode="bilinear", antialias=True
        )[0]

    views = []
    for shorter in (256, 288, 320, 352):
        height, width = image.shape[1:]
        if height <= width:
            resized = scale(image, shorter, round(width * shorter / height))
            offsets = [(0, 0), (0, (resized.shape[2] - shorter) // 2)]
            offsets.append((0, resized.shape[2] - shorter))
        else:
            resized = scale(image, round(height * shorter / width), shorter)
            offsets = [(0, 0), ((resized.shape[1] - shorter) // 2, 0)]
            offsets.append((resized.shape[1] - shorter, 0))
        for top, left in offsets:
            square = resized[:, top : top + shorter, left : left + shorter]
            end, middle = shorter - 224, (shorter - 224) // 2
            six = [
                square[:, 0:224, 0:224],
                square[:, 0:224, end:shorter],
                square[:, end:shorter, 0:224],
                square[:, end:shorter, end:shorter],
                square[:, middle : middle + 224, middle : middle + 224],
                scale(square, 224, 224),
            ]
            views += six
            views += [torch.flip(view, (2,)) for view in six]
    return views


@pytest.mark.parametrize("size", [(300, 400), (400, 301), (256, 256), (90, 60), (1, 1)])
def test_144_views_are_the_papers(size: tuple[int, int]) -> None:
    image = random_image(*size)
    views = crop_views(image, 144)
    assert views.shape == (144, 3, 224, 224)
    for view, expected in zip(views, literally(image), strict=True):
        assert torch.equal(view, expected)


def test_ten_views_are_five_and_their_mirrors_and_one_is_the_centre() -> None:
    image = random_image(300, 400)
    ten, every = crop_views(image, 10), crop_views(image, 144)
    assert torch.equal(ten[:5], every[12:17])  # of the centre square at 256
    assert torch.equal(ten[5:], ten[:5].flip(-1))
    assert torch.equal(crop_views(image, 1)[0], ten[4])


@pytest.mark.parametrize("size", [(300, 400), (520, 333)])
def test_resizing_is_pillows_to_a_grey_level(size: tuple[int, int]) -> None:
    image = random_image(*size)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    scale = 256 / min(size)
    width, height = round(size[1] * scale), round(size[0] * scale)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    left, top = (left if width > 256 else 16), (top if height > 256 else 16)
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    view = crop_views(image, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(view - expected).max() < 1.5


@pytest.mark.parametrize("size", [(2, 3000), (3000, 1)])
def test_elongated_images_take_no_more_memory_than_others(size: tuple[int, int]) -> None:
    image = random_image(*size)
    first, centre, last = squares(image, 256)
    shorter = min(size)
    end = image[:, :, -shorter:] if size[1] > size[0] else image[:, -shorter:]
    assert first.shape == centre.shape == last.shape == (3, 256, 256)
    assert last.mean() == pytest.approx(end.float().mean().item(), abs=2)
    assert crop_views(image, 144).shape == (144, 3, 224, 224)


def test_another_number_of_views_is_refused() -> None:
    with pytest.raises(ValueError, match="crops=12: choose one of 1, 10, 144"):
        crop_views(random_image(9, 9), 12)
