"""A data set of torchvision's that is on disk, to be written as shards."""

import inspect
from io import BytesIO
from pathlib import Path
from typing import Any

import torchvision.datasets
from jaxtyping import Int64
from numpy import ndarray
from PIL import Image

from cl.components import Capability
from cl.errors import DataError
from cl.views.groups import stable_hash
from cl.views.order import epoch_order
from cl.views.reading import Reading
from cl.views.records import Record
from cl.views.samples import Sample


class TorchvisionSet:
    """Pictures and class numbers, of a class of `torchvision.datasets`. Nothing is downloaded.

    Files stay as they are where the data set has them; pictures that it has as arrays become PNG.

    Args:
        name: of the class: CIFAR10, STL10.
        root: folder that torchvision keeps it in.
        split: 'train' or 'test' where the class has `train`, else its `split`.
        max_bad_fraction: as `Shards`.

    Raises (when opened):
        DataError: no such class, split or files.
    """

    provides: frozenset[Capability] = frozenset({"labels"})

    def __init__(self, name: str, root: Path, split: str, max_bad_fraction: float = 0.01):
        self.name = name
        self.root = root
        self.split = split
        self.max_bad_fraction = max_bad_fraction
        self.reading = Reading("TorchvisionSet", "cls", None, None, max_bad_fraction)
        self._records: _Records | None = None

    def records(self) -> "_Records":
        """All samples, opened at the first call."""
        if self._records is None:
            self._records = _Records(self._opened(), f"{self.name}/{self.split}", self.root)
        return self._records

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds; BadSample if it cannot be used."""
        return self.reading.decoded(record)

    def _opened(self) -> Any:
        kind = getattr(torchvision.datasets, self.name, None)
        if not inspect.isclass(kind):
            raise DataError(f"torchvision.datasets has no {self.name!r}.")
        takes = inspect.signature(kind).parameters
        split: dict[str, Any] = {}
        if "train" in takes:
            if self.split not in ("train", "test"):
                raise DataError(f"{self.name} has the splits train and test, not {self.split!r}.")
            split = {"train": self.split == "train"}
        elif "split" in takes:
            split = {"split": self.split}
        settings = {"root": str(self.root), **split, **({"download": False} if "download" in takes else {})}
        try:
            return kind(**settings)
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise DataError(f"{self.name} cannot be opened in {self.root}: {error}") from None


class _Records:
    def __init__(self, data: Any, name: str, root: Path):
        self.data = data
        self.name = name
        self.root = root
        self.having = {"cls": len(data)}

    def __len__(self) -> int:
        return len(self.data)

    def order(self, places: Int64[ndarray, "p"], seed: int, epoch: int) -> Int64[ndarray, "p"]:
        """A permutation of all samples."""
        return epoch_order(len(self), seed, epoch, places)

    def __getitem__(self, position: int) -> Record:
        """A file that cannot be read is counted as a sample without a picture."""
        key = f"{position:08d}"
        if hasattr(self.data, "samples"):  # a folder of files and their classes
            path, label = self.data.samples[position]
            try:
                picture = {Path(path).suffix[1:].lower(): Path(path).read_bytes()}
            except OSError:
                picture = {}
        else:
            try:
                image, label = self.data[position]
            except OSError:
                return Record(key, {}, str(self.root), stable_hash(self.name, key))
            picture = {"png": _png(image)}
        if not isinstance(label, int):
            raise DataError(f"{self.name} has no class numbers: of a picture it says {type(label).__name__}.")
        members = {**picture, "cls": str(label).encode()}
        return Record(key, members, str(self.root), stable_hash(self.name, key))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image = image.convert("RGB") if image.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA") else image
    image.save(buffer, "PNG")
    return buffer.getvalue()
