"""Pictures with captions, listed in a table."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import gin

from cl.errors import DataError
from cl.views import loading
from cl.views.files import FileRecords, PictureFile, key_of
from cl.views.reading import Reading
from cl.views.records import Record
from cl.views.samples import Sample, Samples


@gin.register
class Pairs:
    """The pictures and captions of a table: .csv, .tsv (UTF-8, a header line) or .parquet (needs pyarrow).

    Rows of one picture are one sample with several captions. The samples, and so their views, are those of shards made
    by `tools/make_shards.py pairs`.

    Args:
        path: the table.
        image: column of the pictures' paths, from the table's folder on.
        caption: column of the captions.
        label: column of the labels: numbers, or names, which are numbered in their order; None: none. A sample of which
            it says nothing cannot be used; of class -1 it is of none.
        size: as `Shards`.
        max_bad_fraction: as `Shards`; a picture that is not there is one that cannot be used.
        name: of the data set, of which the samples' ids are a function; None: the file's without its ending.

    Raises (when read):
        DataError: no such table or column, a table that is damaged or leaves a quote open, two pictures of one name
            that differ in their ending, or two labels of one picture; and as `Shards`.
    """

    def __init__(
        self,
        path: str,
        image: str = "image",
        caption: str = "caption",
        label: str | None = None,
        size: int | None = None,
        max_bad_fraction: float = 0.01,
        name: str | None = None,
    ):
        self.reading = Reading("Pairs", label and "cls", "txt", size, max_bad_fraction)
        self.path = path
        self.image = image
        self.caption = caption
        self.label = label
        self.provides = self.reading.provides
        self.max_bad_fraction = max_bad_fraction
        self.name = name
        self._records: FileRecords | None = None

    def records(self) -> FileRecords:
        """All samples as they are stored; the table is read at the first call."""
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

    def _listed(self) -> FileRecords:
        table = Path(self.path)
        captions: dict[tuple[str, int], list[str]] = {}
        labels: dict[tuple[str, int], str] = {}
        columns = [column for column in (self.image, self.caption, self.label) if column]
        for line, row in enumerate(_rows(table, columns)):
            picture = row[self.image], 0 if row[self.image] else line  # rows that name none are not one sample
            captions.setdefault(picture, []).append(row[self.caption])
            if self.label and labels.setdefault(picture, row[self.label]) != row[self.label]:
                raise DataError(f"{table}: {row[self.image]!r} has two labels. Give it one.")
        number = _numbers(set(labels.values()) - {""})
        files = []
        for index, (picture, texts) in enumerate(captions.items()):
            others = {f"{i}.txt" if i else "txt": _bytes(text) for i, text in enumerate(texts)}
            if label := labels.get(picture):
                others["cls"] = number[label]
            files.append(PictureFile(_key(picture[0], index), table.parent / picture[0], others))
        return FileRecords(self.name or table.stem, table, files)


def _rows(table: Path, columns: list[str]) -> Iterator[Mapping[str, str]]:
    if not table.is_file():
        raise DataError(f"There is no file {table}. Correct Pairs.path.")
    if table.suffix == ".parquet":
        rows, have = _parquet(table, columns)
    elif table.suffix in (".csv", ".tsv"):
        rows = _separated(table, "\t" if table.suffix == ".tsv" else ",")
        have = list(next(rows, {}))
    else:
        raise DataError(f"{table}: a table ends in .csv, .tsv or .parquet.")
    for column in columns:
        if column not in have:
            raise DataError(
                f"{table} has no column {column!r}; it has {', '.join(have)}. Name them in Pairs.image, Pairs.caption "
                "and Pairs.label."
            )
    return ({column: row[column] for column in columns} for row in rows)


def _separated(table: Path, delimiter: str) -> Iterator[Mapping[str, str]]:
    """The header, of columns named by themselves, and the lines."""
    # What is not UTF-8 is kept as it is, so that it is counted where it is decoded.
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            yield {name: name for name in header}
            for line in lines:
                if line:
                    yield dict(zip_longest(header, line[: len(header)], fillvalue=""))
        except csv.Error as error:
            raise DataError(
                f"{table}, line {lines.line_num}: {error}. A field that begins with a quote ends with one, and quotes "
                'inside it are doubled: "a ""b"" c". Mend the line.'
            ) from None


def _parquet(table: Path, columns: list[str]) -> tuple[Iterable[Mapping[str, str]], list[str]]:
    try:
        from pyarrow import ArrowException, parquet  # large, and only these tables need it
    except ImportError:
        raise DataError(f"{table} needs pyarrow to be read: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(table)
        rows = [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for batch in file.iter_batches(columns=columns)
            for row in batch.to_pylist()
        ]
    except (ArrowException, OSError) as error:
        raise DataError(f"{table} cannot be read as parquet: {error}. Write or copy it again.") from None
    return rows, file.schema_arrow.names


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _key(picture: str, index: int) -> str:
    path = PurePosixPath(picture)
    return f"{index:08d}" if path.is_absolute() or ".." in path.parts or not path.name else key_of(path)


def _numbers(labels: set[str]) -> dict[str, bytes]:
    """Class numbers: of numbers themselves, of names their place among all names."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return {label: label.encode() for label in labels}
    return {label: str(index).encode() for index, label in enumerate(sorted(labels))}
