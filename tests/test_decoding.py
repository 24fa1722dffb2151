"""read_image on every kind of file: what is known must come out, and nothing half-read."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from detect import decoding
from detect.images import ImageError, read_image

HEIGHT, WIDTH = 40, 60
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
# Smooth enough for lossy formats, and different in every corner and channel.
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.linspace(0, 250, WIDTH)[None, :], np.linspace(0, 250, HEIGHT)[:, None], 90.0
    ),
    axis=-1,
).astype(np.uint8)
GREY_16 = (np.arange(HEIGHT * WIDTH, dtype=np.uint32) * 27).astype(np.uint16).reshape(HEIGHT, WIDTH)


def encode(array: np.ndarray, format: str, mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def encode_tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def encode_cv2(suffix: str, array: np.ndarray) -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def encode_interlaced_png(array: np.ndarray) -> bytes:
    """RGB, Adam7, every row with filter 0."""
    height, width = array.shape[:2]
    rows = b""
    for y, x, dy, dx in (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in array[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def write_and_read(tmp_path: Path, data: bytes, name: str = "image") -> np.ndarray:
    path = tmp_path / name
    path.write_bytes(data)
    image = read_image(path)
    assert image.dtype.is_floating_point is False and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def reason_for(tmp_path: Path, data: bytes, name: str = "image") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason


LOSSLESS: dict[str, bytes] = {
    "png": encode(NOISE, "PNG"),
    "png interlaced": encode_interlaced_png(NOISE),
    "png alpha full": encode(NOISE, "PNG", "RGBA"),
    "webp": encode(NOISE, "WEBP", lossless=True),
    "webp animated": encode(
        NOISE,
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=[Image.fromarray(NOISE[::-1].copy())],
    ),
    "bmp": encode(NOISE, "BMP"),
    "ppm": encode(NOISE, "PPM"),
    "jpeg 2000": encode(NOISE, "JPEG2000"),
    "tiff": encode(NOISE, "TIFF"),
    "tiff lzw": encode(NOISE, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encode(NOISE, "TIFF", compression="tiff_deflate"),
    "tiff packbits": encode(NOISE, "TIFF", compression="packbits"),
    "tiff planar": encode_tiff(NOISE.transpose(2, 0, 1), photometric="rgb"),
    "tiff big-endian": encode_tiff(NOISE, photometric="rgb", byteorder=">"),
    "tiff pages": encode(
        NOISE, "TIFF", save_all=True, append_images=[Image.fromarray(NOISE[::-1].copy())]
    ),
}

LOSSY: dict[str, bytes] = {
    "jpeg": encode(SMOOTH, "JPEG", quality=95),
    "jpeg progressive": encode(SMOOTH, "JPEG", quality=95, progressive=True),
    "jpeg restart": encode(SMOOTH, "JPEG", quality=95, restart_marker_blocks=3),
    "jpeg cmyk": encode(SMOOTH, "JPEG", "CMYK", quality=95),
    "mpo": encode(
        SMOOTH,
        "MPO",
        quality=95,
        save_all=True,
        append_images=[Image.fromarray(SMOOTH[::-1].copy())],
    ),
    "webp": encode(SMOOTH, "WEBP", quality=95),
    "avif": encode(SMOOTH, "AVIF", quality=95),
    "tiff jpeg": encode(SMOOTH, "TIFF", compression="jpeg"),
    "gif": encode(SMOOTH, "GIF"),
    "gif animated": encode(
        SMOOTH, "GIF", save_all=True, append_images=[Image.fromarray(SMOOTH[::-1].copy())]
    ),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(tmp_path: Path, kind: str) -> None:
    assert np.array_equal(write_and_read(tmp_path, LOSSLESS[kind]), NOISE)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_come_close(tmp_path: Path, kind: str) -> None:
    error = np.abs(write_and_read(tmp_path, LOSSY[kind]).astype(int) - SMOOTH)
    assert error.mean() < (12 if "gif" in kind else 3)


@pytest.mark.parametrize("kind", [*(LOSSLESS | LOSSY)])
def test_a_cut_off_file_is_refused_unless_no_pixel_is_lost(tmp_path: Path, kind: str) -> None:
    data = (LOSSLESS | LOSSY)[kind]
    whole = write_and_read(tmp_path, data)
    refused = 0
    for end in {*range(1, len(data), max(1, len(data) // 60)), *range(len(data) - 6, len(data))}:
        (tmp_path / "cut").write_bytes(data[:end])
        try:
            image = read_image(tmp_path / "cut")
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(image.permute(1, 2, 0).numpy(), whole), end
    assert refused >= 20


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "jpeg"])
def test_a_tiff_with_its_directory_in_front_is_refused_when_cut(
    tmp_path: Path, compression: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    pillow_name = {"lzw": "tiff_lzw", "zlib": "tiff_deflate"}.get(compression or "", compression)
    data = _directory_first(encode(SMOOTH, "TIFF", compression=pillow_name))
    write_and_read(tmp_path, data)
    for end in range(len(data) // 2, len(data), 37):
        assert "cut off" in reason_for(tmp_path, data[:end])
    assert capfd.readouterr() == ("", "")  # libtiff prints its errors by itself


def _directory_first(data: bytes) -> bytes:
    """Move the strips of a TIFF file that Pillow wrote behind its directory."""
    tags = Image.open(io.BytesIO(data)).tag_v2  # type: ignore[attr-defined]
    strips = [data[o : o + n] for o, n in zip(tags[273], tags[279], strict=True)]
    shorts = {256: (WIDTH,), 257: (HEIGHT,), 258: (8, 8, 8)}
    shorts |= {tag: (tags[tag],) for tag in (259, 262, 277, 278)}
    shorts |= {tag: tuple(np.atleast_1d(tags[tag])) for tag in (317, 530) if tag in tags}
    fields = {tag: (3, struct.pack(f"<{len(v)}H", *map(int, v))) for tag, v in shorts.items()}
    if 347 in tags:
        fields[347] = (7, tags[347])
    fields[279] = (4, struct.pack(f"<{len(strips)}I", *map(len, strips)))
    fields[273] = (4, bytes(4 * len(strips)))
    start = 8 + 2 + 12 * len(fields) + 4 + sum(len(v) for _, v in fields.values() if len(v) > 4)
    offsets = [start + sum(map(len, strips[:i])) for i in range(len(strips))]
    fields[273] = (4, struct.pack(f"<{len(strips)}I", *offsets))
    directory, extra = struct.pack("<H", len(fields)), b""
    for tag, (kind, value) in sorted(fields.items()):
        count = len(value) // {3: 2, 4: 4, 7: 1}[kind]
        if len(value) <= 4:
            stored = value.ljust(4, b"\0")
        else:
            stored = struct.pack("<I", 8 + 2 + 12 * len(fields) + 4 + len(extra))
            extra += value
        directory += struct.pack("<HHI", tag, kind, count) + stored
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + extra + b"".join(strips)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "jpeg restart", "gif"])
def test_a_download_that_stopped_and_was_filled_with_zeros_is_refused(
    tmp_path: Path, kind: str
) -> None:
    data = LOSSY[kind]
    for end in (len(data) - 200, len(data) - 100, len(data) - 20):
        reason_for(tmp_path, data[:end] + bytes(len(data) - end))


@pytest.mark.parametrize("kind", ["png", "png interlaced", "png alpha full"])
def test_damaged_png_data_is_found_by_its_check_sum(tmp_path: Path, kind: str) -> None:
    data = bytearray(LOSSLESS[kind])
    for position in range(80, len(data) - 20, len(data) // 20):
        damaged = data.copy()
        damaged[position] ^= 1
        reason_for(tmp_path, bytes(damaged))


def test_png_data_that_was_filled_with_zeros_is_found_by_its_check_sum(tmp_path: Path) -> None:
    data = encode(np.asarray(Image.fromarray(NOISE).resize((300, 200))), "PNG")
    for end in range(len(data) // 2, len(data) - 20, len(data) // 20):
        reason_for(tmp_path, data[:end] + bytes(len(data) - end))


@pytest.mark.parametrize("kind", [*(LOSSLESS | LOSSY)])
def test_bytes_after_the_image_do_not_matter(tmp_path: Path, kind: str) -> None:
    data = (LOSSLESS | LOSSY)[kind]
    whole = write_and_read(tmp_path, data)
    assert np.array_equal(write_and_read(tmp_path, data + b"garbage" * 100 + bytes(50)), whole)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp animated", "tiff lzw", "gif", "bmp", "ppm"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_never_raises_anything_but_image_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray((LOSSLESS | LOSSY)[kind])
    position = st.integers(0, min(len(content), 400) - 1)  # headers, where damage does most
    for place, value in data.draw(st.dictionaries(position, st.integers(0, 255))).items():
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        size = decoding.read_upright_size(io.BytesIO(content))
    except decoding.UndecodableError as error:
        assert "\n" not in str(error)
        size = None
    try:
        channels, height, width = read_image(path).shape
        assert (channels, (width, height)) == (3, size)
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_applied(tmp_path: Path, format: str, orientation: int) -> None:
    # How the stored pixels come from the upright ones, from the EXIF standard: orientation says
    # where the 0th row and the 0th column of the stored picture lie in the upright one.
    stored = {
        1: SMOOTH,  # row 0 top, column 0 left
        2: SMOOTH[:, ::-1],  # top, right
        3: SMOOTH[::-1, ::-1],  # bottom, right
        4: SMOOTH[::-1],  # bottom, left
        5: SMOOTH.transpose(1, 0, 2),  # left, top
        6: SMOOTH[:, ::-1].transpose(1, 0, 2),  # right, top
        7: SMOOTH[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: SMOOTH[::-1].transpose(1, 0, 2),  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(np.ascontiguousarray(stored), format, exif=exif.tobytes(), **options)
    error = np.abs(write_and_read(tmp_path, data).astype(int) - SMOOTH)
    assert error.max() <= (12 if format == "JPEG" else 0)
    assert decoding.read_upright_size(io.BytesIO(data)) == (WIDTH, HEIGHT)


ORIENTATION_AS_TEXT = struct.pack("<4sIHHHI4sI", b"II*\0", 8, 1, 0x0112, 2, 4, b"six", 0)


@pytest.mark.parametrize("exif", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", ORIENTATION_AS_TEXT])
def test_damaged_exif_data_does_not_lose_the_image(tmp_path: Path, exif: bytes) -> None:
    data = encode(SMOOTH, "JPEG", quality=95, exif=b"Exif\0\0" + exif)
    image = write_and_read(tmp_path, data)
    assert image.shape == SMOOTH.shape


def test_the_size_of_an_image_takes_no_pixels() -> None:
    for kind in ("jpeg", "png", "bmp"):
        data = (LOSSLESS | LOSSY)[kind]
        cut_off = io.BytesIO(data[: len(data) * 9 // 10])
        assert decoding.read_upright_size(cut_off) == (WIDTH, HEIGHT)
    for nothing in (b"", b"<html>404</html>"):
        with pytest.raises(decoding.UndecodableError):
            decoding.read_upright_size(io.BytesIO(nothing))


def test_grey_images_have_three_equal_channels(tmp_path: Path) -> None:
    grey = NOISE[..., 0]
    assert np.array_equal(
        write_and_read(tmp_path, encode(grey, "PNG")), np.repeat(grey[..., None], 3, 2)
    )
    jpeg = write_and_read(tmp_path, encode(SMOOTH[..., 0], "JPEG", quality=95))
    assert np.array_equal(jpeg[..., 0], jpeg[..., 1]) and np.array_equal(jpeg[..., 0], jpeg[..., 2])


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    bits = NOISE[..., 0] > 127
    for format in ("PNG", "TIFF", "PPM", "BMP"):
        image = write_and_read(tmp_path, encode(bits, format))
        assert np.array_equal(image, np.repeat(bits[..., None], 3, 2) * np.uint8(255)), format


def test_palette_images_take_their_colours(tmp_path: Path) -> None:
    image = Image.fromarray((NOISE[..., 0] % 3).astype(np.uint8), "L")
    image = image.convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    indices = np.asarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 250]], np.uint8)
    assert np.array_equal(write_and_read(tmp_path, buffer.getvalue()), colours[indices])

    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([255, 0, 51]))
    over_white = np.array([[10, 20, 30], [255, 255, 255], [204, 204, 254]], np.uint8)
    assert np.array_equal(write_and_read(tmp_path, buffer.getvalue()), over_white[indices])


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([NOISE, RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)])
    alpha = rgba[..., 3:].astype(float) / 255
    expected = NOISE * alpha + 255 * (1 - alpha)
    for data in (encode(rgba, "PNG"), encode_tiff(rgba, photometric="rgb", extrasamples=[2])):
        assert np.abs(write_and_read(tmp_path, data) - expected).max() <= 1
    grey_alpha = Image.fromarray(rgba[..., [0, 3]], "LA")
    buffer = io.BytesIO()
    grey_alpha.save(buffer, "PNG")
    error = write_and_read(tmp_path, buffer.getvalue())[..., 1] - expected[..., 0]
    assert np.abs(error).max() <= 1


def test_a_transparent_gif_lies_over_white(tmp_path: Path) -> None:
    image = Image.fromarray((NOISE[..., 0] % 2).astype(np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0])
    indices = np.asarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "GIF", transparency=1)
    colours = np.array([[10, 20, 30], [255, 255, 255]], np.uint8)
    assert np.array_equal(write_and_read(tmp_path, buffer.getvalue()), colours[indices])


def test_a_png_colour_key_is_transparent(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=tuple(int(v) for v in NOISE[3, 4]))
    read = write_and_read(tmp_path, buffer.getvalue())
    assert read[3, 4].tolist() == [255, 255, 255] and np.array_equal(read[0, 0], NOISE[0, 0])


def test_a_colour_key_of_16_bits_is_transparent(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    data = encode_cv2(".png", values[..., ::-1])
    key = png_chunk(b"tRNS", struct.pack(">3H", *map(int, values[3, 4])))
    read = write_and_read(tmp_path, data[:33] + key + data[33:])  # behind IHDR
    assert read[3, 4].tolist() == [255, 255, 255] and (read[0, 0] == values[0, 0] >> 8).all()


RGB_16 = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (encode_cv2(".png", GREY_16), GREY_16),
        (encode_cv2(".png", RGB_16[..., ::-1]), RGB_16),
        (encode_tiff(GREY_16), GREY_16),
        (encode_tiff(GREY_16, byteorder=">"), GREY_16),
        (encode_tiff(GREY_16, photometric="miniswhite"), 65535 - GREY_16),
        (encode_tiff(RGB_16, photometric="rgb"), RGB_16),
        (b"P5 60 40 65535\n" + GREY_16.astype(">u2").tobytes(), GREY_16),
        (b"P5 60 40 65535\n" + (GREY_16 // 512).astype(">u2").tobytes(), GREY_16 // 512),
        (b"P6 60 40 65535\n" + RGB_16.astype(">u2").tobytes(), RGB_16),
    ],
)
def test_16_bits_a_channel_become_8(tmp_path: Path, data: bytes, values: np.ndarray) -> None:
    expected = np.broadcast_to((values >> 8).reshape(HEIGHT, WIDTH, -1), (HEIGHT, WIDTH, 3))
    assert np.abs(write_and_read(tmp_path, data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_float_tiffs_are_scaled_by_their_white_level(
    tmp_path: Path, white: int, photometric: str
) -> None:
    unit = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    data = encode_tiff(unit * white, photometric=photometric)
    expected = 255 * (unit if photometric == "minisblack" else 1 - unit)
    assert np.abs(write_and_read(tmp_path, data)[..., 1] - expected).max() <= 0.51


def test_black_float_tiffs_stay_black(tmp_path: Path) -> None:
    assert not write_and_read(tmp_path, encode_tiff(np.zeros((4, 5), np.float32))).any()


@pytest.mark.parametrize(
    "values", [(0, 1.2), (-1, 1), (0, 4095), (0, 1e6), (0, np.nan), (0, np.inf)]
)
def test_floats_without_a_known_white_level_are_refused(
    tmp_path: Path, values: tuple[float, float]
) -> None:
    array = np.resize(np.array(values, np.float32), (4, 6))
    assert "white level" in reason_for(tmp_path, encode_tiff(array))


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpegs_look_the_same_in_opencv(tmp_path: Path, adobe: bool) -> None:
    data = encode(SMOOTH, "JPEG", "CMYK", quality=95)
    if not adobe:
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
        assert b"Adobe" not in data
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(write_and_read(tmp_path, data).astype(int) - opencv).max() <= 2


def test_a_ycck_jpeg_gives_the_known_colours(tmp_path: Path) -> None:
    # libjpeg converts YCCK to CMYK when the Adobe marker says transform 2. Four equal components
    # c under transform 0 are the inks 255 - c; under transform 2 the colour part is YCC of c.
    flat = np.full((16, 16, 4), 0, np.uint8)
    flat[...] = (55, 128, 128, 0)  # stored inverted by Pillow: 200, 127, 127, 255
    buffer = io.BytesIO()
    Image.fromarray(flat, "CMYK").save(buffer, "JPEG", quality=100, subsampling=0)
    data = bytearray(buffer.getvalue())
    transform = data.index(b"\xff\xee") + 2 + 2 + 11
    assert data[transform] == 0
    data[transform] = 2
    image = write_and_read(tmp_path, bytes(data)).astype(int)
    # Y = 200, Cb = Cr = 127: R = 200 - 1.4, G = 200 + 1.1, B = 200 - 1.8; libjpeg takes the
    # complement of them as CMY, and what is stored is itself inverted.
    assert np.abs(image - (255 - np.array([199, 201, 198]))).max() <= 2


def test_cmyk_tiffs_are_converted(tmp_path: Path) -> None:
    inks = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    for data in (
        encode_tiff(inks, photometric="separated"),
        encode_tiff(inks.astype(np.uint16) * 257, photometric="separated"),
    ):
        assert np.abs(write_and_read(tmp_path, data) - expected).max() <= 1


UNREADABLE = {
    "nothing": (b"", "empty"),
    "text": (b"hello world\n" * 9, "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(100), "video"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "pdf": (b"%PDF-1.7\n" + bytes(100), "PDF"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript"),
    "jpeg start": (b"\xff\xd8\xff", "JPEG"),
    "lab": (encode_tiff(NOISE, photometric="cielab"), "LAB"),
    "rgb float": (encode_tiff(NOISE.astype(np.float32), photometric="rgb"), "TIFF"),
    "12 bands": (
        encode_tiff(np.zeros((8, 8, 12), np.uint8), photometric="minisblack", planarconfig=1),
        "TIFF",
    ),
    "preview": (encode_tiff(NOISE, photometric="rgb", subfiletype=1), "preview"),
    "no width": (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b""),
        "",
    ),
    "bmp without height": (b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 9, 0, 1, 24), ""),
    "ppm without height": (b"P6 9 0 255\n", ""),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_image_is_named(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data, word = UNREADABLE[kind]
    assert word in reason_for(tmp_path, data, "photo.jpg")
    assert capfd.readouterr() == ("", "")


def test_what_pillow_logs_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(UNREADABLE["12 bands"][0])
    code = """
import sys
from decoding import UndecodableError, decode_image
try:
    decode_image(open(sys.argv[1], "rb"))
except UndecodableError:
    print("refused")
"""
    # In a process of its own, since pytest handles log records; imported without the package.
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    folder = Path(decoding.__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.txt", "a", "a.mp4", "a.svg", "a.eps"):
        assert np.array_equal(write_and_read(tmp_path, LOSSLESS["png"], name), NOISE)


def test_a_decompression_bomb_is_refused_without_decoding(tmp_path: Path) -> None:
    side = 60_000
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 10)) + png_chunk(b"IEND", b"")
    assert "200 megapixels" in reason_for(tmp_path, b"\x89PNG\r\n\x1a\n" + header + body)


def test_images_up_to_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH)
    assert write_and_read(tmp_path, LOSSLESS["png"]).shape == (HEIGHT, WIDTH, 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH - 2)
    with pytest.raises(decoding.UndecodableError):
        decoding.read_upright_size(io.BytesIO(LOSSLESS["png"]))
    assert "megapixels" in reason_for(tmp_path, LOSSLESS["png"])


def test_long_texts_in_a_png_do_not_matter(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 500_000, zip=True)
    assert np.array_equal(write_and_read(tmp_path, encode(NOISE, "PNG", pnginfo=info)), NOISE)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("height", [1, 2])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_tiny_images_are_read(tmp_path: Path, format: str, width: int, height: int) -> None:
    data = encode(np.full((height, width, 3), 200, np.uint8), format)
    image = write_and_read(tmp_path, data)
    assert image.shape == (height, width, 3) and np.abs(image.astype(int) - 200).max() <= 3


def test_pillow_is_left_as_it_was_after_threads_that_overlap(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(LOSSY["jpeg"])
    (tmp_path / "bad").write_bytes(LOSSY["jpeg"][:700])
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert read_image(tmp_path / "good").shape == (3, HEIGHT, WIDTH)
                with pytest.raises(ImageError):
                    read_image(tmp_path / "bad")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_tensor_shares_its_memory_with_opencv(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(LOSSLESS["png"])
    image = read_image(tmp_path / "a")
    view = image.permute(1, 2, 0).numpy()
    assert view.flags.c_contiguous and view.flags.writeable


def test_every_photo_of_voc_is_read(shared_dir: Path) -> None:
    photos = sorted((shared_dir / "data/voc2007").rglob("*.jpg"))[:40]
    assert photos
    for photo in photos:
        expected = np.asarray(Image.open(photo).convert("RGB"))
        assert np.array_equal(read_image(photo).permute(1, 2, 0).numpy(), expected)
