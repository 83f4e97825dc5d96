"""Bytes of a picture to pixels: JPEG by simplejpeg, everything else by Pillow, always as RGB."""

from io import BytesIO

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif")


def decode(content: bytes) -> UInt8[ndarray, "h w 3"]:
    """RGB pixels.

    Raises:
        ValueError, OSError: not a picture, or a damaged one, or of so many pixels that it looks like an attack.
    """
    if simplejpeg.is_jpeg(content):
        try:
            return simplejpeg.decode_jpeg(content, colorspace="RGB")
        except ValueError:
            pass  # CMYK, say, which Pillow converts
    try:
        with Image.open(BytesIO(content), formats=("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")) as picture:
            return np.array(picture.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def square(image: UInt8[ndarray, "h w 3"], size: int) -> UInt8[ndarray, "s s 3"]:
    """The middle square, after the shorter side became `size` pixels: by area when shrinking, bicubic otherwise."""
    h, w = image.shape[:2]
    scale = size / min(h, w)
    if scale != 1:
        new = (max(size, round(w * scale)), max(size, round(h * scale)))
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
