"""A folder of pictures, as it is."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import gin

from cl.errors import DataError
from cl.views import loading
from cl.views.decode import EXTENSIONS
from cl.views.files import FileRecords, PictureFile, extension, key_of
from cl.views.reading import Reading
from cl.views.records import Record
from cl.views.samples import Sample, Samples

logger = logging.getLogger(__name__)


@gin.register
class Folder:
    """All pictures in a folder and the folders in it, in the order of their names; hidden ones are passed over.

    Links to pictures and folders are followed.

    The samples, and so their views, are those of shards made by `tools/make_shards.py folder`.

    Args:
        path: the folder.
        label: the class is the first folder on the way to a picture, numbered in the order of their names.
        size: as `Shards`.
        max_bad_fraction: as `Shards`.
        name: of the data set, of which the samples' ids are a function; None: the folder's.

    Raises (when read):
        DataError: no such folder, no pictures in it, a folder in it that cannot be read or that a link makes come
            twice, two pictures of one name that differ in their ending, or with `label` a picture that lies in no
            folder; and as `Shards`.
    """

    def __init__(
        self,
        path: str,
        label: bool = False,
        size: int | None = None,
        max_bad_fraction: float = 0.01,
        name: str | None = None,
    ):
        self.reading = Reading("Folder", "cls" if label else None, None, size, max_bad_fraction)
        self.path = path
        self.label = label
        self.provides = self.reading.provides
        self.max_bad_fraction = max_bad_fraction
        self.name = name
        self._records: FileRecords | None = None

    def records(self) -> FileRecords:
        """All samples as they are stored; the folder is listed at the first call."""
        if self._records is None:
            self._records = self._listed()
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

    def classes(self) -> tuple[str, ...]:
        """The folders that are classes, in the order of their numbers."""
        return _classes(self._pictures())

    def _listed(self) -> FileRecords:
        root, files, pictures = Path(self.path), [], self._pictures()
        number = {name: str(index).encode() for index, name in enumerate(_classes(pictures))}
        for path in pictures:
            if self.label and len(path.parts) == 1:
                raise DataError(f"{root / path} lies in no folder that could be its class. Set Folder.label = False.")
            others = {"cls": number[path.parts[0]]} if self.label else {}
            files.append(PictureFile(key_of(path), root / path, others))
        return FileRecords(self.name or root.resolve().name, root, files)

    def _pictures(self) -> list[PurePosixPath]:
        root = Path(self.path)
        if not root.is_dir():
            raise DataError(f"There is no folder {root}. Correct Folder.path.")
        found, others, seen = [], 0, {root.resolve(): root}
        for folder, inner, names in os.walk(root, followlinks=True, onerror=_unreadable):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for path in (Path(folder, name) for name in inner):
                if (first := seen.setdefault(path.resolve(), path)) is not path:
                    raise DataError(
                        f"{path} is {first} once more, by a link: its pictures would come twice. Remove it."
                    )
            for name in names:
                if not name.startswith("."):
                    path = Path(folder, name)
                    if extension(path) in EXTENSIONS:
                        found.append(PurePosixPath(path.relative_to(root).as_posix()))
                    else:
                        others += 1
        if others:
            logger.info("%s: %s files that are no pictures are passed over.", root, f"{others:,}")
        return sorted(found)


def _classes(pictures: list[PurePosixPath]) -> tuple[str, ...]:
    return tuple(sorted({path.parts[0] for path in pictures if len(path.parts) > 1}))


def _unreadable(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be read: {error.strerror}. Make it readable, or move it away.")
