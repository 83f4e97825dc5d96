"""The built-in data set: `digits-v1` as WebDataset shards, made on first use."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import gin
import numpy as np

from cl.components import Capability
from cl.errors import DataError
from cl.views.records import Record, Records
from cl.views.render import NAME, SPLITS, Scenes, Split, scenes
from cl.views.samples import Sample, Samples
from cl.views.shards import Shards
from cl.views.write_shards import write_shards

logger = logging.getLogger(__name__)

PER_SHARD = 2400


@gin.register
class Digits:
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
    max_bad_fraction = 0.0

    def __init__(self, split: Split, cache: str | None = None):
        if split not in SPLITS:
            raise ValueError(f"Digits.split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.split = split
        self.cache = cache
        self._made: Shards | None = None

    def records(self) -> Records:
        """All samples as they are stored."""
        return self._shards().records()

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds."""
        return self._shards().decoded(record)

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in shard order, at most `chunk` at a time."""
        return self._shards().read(chunk)

    def load(self) -> Samples:
        """All samples at once."""
        return self._shards().load()

    def _shards(self) -> Shards:
        if self._made is None:
            self._made = self._cached()
        return self._made

    def _cached(self) -> Shards:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl"
        cache = default if self.cache is None else Path(self.cache)
        try:
            return Shards(str(cached_digits(cache) / self.split))
        except OSError as error:
            raise DataError(
                f"The built-in digits cannot be kept in {cache}: {error.strerror or error}. Free or open that folder, "
                "or name another by Digits.cache or the environment variable XDG_CACHE_HOME."
            ) from None


def cached_digits(cache: Path) -> Path:
    """The folder of the shards within a cache; made first if need be, by any number of processes at once.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = cache / NAME
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    logger.info("Making the built-in digits in %s, once.", folder)
    aside = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=cache))
    try:
        write_digits(aside)
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError:
        # Another process was faster: its folder is there, whole, and holds the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


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
