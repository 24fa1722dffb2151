"""What the HTML pages share: their templates' environment, and how text and numbers are put."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def load_template(name: str) -> Template:
    """Load a template that lies beside this module; it escapes whatever is put into it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["plural"] = plural
    return environment.get_template(name)


def plural(count: int, word: str) -> str:
    """Write a count and what is counted: ``1 photo``, ``2,000 photos``, ``2 classes``."""
    ending = "" if count == 1 else "es" if word.endswith("s") else "s"
    return f"{count:,} {word}{ending}"


def valid_text(text: str) -> str:
    """Replace what is no valid text: names of photos may be any bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def jpeg_address(jpeg: bytes) -> str:
    """Return a JPEG as a ``data:`` address, so that a page needs no file beside it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with so many decimals, and ``-`` where it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Write a difference with its sign and three decimals, and ``-`` where it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:+.3f}"


def percent(share: float | None) -> float:
    """Return a share as a length of CSS: from 0 to 100, with two decimals."""
    if share is None or math.isnan(share):
        return 0.0
    return round(100 * min(max(share, 0.0), 1.0), 2)


def place_box(box: Sequence[float], region: Sequence[float]) -> dict[str, float]:
    """Return where a box lies in a region, in per cent of its sides, cut at its edges.

    Args:
        box: Half-open ``x1, y1, x2, y2``.
        region: Likewise, what the picture shows.
    """
    width, height = region[2] - region[0], region[3] - region[1]
    left, right = percent((box[0] - region[0]) / width), percent((box[2] - region[0]) / width)
    top, bottom = percent((box[1] - region[1]) / height), percent((box[3] - region[1]) / height)
    return {
        "left": left,
        "top": top,
        "width": round(right - left, 2),
        "height": round(bottom - top, 2),
    }
