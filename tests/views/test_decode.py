"""Every kind of picture becomes RGB as the module says; what is none, or too large, is refused from its header."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cl.views.decode import LARGEST, TooLarge, decode, square


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_a_square_is_of_the_middle(h, w, size):
    plain = np.full((h, w, 3), 9, np.uint8)
    assert np.array_equal(square(plain, size), np.full((size, size, 3), 9))
    bright = np.zeros((h, w, 3), np.uint8)
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    bright[top : top + side, left : left + side] = 200
    if size == side:
        assert np.array_equal(square(bright, size), bright[top : top + side, left : left + side])


def test_shrinking_averages_areas():
    image = np.array([[0, 100], [100, 200]], np.uint8)[..., None].repeat(3, axis=2)
    assert np.array_equal(square(image, 1), np.full((1, 1, 3), 100))


def test_every_kind_of_picture_becomes_rgb():
    color = np.zeros((8, 8, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    gray = np.full((8, 8), 90, np.uint8)
    kinds = {
        "png": encoded(color),
        "jpeg": simplejpeg.encode_jpeg(color, quality=95),
        "webp": encoded(color, "WEBP", lossless=True),
        "opencv": cv2.imencode(".png", color[..., ::-1])[1].tobytes(),
    }
    for name, content in kinds.items():
        assert np.abs(decode(content).astype(int) - color).max() <= 3, name
    assert np.array_equal(decode(encoded(gray)), np.full((8, 8, 3), 90))
    assert np.abs(decode(encoded(gray, "JPEG")).astype(int) - 90).max() <= 1
    cmyk = io.BytesIO()
    Image.fromarray(color).convert("CMYK").save(cmyk, "JPEG", quality=95)
    assert np.abs(decode(cmyk.getvalue()).astype(int) - color).max() <= 6


COLOUR = (200, 100, 50)


def plain(mode, colour, size=(8, 8)):
    return Image.new(mode, size, colour)


def test_golden_values():
    transparent = plain("RGBA", (*COLOUR, 0))
    half = plain("RGBA", (*COLOUR, 51))  # a fifth
    palette = plain("RGB", COLOUR).quantize(4)
    see_through = plain("P", 0)
    see_through.putpalette([0, 0, 0])
    cases = {
        "one pixel": (encoded(plain("RGB", COLOUR, (1, 1))), COLOUR),
        "gray": (encoded(plain("L", 90)), (90, 90, 90)),
        "two tones": (encoded(plain("1", 1)), (255, 255, 255)),
        "gray and alpha": (encoded(plain("LA", (0, 0))), (255, 255, 255)),
        "16 bits": (encoded(np.full((8, 8), 0x5AFF, np.uint16)), (0x5A, 0x5A, 0x5A)),
        "16 bits, tiff": (encoded(np.full((8, 8), 0x5AFF, np.uint16), "TIFF"), (0x5A, 0x5A, 0x5A)),
        "palette": (encoded(palette), COLOUR),
        "palette, transparent": (encoded(see_through, transparency=0), (255, 255, 255)),
        "transparent": (encoded(transparent), (255, 255, 255)),
        "a fifth opaque": (encoded(half), (244, 224, 214)),
        "webp with alpha": (encoded(transparent, "WEBP", lossless=True), (255, 255, 255)),
        "first of an animation": (
            encoded(plain("RGB", COLOUR), "GIF", save_all=True, append_images=[plain("RGB", (0, 0, 0))]),
            COLOUR,
        ),
    }
    for name, (content, colour) in cases.items():
        pixels = decode(content)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3, name
        assert np.abs(pixels.astype(int) - colour).max() <= 1, (name, pixels[0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation, format):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # bright at the top left
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {}
    pixels = decode(encoded(np.ascontiguousarray(turned), format, exif=exif, **options))
    assert pixels.shape == upright.shape and np.abs(pixels.astype(int) - upright).max() <= 12


def exif(*entries):
    """Tags as (tag, type, count, four bytes), of whatever types."""
    rows = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + b"\0\0\0\0"


SIX, TEXT, UNDEFINED = (0x0112, 3, 1, b"\x06\0\0\0"), 2, 7


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "entries, turned",
    [
        ([SIX], True),
        ([SIX, (0x011A, TEXT, 3, b"72\0\0")], True),
        ([(0x0100, TEXT, 3, b"ab\0\0"), SIX], True),
        ([SIX, (0x8769, TEXT, 3, b"ab\0\0")], True),
        ([(0x0112, TEXT, 2, b"6\0\0\0")], False),
        ([(0x0112, UNDEFINED, 1, b"\x06\0\0\0")], False),
        ([(0x0112, 3, 1, b"\x09\0\0\0")], False),
        ([(0x0112, 3, 0, b"\0\0\0\0")], False),
    ],
)
def test_tags_of_unexpected_types_do_not_keep_a_picture_from_being_read(format, entries, turned):
    content = encoded(np.zeros((16, 24, 3), np.uint8), format, exif=exif(*entries))
    assert decode(content).shape[:2] == ((24, 16) if turned else (16, 24))


def test_whatever_a_reader_stumbles_with_is_a_damaged_picture(monkeypatch):
    def stumble(self):
        raise struct.error("unpack requires a buffer of 4 bytes")

    content = encoded(np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stumble)
    with pytest.raises(ValueError, match="unpack requires"):
        decode(content)


def test_a_thin_picture_does_not_become_a_huge_one():
    with pytest.raises(TooLarge, match="4480000 x 224"):
        square(np.zeros((1, 20_000, 3), np.uint8), 224)


def forged_png(width, height):
    """A valid PNG of a few kilobytes that says it has so many gray pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    row = zlib.compress(bytes(100 * (width + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("megapixels", [65, 100, 400])
def test_a_huge_picture_is_refused_from_its_header(megapixels):
    side = int((megapixels * 1e6) ** 0.5)
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = jpeg.find(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    for content in (forged_png(side, side), bytes(jpeg)):
        tracemalloc.start()
        with pytest.raises(TooLarge):
            decode(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert side * side > LARGEST and peak < 2e6


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"BM", b"II*\0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=300), st.sampled_from(STARTS))
def test_garbage_is_no_picture(content, start):
    try:
        pixels = decode(start + content)
    except (ValueError, OSError):
        return
    assert pixels.ndim == 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_picture_is_refused(format, share):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = encoded(image, format)
    with pytest.raises((ValueError, OSError)):
        decode(content[: int(len(content) * share)])


def test_other_formats_are_not_tried():
    with pytest.raises((ValueError, OSError)):
        decode(encoded(np.zeros((8, 8, 3), np.uint8), "PDF"))
