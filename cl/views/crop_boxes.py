"""Where torchvision's RandomResizedCrop crops, for many pictures at once."""

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

TRIES = 10
DRAWS = 2 * TRIES + 2


def crop_boxes(
    sizes: Float[ndarray, "b 2"],
    draws: Float[ndarray, "b 22"],
    crop: tuple[float, float],
    ratio: tuple[float, float],
) -> Int64[ndarray, "b 4"]:
    """Left, top, width and height in pixels, of pictures whose heights and widths are `sizes`.

    As torchvision has it: the first of ten boxes of random area and ratio that fits inside the picture, at a random
    place; where none does, the largest box in the middle that has a ratio of the range. `crop` is the range of the area
    as a share of the picture's, `ratio` that of width / height, drawn uniformly in its logarithm. All ten are drawn at
    once, of `DRAWS` uniform numbers a picture.
    """
    height, width = sizes.T
    area = (height * width)[:, None] * (crop[0] + (crop[1] - crop[0]) * draws[:, :TRIES])
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    wide, tall = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (wide >= 1) & (wide <= width[:, None]) & (tall >= 1) & (tall <= height[:, None])
    rows, first, found = np.arange(len(sizes)), fits.argmax(axis=1), fits.any(axis=1)
    # A side is never nothing, which torchvision lets happen to pictures of a pixel.
    w = np.where(found, wide[rows, first], np.minimum(width, np.maximum(1, np.rint(height * ratio[1]))))
    h = np.where(found, tall[rows, first], np.minimum(height, np.maximum(1, np.rint(width / ratio[0]))))
    across, down = draws[:, 2 * TRIES :].T
    left = np.where(found, np.floor(across * (width - w + 1)), (width - w) // 2)
    top = np.where(found, np.floor(down * (height - h + 1)), (height - h) // 2)
    return np.stack([left, top, w, h], axis=1).astype(np.int64)
