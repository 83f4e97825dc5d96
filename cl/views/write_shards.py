"""Writes WebDataset shards and their index."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from cl.errors import DataError
from cl.views.index import Shard, scan, write_index


def write_shards(folder: Path, name: str, samples: Iterable[tuple[str, Mapping[str, bytes]]], per_shard: int) -> None:
    """Writes samples, each a key and its members' bytes by extension, `per_shard` to a file, and then the index.

    `name` is the data set's: the samples' ids depend on it. Equal samples make equal files.

    Raises:
        DataError: a key that would lead out of the folder, or comes twice.
        FileExistsError: the folder is there and is not empty.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"the folder {folder} is not empty")
    shards, rest = [], iter(samples)
    while some := list(islice(rest, per_shard)):
        shards.append(write_shard(folder / f"{len(shards):05d}.tar", some))
    write_index(folder, name, shards)


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> Shard:
    """Writes one shard aside, reads its headers again, and renames it: a file of that name is whole.

    Raises:
        DataError: a key that would lead out of the folder, has a dot in its last part, or comes twice in a row.
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.part")
    # A given time keeps files reproducible; without one every member would also have a header more.
    with aside.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for key, members in samples:
            if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
                raise DataError(
                    f"The key {key!r} would lead out of a folder that it is unpacked to. Name it otherwise."
                )
            if base_plus_ext(f"{key}.x") != (key, "x"):
                raise DataError(f"The key {key!r} has a dot in its last part, where its extension would begin.")
            tar.write({"__key__": key, **members})
    shard = scan(aside, digest=True)
    aside.rename(path)
    return replace(shard, path=path)
