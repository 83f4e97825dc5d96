"""Data sets that are made on first use and kept as shards in a cache."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cl.errors import DataError
from cl.views.records import Record, Records
from cl.views.samples import Sample, Samples
from cl.views.shards import Shards

logger = logging.getLogger(__name__)


class CachedShards:
    """A split of a data set that is written, when it is first read, by a function.

    Args:
        owner: the component whose data set it is, for messages.
        name: of the folder within the cache; another name for every other content.
        split: the folder of shards within it.
        write: writes all splits into an empty folder.
        cache: folder to keep them in; None: $XDG_CACHE_HOME/cl, or ~/.cache/cl.
        captions: extensions of the members that hold captions.

    Raises (when read):
        DataError: the cache cannot be written, or what is in it is damaged.
    """

    max_bad_fraction = 0.0

    def __init__(
        self,
        owner: str,
        name: str,
        split: str,
        write: Callable[[Path], None],
        cache: str | None,
        captions: Sequence[str] = ("txt",),
    ):
        self.owner = owner
        self.name = name
        self.split = split
        self.write = write
        self.cache = cache
        self.captions = captions
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
            default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl"
            cache = default if self.cache is None else Path(self.cache)
            try:
                folder = cached(cache, self.name, self.write) / self.split
                self._made = Shards(str(folder), caption=self.captions)
            except OSError as error:
                raise DataError(
                    f"{self.name} cannot be kept in {cache}: {error.strerror or error}. Free or open that folder, or "
                    f"name another by {self.owner}.cache or the environment variable XDG_CACHE_HOME."
                ) from None
        return self._made


def cached(cache: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The folder `name` within a cache; written first if need be, by any number of processes at once.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    logger.info("Making %s in %s, once.", name, cache)
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
    try:
        write(aside)
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError:
        # Another process was faster: its folder is there, whole, and holds the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
