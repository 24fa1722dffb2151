"""Decode any image file to RGB with Pillow, and refuse what cannot be decoded in full.

Pillow and not OpenCV, because OpenCV hands out half a JPEG without complaint. What Pillow leaves
to be done stands here: 16-bit grey and float images to 8 bits, transparency over white, check
sums of PNG, names for what is no image, and silence (Pillow warns and libtiff prints).
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Largest image that is decoded, in pixels (600 MB as RGB). The largest phone cameras make 200 MP.
MAX_PIXELS = 200_000_000

# An explicit list, since Pillow would otherwise run Ghostscript on what looks like PostScript.
# AVIF last: a Pillow built without it fails on that name, and only after all others.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")

_TIFF_NEW_SUBFILE_TYPE, _TIFF_PHOTOMETRIC = 254, 262

_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Without any handler Python prints what Pillow logs as an error on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableError(ValueError):
    """The bytes are not an image that can be decoded in full; the message is the reason."""


class SharedContext:
    """A context that the first of overlapping users enters and the last one leaves.

    Process-wide settings are saved and restored in the wrong order when threads overlap.

    Args:
        make_context: Makes the context manager to enter.
    """

    def __init__(self, make_context: Callable[[], AbstractContextManager[None]]) -> None:
        self._make_context = make_context
        self._lock = threading.Lock()
        self._users = 0
        self._stack = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stack.enter_context(self._make_context())
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stack.close()


@contextmanager
def _set_up_pillow() -> Iterator[None]:
    """Silence Pillow's warnings and set its pixel limit to ours."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns above it, and raises above twice it
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard what C libraries print on the standard error file descriptor."""
    try:
        saved = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_pillow_set_up = SharedContext(_set_up_pillow)
stderr_silenced = SharedContext(_silence_stderr)


def decode_image(file: IO[bytes]) -> Image.Image:
    """Decode the first image of an open file, upright, as RGB.

    Animations give their first frame, multi-page files their first page. Bytes after the end of
    the image are ignored. Damage inside the pixel data shows only in formats with a check sum or
    an end mark (JPEG, PNG, GIF); a file that merely ends too early is refused in every format.

    Args:
        file: A binary file that can seek, at its start.

    Returns:
        A loaded image of mode ``RGB``.

    Raises:
        UndecodableError: For anything else than a complete image of a known format, of at most
            ``MAX_PIXELS`` pixels; the message says what was found.
    """
    with _pillow_set_up:
        try:
            return convert_to_rgb(_open(file))
        except UndecodableError:
            raise
        except UnidentifiedImageError:
            file.seek(0)
            raise UndecodableError(_name_unknown(file.read(512))) from None
        except Image.DecompressionBombError:
            megapixels = MAX_PIXELS // 10**6
            raise UndecodableError(f"more than {megapixels} megapixels: make it smaller") from None
        except Exception as error:  # on damaged files Pillow raises nearly every type there is
            raise UndecodableError(f"damaged or cut off ({_first_line(error)})") from error


def read_upright_size(file: IO[bytes]) -> tuple[int, int]:
    """Return width and height of the image that ``decode_image`` would make, from the header.

    Raises:
        UndecodableError: If it is no image of a known format, or too large.
    """
    with _pillow_set_up:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            file.seek(0)
            raise UndecodableError(_name_unknown(file.read(512))) from None
        except Exception as error:  # as above
            raise UndecodableError(_first_line(error)) from error
        if not image.width or not image.height:
            raise UndecodableError(f"no pixels: its size is {image.width} x {image.height}")
        turned = _orientation(image) >= 5 and image.format != "TIFF"  # whose size Pillow turns
        return (image.height, image.width) if turned else image.size


def _open(file: IO[bytes]) -> Image.Image:
    """Open and load an image file, with the checks that Pillow does not make itself."""
    image = Image.open(file, formats=FORMATS)
    if image.format == "PNG":
        image.verify()  # decoding alone skips the check sums of the pixel data
        file.seek(0)
        image = Image.open(file, formats=("PNG",))
    if image.format != "TIFF":
        image.load()
        return image
    if _tiff_tag(image, _TIFF_NEW_SUBFILE_TYPE, 0) & 1:
        raise UndecodableError(
            "its first picture is only a preview (a camera's raw file?): export it as JPEG or TIFF"
        )
    with stderr_silenced:  # libtiff prints its errors
        image.load()
    return image


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Bring a Pillow image of any mode to upright RGB.

    Transparent pixels are laid over white. 16-bit values keep their upper 8 bits. CMYK is
    converted without a colour profile, and a CMYK JPEG is taken as inverted, as Adobe writes it
    and as browsers and OpenCV read it.

    Args:
        image: An image of any mode but ``LAB`` and ``HSV``; float and 32-bit values must reach
            from black to one of the usual white levels, 1, 255 or 65535.

    Returns:
        An image of mode ``RGB``, turned as its EXIF orientation says.

    Raises:
        UndecodableError: If the mode or the range of values is not supported, or a side is 0.
    """
    image.load()
    if not image.width or not image.height:
        raise UndecodableError(f"no pixels: its size is {image.width} x {image.height}")
    transpose = _TRANSPOSE_BY_ORIENTATION.get(_orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey_to_8_bits(image)
    elif image.mode in ("LAB", "HSV"):
        raise UndecodableError(f"{image.mode} colours are not supported: save it as RGB")
    if image.has_transparency_data:
        image = _lay_over_white(image)
    rgb = image.convert("RGB")
    return rgb if transpose is None else rgb.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where the EXIF data is missing or damaged."""
    try:  # the base class's method: PNG's own decodes the pixels for what may stand behind them
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data is no reason to refuse intact pixels
        return 1


def _lay_over_white(image: Image.Image) -> Image.Image:
    """Replace transparency by white."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of a 16-bit PNG, which Pillow cuts to 8 bits
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey values to 8 bits, and invert where zero is white."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        grey = (values >> 8).astype(np.uint8)  # as Pillow does for 16-bit colour
    else:
        grey = np.rint(values * (255 / _white_level(values))).astype(np.uint8)
    white_is_zero = image.format == "TIFF" and _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey)


def _white_level(values: np.ndarray) -> int:
    """Guess the value of white where the format does not fix it; refuse to guess wildly.

    A level counts only when the brightest pixel reaches a sixteenth of it: floats up to 1.1 are
    hardly a black picture on a scale to 255.
    """
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return 1
    for white in (255, 65535):
        if low >= 0 and white / 16 < high <= white:
            return white
    raise UndecodableError(
        f"its values {low:.6g} to {high:.6g} fit no white level (1, 255, 65535): "
        "save it with 8 or 16 bits"
    )


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return an integer tag of a TIFF image."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, int) else default


def _first_line(error: Exception) -> str:
    """Shorten an exception to one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_KNOWN_STARTS = (
    (b"\xff\xd8", "a JPEG file that is damaged or cut off"),
    (b"\x89PNG", "a PNG file that is damaged or cut off"),
    (b"GIF8", "a GIF file that is damaged or cut off"),
    (b"RIFF", "a WebP file that is damaged or cut off, or a film or sound file"),
    (b"II*\0", "a TIFF file that is damaged, cut off or of a rare kind: save it with 8 bits"),
    (b"MM\0*", "a TIFF file that is damaged, cut off or of a rare kind: save it with 8 bits"),
    (b"BM", "a BMP file that is damaged or cut off"),
    (b"\xff\x0a", "a JPEG XL file, which is not supported: save it as JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file, which is not supported: save it as JPEG or PNG"),
    (b"%PDF", "a PDF file, not an image: export its pages as PNG"),
    (b"%!PS", "a PostScript file, not an image: export it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself: run `git lfs pull`"),
)


def _name_unknown(start: bytes) -> str:
    """Say what a file is whose first bytes Pillow does not know."""
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
            return "a HEIC file, which is not supported: save it as JPEG"
        if brand in (b"avif", b"avis"):
            return "an AVIF file that is damaged, cut off or not supported by this Pillow"
        return "a video or a camera's raw file, not an image"
    for known, name in _KNOWN_STARTS:
        if start.startswith(known):
            return name
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG drawing, which is not supported: export it as PNG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image (a failed download?)"
    return "not an image (JPEG, PNG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000 or AVIF)"
