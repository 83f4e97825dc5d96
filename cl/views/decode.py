"""Bytes of a picture to pixels: JPEG by simplejpeg, everything else by Pillow, always as RGB.

What becomes RGB how:

- gray: three equal channels; 16 bits: the upper eight;
- palette, alpha: what is transparent becomes white;
- CMYK, YCCK: Pillow's conversion, Adobe's inverted values minded; colour profiles are not applied;
- EXIF's orientation is applied, where EXIF can be read; of an animation the first picture counts.
"""

from io import BytesIO

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from numpy import ndarray
from PIL import ExifTags, Image

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")

LARGEST = 64_000_000
"""Pixels of the largest picture that is decoded: 192 MB. The header says how many it has."""

_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation."""


class TooLarge(ValueError):
    """A picture of more than `LARGEST` pixels."""


def decode(content: bytes) -> UInt8[ndarray, "h w 3"]:
    """RGB pixels.

    Raises:
        TooLarge: by its header, before anything is decoded.
        ValueError, OSError: not a picture, or a damaged one.
    """
    if simplejpeg.is_jpeg(content):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            _check(int(height), int(width))
            if colours in ("YCbCr", "RGB", "Gray") and not _turned(content):
                return simplejpeg.decode_jpeg(content, colorspace="RGB")
        except TooLarge:
            raise
        except (ValueError, OSError):
            pass  # Pillow may know better
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            _check(picture.height, picture.width)
            picture.load()  # a TIFF turns itself
            turn = _orientation(picture)
            return np.array(_rgb(picture.transpose(_UPRIGHT[turn]) if turn else picture))
    except Image.DecompressionBombError as error:
        raise TooLarge(str(error)) from None
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers stumble over bytes in many ways
        raise ValueError(str(error) or type(error).__name__) from None


def _turned(jpeg: bytes) -> bool:
    at = 2  # from segment to segment, each a marker and its length, until the pixels begin
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda" and jpeg[at + 4 : at + 9] != b"Exif\0":
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    if jpeg[at + 4 : at + 9] != b"Exif\0":
        return False
    with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
        return _orientation(picture) is not None


def _orientation(picture: Image.Image) -> int | None:
    """By EXIF, where it says another than upright. Pillow's own turning also writes EXIF anew, and may fail at that."""
    try:
        said = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as much as the bytes of a picture, and less needed
        return None
    return said if isinstance(said, int) and said in _UPRIGHT else None


def _check(height: int, width: int) -> None:
    if height * width > LARGEST:
        raise TooLarge(f"{width} x {height} pixels, of which at most {LARGEST // 10**6} million are decoded")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _WIDE:
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def square(image: UInt8[ndarray, "h w 3"], size: int) -> UInt8[ndarray, "s s 3"]:
    """The middle square, after the shorter side became `size` pixels: by area when shrinking, bicubic otherwise.

    Raises:
        TooLarge: the whole picture would become so.
    """
    h, w = image.shape[:2]
    scale = size / min(h, w)
    if scale != 1:
        new = (max(size, round(w * scale)), max(size, round(h * scale)))
        _check(*new[::-1])
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
