"""WebDataset shards on a disk: tar files whose members of one stem are one sample, beside an index.

They are read by offset, so in any order, and decoded here: webdataset's own decoder would unpickle, and its own opener
would run `pipe:` commands.
"""

import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import gin
from braceexpand import braceexpand
from jaxtyping import Int64
from numpy import ndarray

from cl.errors import DataError
from cl.views import loading
from cl.views.index import INDEX, Shard, check_distinct, read_index, scan, stored, unpacked
from cl.views.order import epoch_order
from cl.views.reading import Reading
from cl.views.records import Record
from cl.views.samples import Sample, Samples

logger = logging.getLogger(__name__)


@gin.register
class Shards:
    """The samples of WebDataset shards, in the order of the shards and of their members.

    Opens nothing before it is read. Then every shard's size is compared with the index, which is how a shard that was
    cut is known; shards without an index are scanned, with a warning.

    Args:
        path: a folder of shards with its index; or shards by name, with braces (`'data/{000..009}.tar'`) or as a list.
        label: extension of the member that holds the class number; None: none.
        caption: extension of the member that holds the caption, in UTF-8, or several of them, of which a sample must
            have one; None: none. Beside `txt`, `1.txt`, `2.txt` and so on are further captions of a sample.
        size: pictures are resized by their shorter side and cut to a square of so many pixels about the middle;
            None: as they are.
        max_bad_fraction: of all samples, how many may be left out, and counted, because they cannot be used.

    Raises (when read):
        DataError: naming the shard, and the key where there is one: a folder or shard that is missing, damaged, cut or
            of another number of samples than the index says; a shard by name that the index beside it does not have; a
            key that comes twice; too many samples that cannot be used; pictures of different sizes; a URL or a command
            as path.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        label: str | None = "cls",
        caption: str | Sequence[str] | None = "txt",
        size: int | None = None,
        max_bad_fraction: float = 0.01,
    ):
        self.reading = Reading("Shards", label, caption, size, max_bad_fraction)
        self.path = path
        self.provides = self.reading.provides
        self.max_bad_fraction = max_bad_fraction
        self._records: _Records | None = None

    def records(self) -> "_Records":
        """All samples as they are stored, opened and checked at the first call."""
        if self._records is None:
            records = _Records(_found(self.path))
            self.reading.check(records)
            self._records = records
        return self._records

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds; BadSample if it cannot be used."""
        return self.reading.decoded(record)

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in order, at most `chunk` at a time."""
        return loading.read(self, chunk)

    def load(self) -> Samples:
        """All samples at once."""
        return loading.load(self)


class _Records:
    """Records by offset. A process that gets it opens the files by itself."""

    def __init__(self, shards: Sequence[tuple[str, Shard]]):
        self.names = [name for name, _ in shards]
        self.shards = [shard for _, shard in shards]
        self.starts = [0, *accumulate(map(len, self.shards))]
        self.having = sum((Counter(shard.extensions) for shard in self.shards), Counter[str]())

    def __len__(self) -> int:
        return self.starts[-1]

    def order(self, places: Int64[ndarray, "p"], seed: int, epoch: int) -> Int64[ndarray, "p"]:
        """A permutation of all samples."""
        return epoch_order(len(self), seed, epoch, places)

    def __getitem__(self, position: int) -> Record:
        number = bisect_right(self.starts, position) - 1
        shard = self.shards[number]
        return unpacked(stored(shard, position - self.starts[number]), str(shard.path), self.names[number])


def _found(path: str | Sequence[str]) -> list[tuple[str, Shard]]:
    """The shards in their order, each with its data set's name."""
    if isinstance(path, str) and Path(path).is_dir():
        if (Path(path) / INDEX).exists():
            name, shards = read_index(Path(path))
            _tell_of_others(Path(path), shards)
            return [(name, shard) for shard in shards]
        paths = sorted(each for each in Path(path).iterdir() if each.suffix == ".tar")
        if not paths:
            raise DataError(f"The folder {path} holds no shards: neither {INDEX} nor a .tar file. Correct Shards.path.")
    else:
        patterns = [path] if isinstance(path, str) else path
        if not patterns:
            raise DataError("Shards.path is an empty list: name a folder of shards, or the shards.")
        paths = [shard for pattern in patterns for shard in _expanded(pattern)]
    found: dict[Path, tuple[str, Shard]] = {}
    for folder in dict.fromkeys(shard.parent for shard in paths):
        mine = [shard for shard in paths if shard.parent == folder]
        if len(set(mine)) < len(mine):
            raise DataError(f"Shards.path names a shard of {folder} twice. Name each once.")
        name, shards = _in_folder(folder, mine)
        if name in {other for other, _ in found.values()}:
            raise DataError(
                f"{folder} and another folder of Shards.path are both the data set {name!r}, so that their samples "
                "could not be told apart. Name one of them otherwise: python tools/make_shards.py index --name …"
            )
        found |= {shard.path: (name, shard) for shard in shards}
    return [found[shard] for shard in paths]


def _in_folder(folder: Path, paths: Sequence[Path]) -> tuple[str, list[Shard]]:
    if (folder / INDEX).exists():
        name, indexed = read_index(folder, {path.name for path in paths})
        if missing := sorted(set(paths) - {shard.path for shard in indexed}):
            raise DataError(
                f"{missing[0]} is not in {folder / INDEX}. Leave it out, or index the folder anew: python "
                f"tools/make_shards.py index {folder}"
            )
        return name, indexed
    logger.warning(
        "%s has no %s: every start scans the shards, and one that was changed goes unnoticed. Write it: "
        "python tools/make_shards.py index %s",
        *(folder, INDEX, folder),
    )
    shards = [scan(path) for path in paths]
    for shard in shards:
        if not shard.whole:
            raise DataError(
                f"{shard.path}: it has {len(shard):,} samples and ends without the end mark of tar files, as if it had "
                "been cut. Copy it again; if it is as it should be, index it: python tools/make_shards.py index "
                f"{folder}"
            )
    check_distinct(shards)
    return folder.name, shards


def _tell_of_others(folder: Path, shards: Sequence[Shard]) -> None:
    others = sorted({path.name for path in folder.glob("*.tar")} - {shard.path.name for shard in shards})
    if others:
        logger.warning(
            "%s: left out, because %s does not name them: %s%s. If they are of the data set, index it anew: python "
            "tools/make_shards.py index %s",
            *(folder, INDEX, ", ".join(others[:3]), " …" * (len(others) > 3), folder),
        )


def _expanded(pattern: str) -> list[Path]:
    if command := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", pattern):
        raise DataError(
            f"Shards.path {pattern!r} begins with {command[0]!r}: URLs and commands are never opened here. "
            "@RemoteShards() reads shards behind http://, https://, s3:// and gs://."
        )
    try:
        shards = [Path(name) for name in braceexpand(pattern)]
    except ValueError:
        raise DataError(f"Shards.path {pattern!r} has a brace without its other: '{{000..009}}.tar'.") from None
    for shard in shards:
        if not shard.is_file():
            raise DataError(
                f"There is no folder or shard {shard}, which Shards.path = {pattern!r} names. Correct the path, or "
                f"make the built-in shards there: python tools/make_shards.py digits {shard}"
            )
    return shards
