"""Draw detections into photos: a box in the colour of its class, with name and score on a tag."""

from __future__ import annotations

import colorsys
import importlib.util
import io
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detect.detections import Detections
from detect.files import write_atomically

Canvas = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # half-open x1, y1, x2, y2

# Seven colours that people with any kind of colour blindness tell apart (Okabe & Ito 2008).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
HALO: Colour = (20, 20, 20)
SMALLEST_TEXT = 8  # pixels; smaller letters cannot be read

# Where the bundled font lacks a script, the first of these that is installed and has it.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "PingFang.ttc",
    "Arial Unicode.ttf",
)


def draw_detections(image: Tensor, detections: Detections, score_threshold: float = 0.5) -> Tensor:
    """Draw the detections with at least a score, the best on top.

    Lines and letters grow with the photo. Tags stay inside the photo; where not even a shortened
    name fits, the box stands alone.

    Args:
        image: RGB uint8, ``[3, H, W]``; not changed.
        detections: Boxes in the photo's pixels; parts outside it are not drawn.
        score_threshold: Detections with lower scores are left out.

    Returns:
        The drawn photo, RGB uint8, ``[3, H, W]``.
    """
    canvas = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()).copy()  # [H, W, 3]
    height, width = canvas.shape[:2]
    scale = (height * width) ** 0.5
    line, text_size = max(1.0, scale / 300), max(SMALLEST_TEXT + 2, round(scale / 45))
    shown = detections[detections.scores >= score_threshold].to("cpu")
    shown = shown[shown.scores.argsort(stable=True)]  # best last
    limits = torch.tensor([width, height, width, height])
    boxes: list[Rectangle] = shown.boxes.clamp(torch.zeros(4), limits).tolist()
    colours = [class_colour(label) for label in shown.labels.tolist()]
    visible = [i for i, (x1, y1, x2, y2) in enumerate(boxes) if x1 < x2 and y1 < y2]
    for i in visible:
        _draw_box(canvas, boxes[i], colours[i], line)
    for i in visible:
        tag = _fit_tag(shown.names[i], float(shown.scores[i]), text_size, width, height)
        if tag is not None:
            _draw_tag(canvas, boxes[i], tag, colours[i])
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def class_colour(label: int) -> Colour:
    """Return the RGB colour of a class, 0 to 255; the same in every photo and every run."""
    if label < len(PALETTE):
        return PALETTE[label]
    # Steps of the golden ratio part neighbours; three lightnesses help where hue does not. Start
    # and order make the least difference (CIEDE2000) among the first 21 colours largest.
    hue, lightness = (0.96 + label * 0.618034) % 1.0, (0.7, 0.35, 0.5)[label % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever contrasts more with a background (WCAG luminance)."""
    red, green, blue = ((part / 255) ** 2.2 for part in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)


def encode_jpeg(image: Tensor, quality: int = 90, longest_side: int | None = None) -> bytes:
    """Encode an RGB uint8 image, ``[3, H, W]``, as JPEG; equal images give equal bytes.

    Args:
        image: The image.
        quality: Of the JPEG, 1 to 95.
        longest_side: Shrink larger images to this many pixels.
    """
    picture = Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    if longest_side is not None:
        picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def save_jpeg(path: Path, image: Tensor) -> None:
    """Write an RGB uint8 image, ``[3, H, W]``, as JPEG, atomically."""
    write_atomically(path, encode_jpeg(image))


def _draw_box(canvas: Canvas, box: Rectangle, colour: Colour, line: float) -> None:
    """Draw a frame just inside a box, with a thin dark rim so that no background swallows it."""
    rim = max(1.0, line / 3)
    _fill_frame(canvas, box, line + rim, HALO, 0.5)
    _fill_frame(canvas, box, line, colour, 1.0)


def _fill_frame(
    canvas: Canvas, box: Rectangle, line: float, colour: Colour, opacity: float
) -> None:
    x1, y1, x2, y2 = box
    line = min(line, (x2 - x1) / 2, (y2 - y1) / 2)
    _fill(canvas, (x1, y1, x2, y1 + line), colour, opacity)
    _fill(canvas, (x1, y2 - line, x2, y2), colour, opacity)
    _fill(canvas, (x1, y1 + line, x1 + line, y2 - line), colour, opacity)
    _fill(canvas, (x2 - line, y1 + line, x2, y2 - line), colour, opacity)


def _fill(canvas: Canvas, rectangle: Rectangle, colour: Colour, opacity: float) -> None:
    """Blend a colour into a rectangle; a pixel takes as much of it as the rectangle covers."""
    x1, y1, x2, y2 = rectangle
    columns = np.arange(int(x1), min(int(np.ceil(x2)), canvas.shape[1]))
    rows = np.arange(int(y1), min(int(np.ceil(y2)), canvas.shape[0]))
    if len(columns) == 0 or len(rows) == 0:
        return
    across = np.clip(np.minimum(columns + 1, x2) - np.maximum(columns, x1), 0, 1)  # [w]
    down = np.clip(np.minimum(rows + 1, y2) - np.maximum(rows, y1), 0, 1)  # [h]
    cover = opacity * np.outer(down, across)[..., None]  # [h, w, 1]
    part = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part[:] = np.rint(part * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


def _draw_tag(canvas: Canvas, box: Rectangle, tag: _Tag, colour: Colour) -> None:
    """Write a filled tag above a box, or inside it at the photo's upper edge."""
    height, width = canvas.shape[:2]
    left = min(int(box[0]), width - tag.width)
    top = int(box[1]) - tag.height
    if top < 0:
        top = min(int(box[1]), height - tag.height)
    picture = Image.new("RGB", (tag.width, tag.height), colour)
    ImageDraw.Draw(picture).text((tag.margin, 0), tag.text, text_colour(colour), tag.font)
    canvas[top : top + tag.height, left : left + tag.width] = np.asarray(picture)


class _Tag(NamedTuple):
    """A text that fits a photo, with its surroundings in pixels."""

    text: str
    font: ImageFont.FreeTypeFont
    width: int
    height: int
    margin: int


def _fit_tag(name: str, score: float, size: int, width: int, height: int) -> _Tag | None:
    """Find letters and a text that fit a photo: first smaller letters, then a shorter name."""
    name = " ".join(name.split())  # a line break would leave the tag
    smaller = [(name, letters) for letters in range(size, SMALLEST_TEXT - 1, -1)]
    shorter = [(name[:n] + "…", SMALLEST_TEXT) for n in range(len(name) - 1, 0, -1)]
    for shown, letters in smaller + shorter:
        text = f"{shown} {score:.2f}"
        font = _font(name, letters)
        margin = max(2, letters // 4)
        tag_width = math.ceil(font.getlength(text)) + 2 * margin
        tag_height = sum(font.getmetrics())
        if tag_width <= width and tag_height <= height:
            return _Tag(text, font, tag_width, tag_height, margin)
    return None


@lru_cache(maxsize=512)
def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the first font that has every letter of a text; the bundled one if none has."""
    bundled = ImageFont.load_default(size)
    assert isinstance(bundled, ImageFont.FreeTypeFont)  # Pillow without FreeType is not supported
    if _has_letters(bundled, text):
        return bundled
    for name in (*_matplotlib_fonts(), *SYSTEM_FONTS):
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _has_letters(font, text):
            return font
    return bundled


@lru_cache(maxsize=1)
def _matplotlib_fonts() -> tuple[str, ...]:
    """Find the font that comes with matplotlib, without importing it: Greek, Cyrillic, Arabic."""
    found = importlib.util.find_spec("matplotlib")
    folders = (found.submodule_search_locations or []) if found else []
    return tuple(str(Path(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf")) for folder in folders)


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Tell whether no letter of a text comes out as the sign for a missing one."""
    missing = bytes(font.getmask("\U0010ffff"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text))
