"""The built-in pictures, `digits-v1`: real handwritten digits rendered into small colour scenes.

scikit-learn's 1,797 scans of 8x8 pixels (Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits") are
split by scan, and every scan is rendered eight times: a bright digit of random size, place, tilt and colour on a darker
ground of random colour with a faint texture. What hides the digit is what augmentations vary, so that neither raw
pixels nor a random network tells digits apart, and a trained one does.

A picture is a function of (version, scan, rendering). Its random numbers are raw bits of PCG64, and its arithmetic is
element by element, with nothing but operations that IEEE 754 rounds exactly, so every machine makes the same bytes.
Nothing here may change: a change is a `digits-v2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from numpy import ndarray

Split = Literal["train", "validation", "test"]

NAME = "digits-v1"
VERSION = 1
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 30  # scans of each digit that go to validation, and as many to test
RENDERINGS = 8  # of each scan
SIDE = 32  # of a picture, in pixels
SIZE = (17.0, 26.0)  # side of the scan's frame, in pixels
TILT = 0.13  # tangent of half the largest rotation: about 15 degrees
INK_SATURATION = (0.4, 0.95)
INK_VALUE = (0.7, 1.0)
INK_LUMA = 0.35  # at least: darker inks are mixed with white
GROUND_SATURATION = (0.4, 0.9)
GROUND_VALUE = (0.12, 0.5)
GROUND_LUMA = 0.45  # at most, as a share of the ink's
TEXTURE = 0.12  # largest change of the ground's brightness, as a share
KNOTS = 5  # of the texture, along each side
EDGE = (0.2, 0.65)  # ink densities of the scan where the digit begins to show and where it covers the ground

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = ("small", "medium-sized", "large")
INKS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
GROUNDS = ("dark red", "brown", "olive", "dark green", "teal", "dark blue", "dark purple", "plum")
HUES = ((-12, 10), (22, 38), (48, 62), (95, 140), (172, 190), (212, 240), (262, 280), (300, 330))  # degrees, for both
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the center", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
MIDDLE = (0.4, 0.6)  # of a side: where a digit's middle is neither left nor right, neither top nor bottom
TEMPLATES = (
    "a {size} {ink} {digit} {place} on {ground}",
    "the digit {digit}, {size} and {ink}, {place}; the background is {ground}",
    "a handwritten {digit} in {ink}, {size}, {place} of a picture in {ground}",
    "{place} there is a {size} {digit} written in {ink} over {ground}",
)

_PARAMETERS = (
    *("size", "x", "y", "tilt", "ink", "ink_hue", "ink_saturation", "ink_value"),
    *("ground", "ground_hue", "ground_saturation", "ground_value", "template"),
)


@dataclass(frozen=True)
class Scenes:
    """Pictures of digits, and what is true of each.

    Attributes:
        images: RGB.
        digit: from 0 to 9.
        captions: digit, size, colours and place in words.
        keys: 'scan-rendering'.
        facts: what the picture was made of: the words of the caption; size and middle in pixels.
    """

    images: UInt8[ndarray, "n 3 s s"]
    digit: Int64[ndarray, "n"]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    facts: tuple[dict[str, Any], ...]


def scenes(split: Split) -> Scenes:
    """All pictures of a split, scan by scan."""
    from sklearn.datasets import load_digits  # seconds to import, and the pictures are made only once

    data: Any = load_digits()
    scans = split_by_scan(data.target)[split]
    parts = [_render(data.images[some], data.target[some], some) for some in np.array_split(scans, len(scans) // 60)]
    return Scenes(
        images=np.concatenate([part.images for part in parts]),
        digit=np.concatenate([part.digit for part in parts]),
        captions=tuple(caption for part in parts for caption in part.captions),
        keys=tuple(key for part in parts for key in part.keys),
        facts=tuple(fact for part in parts for fact in part.facts),
    )


def split_by_scan(digit: Int64[ndarray, "n"]) -> dict[Split, Int64[ndarray, "m"]]:
    """Which scans each split has, in ascending order; every digit has the same number in validation and in test."""
    order = np.argsort(_bits([VERSION], len(digit)), kind="stable")
    of_digit = [order[digit[order] == value] for value in range(10)]
    parts = {
        "test": [scans[:HELD_OUT] for scans in of_digit],
        "validation": [scans[HELD_OUT : 2 * HELD_OUT] for scans in of_digit],
        "train": [scans[2 * HELD_OUT :] for scans in of_digit],
    }
    return {split: np.sort(np.concatenate(parts[split])) for split in SPLITS}


def _render(images: Float[ndarray, "n 8 8"], digit: Int64[ndarray, "n"], scans: Int64[ndarray, "n"]) -> Scenes:
    seeds = [(scan, rendering) for scan in scans.tolist() for rendering in range(RENDERINGS)]
    bits = np.stack([_bits([VERSION, *seed], len(_PARAMETERS) + KNOTS * KNOTS) for seed in seeds])
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    draw = dict(zip(_PARAMETERS, uniform.T, strict=False))
    size = _between(SIZE, draw["size"])
    x, y = (size / 2 + draw[axis] * (SIDE - size) for axis in ("x", "y"))
    names = {part: (draw[part] * len(HUES)).astype(int) for part in ("ink", "ground")}
    ink, ground = _colours(draw, names)

    texture = 1 + TEXTURE * _texture(2 * uniform[:, len(_PARAMETERS) :] - 1)
    tilt = _between((-TILT, TILT), draw["tilt"])
    alpha = _glyphs(np.repeat(_enlarged(images), RENDERINGS, axis=0), size, x, y, tilt)
    pictures = np.empty((len(seeds), 3, SIDE, SIDE), np.uint8)
    for channel in range(3):
        under = _each(ground[channel]) * texture.astype(np.float32)
        over = under + alpha * (_each(ink[channel]) - under)
        pictures[:, channel] = (over * np.float32(255) + np.float32(0.5)).astype(np.uint8)

    digits = np.repeat(digit, RENDERINGS).astype(np.int64)
    third = (SIZE[1] - SIZE[0]) / 3
    facts = tuple(
        {
            "digit": DIGITS[digits[i]],
            "size": SIZES[int((size[i] - SIZE[0]) / third)],
            "ink": INKS[names["ink"][i]],
            "ground": GROUNDS[names["ground"][i]],
            "place": PLACES[_side_of(y[i])][_side_of(x[i])],
            "pixels": round(float(size[i]), 2),
            "middle": [round(float(x[i]), 2), round(float(y[i]), 2)],
        }
        for i in range(len(seeds))
    )
    templates = (draw["template"] * len(TEMPLATES)).astype(int)
    return Scenes(
        images=pictures,
        digit=digits,
        captions=tuple(TEMPLATES[template].format(**fact) for template, fact in zip(templates, facts, strict=True)),
        keys=tuple(f"{scan:04d}-{rendering}" for scan, rendering in seeds),
        facts=facts,
    )


def _bits(seed: Sequence[int], count: int) -> ndarray:
    # NumPy promises these bits for ever, which it does not of its distributions (NEP 19).
    return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)


def _between(bounds: tuple[float, float], uniform: ndarray) -> ndarray:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def _side_of(middle: float) -> int:
    return int(middle > MIDDLE[0] * SIDE) + int(middle > MIDDLE[1] * SIDE)


def _each(values: Float[ndarray, "n"]) -> Float32[ndarray, "n 1 1"]:
    return values.astype(np.float32)[:, None, None]


def _colours(draw: dict[str, ndarray], names: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """Ink and ground, `3 n`, in [0, 1]."""
    hue = {
        part: (low + (high - low) * draw[f"{part}_hue"]) / 60
        for part, name in names.items()
        for low, high in [np.array(HUES)[name].T]
    }
    ink = _rgb(hue["ink"], _between(INK_SATURATION, draw["ink_saturation"]), _between(INK_VALUE, draw["ink_value"]))
    white = np.maximum(0, (INK_LUMA - _luma(ink)) / (1 - _luma(ink)))
    ink = ink + (1 - ink) * white
    ground = _rgb(
        hue["ground"],
        _between(GROUND_SATURATION, draw["ground_saturation"]),
        _between(GROUND_VALUE, draw["ground_value"]),
    )
    return ink, ground * np.minimum(1, GROUND_LUMA * _luma(ink) / _luma(ground))


def _rgb(hue: ndarray, saturation: ndarray, value: ndarray) -> Float[ndarray, "3 n"]:
    """From HSV; the hue in sixths of a turn."""
    ramp = np.stack([(offset + hue) % 6 for offset in (5, 3, 1)])
    return value * (1 - saturation * np.clip(np.minimum(ramp, 4 - ramp), 0, 1))


def _luma(colour: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _texture(knots: Float[ndarray, "n k"]) -> Float[ndarray, "n s s"]:
    """Knots on a grid, joined smoothly."""
    grid = knots.reshape(-1, KNOTS, KNOTS)
    at = (np.arange(SIDE) + 0.5) / SIDE * (KNOTS - 1)
    low = at.astype(int)
    near = (at - low) ** 2 * (3 - 2 * (at - low))
    rows = grid[:, low] + (grid[:, low + 1] - grid[:, low]) * near[:, None]
    return rows[:, :, low] + (rows[:, :, low + 1] - rows[:, :, low]) * near


def _enlarged(scans: Float[ndarray, "n 8 8"]) -> Float32[ndarray, "n 40 40"]:
    """Four times as large by Catmull-Rom's cubic, with a margin of one scan pixel; densities about [0, 1]."""
    padded = np.pad(scans / 16, ((0, 0), (3, 3), (3, 3)))
    once = _enlarged_rows(padded)
    return np.swapaxes(_enlarged_rows(np.swapaxes(once, 1, 2)), 1, 2).astype(np.float32)


def _enlarged_rows(x: Float[ndarray, "n h w"]) -> Float[ndarray, "n g w"]:
    cells = x.shape[1] - 4
    phases = []
    for t, first in ((0.625, 0), (0.875, 0), (0.125, 1), (0.375, 1)):
        weights = (
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        )
        taps = [weight * x[:, first + i : first + i + cells] for i, weight in enumerate(weights)]
        phases.append(taps[0] + taps[1] + taps[2] + taps[3])
    return np.stack(phases, axis=2).reshape(len(x), 4 * cells, x.shape[2])


def _glyphs(
    fine: Float32[ndarray, "n g g"],
    size: Float[ndarray, "n"],
    x: Float[ndarray, "n"],
    y: Float[ndarray, "n"],
    tilt: Float[ndarray, "n"],
) -> Float32[ndarray, "n s s"]:
    """How much of each pixel the digit covers, in [0, 1]."""
    # Cosine and sine by the half-angle's tangent: library sines differ between machines.
    cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
    step = 32 / size
    side = fine.shape[-1]
    at = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    dx, dy = at - _each(x), at[:, None] - _each(y)
    middle, last = np.float32(side / 2 - 0.5), np.float32(side - 1.001)
    column = np.clip(_each(cos * step) * dx + _each(sin * step) * dy + middle, 0, last)
    row = np.clip(_each(cos * step) * dy - _each(sin * step) * dx + middle, 0, last)
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, down = column - left.astype(np.float32), row - top.astype(np.float32)
    flat, picture, corner = fine.reshape(len(fine), -1), np.arange(len(fine))[:, None, None], top * side + left
    upper = flat[picture, corner] * (1 - across) + flat[picture, corner + 1] * across
    lower = flat[picture, corner + side] * (1 - across) + flat[picture, corner + side + 1] * across
    density = upper * (1 - down) + lower * down
    low, high = (np.float32(edge) for edge in EDGE)
    return np.clip((density - low) / (high - low), 0, 1)
