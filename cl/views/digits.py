"""The built-in data set: `digits-v1` as WebDataset shards, made on first use."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import gin
import numpy as np

from cl.components import Capability
from cl.views.cached_shards import CachedShards
from cl.views.render import NAME, SPLITS, Scenes, Split, scenes
from cl.views.write_shards import write_shards

PER_SHARD = 2400


@gin.register
class Digits(CachedShards):
    """Real handwritten digits in colour scenes of 32x32 pixels: 9,576 train, 2,400 validation and 2,400 test pictures.

    Each has its digit as label and a caption that names digit, size, colours and place; `cl.views.render` says how they
    are made. Splits share no scan. The shards are made when first read, in a few seconds.

    Args:
        split: which of the three.
        cache: folder to keep the shards in; None: $XDG_CACHE_HOME/cl, or ~/.cache/cl.

    Raises (when read):
        DataError: the cache cannot be written, or what is in it is damaged.
    """

    provides: frozenset[Capability] = frozenset({"labels", "captions"})

    def __init__(self, split: Split, cache: str | None = None):
        if split not in SPLITS:
            raise ValueError(f"Digits.split must be one of {', '.join(SPLITS)}, got {split!r}")
        super().__init__("Digits", NAME, split, write_digits, cache)


def write_digits(folder: Path) -> None:
    """Writes the shards of all splits to `folder`/`split`.

    Members: `png` (lossless), `cls` (the digit), `txt` (the caption), `json` (what the picture was made of).

    Raises:
        FileExistsError: a split's folder is there and is not empty.
        OSError: the folder cannot be written.
    """
    for split in SPLITS:
        write_shards(folder / split, f"{NAME}/{split}", _members(scenes(split)), PER_SHARD)


def _members(pictures: Scenes) -> Iterator[tuple[str, dict[str, bytes]]]:
    for i, key in enumerate(pictures.keys):
        blue_first = np.ascontiguousarray(pictures.images[i, ::-1].transpose(1, 2, 0))
        yield (
            key,
            {
                "png": cv2.imencode(".png", blue_first)[1].tobytes(),
                "cls": str(pictures.digit[i]).encode(),
                "txt": pictures.captions[i].encode(),
                "json": json.dumps(pictures.facts[i]).encode(),
            },
        )
