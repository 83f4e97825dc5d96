"""Samples whose pictures are files of their own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxtyping import Int64
from numpy import ndarray

from cl.errors import DataError
from cl.views.groups import stable_hash
from cl.views.order import epoch_order
from cl.views.records import Record


class PictureFile(NamedTuple):
    """A sample: its key, its picture, and the bytes of its other members by extension."""

    key: str
    path: Path
    others: Mapping[str, bytes]


class FileRecords:
    """Records of picture files, as `tools/make_shards.py` would write them to shards. Keeps their names in memory.

    Args:
        name: the data set's.
        where: what lists the files, for messages.
        files: in their order.

    Raises:
        DataError: there are none, or two have one key.
    """

    def __init__(self, name: str, where: Path, files: Sequence[PictureFile]):
        if not files:
            raise DataError(f"{where} has no pictures.")
        first: dict[str, Path] = {}
        for file in files:
            if first.setdefault(file.key, file.path) is not file.path:
                raise DataError(
                    f"{where}: {first[file.key]} and {file.path} would both be the sample {file.key!r}. Rename one."
                )
        self.name = name
        self.where = where
        self.files = files
        self.having: Counter[str] = Counter()
        for file in files:
            self.having.update((extension(file.path), *file.others))

    def __len__(self) -> int:
        return len(self.files)

    def order(self, places: Int64[ndarray, "p"], seed: int, epoch: int) -> Int64[ndarray, "p"]:
        """A permutation of all samples."""
        return epoch_order(len(self), seed, epoch, places)

    def __getitem__(self, position: int) -> Record:
        key, path, others = self.files[position]
        try:
            picture = {extension(path): path.read_bytes()}
        except OSError:  # counted as a sample without a picture
            picture = {}
        return Record(key, {**picture, **others}, str(self.where), stable_hash(self.name, key))


def extension(path: Path) -> str:
    """In lower case, without the dot."""
    return path.suffix[1:].lower()


def key_of(path: PurePosixPath) -> str:
    """The path without its extension. A dot left in its last part, which shards would split at, becomes '_'."""
    return str(path.with_name(path.stem.replace(".", "_")))
