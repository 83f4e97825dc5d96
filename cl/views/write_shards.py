"""Writes WebDataset shards and the index that `Shards` checks them by."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from webdataset.writer import TarWriter

from cl.views.shards import INDEX


def write_shards(folder: Path, name: str, samples: Iterable[tuple[str, Mapping[str, bytes]]], per_shard: int) -> None:
    """Writes samples, each a key and its members' bytes by extension, `per_shard` to a file, and then the index.

    `name` is the data set's: the samples' ids depend on it. Equal samples make equal files.

    Raises:
        FileExistsError: the folder is there and is not empty.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"the folder {folder} is not empty")
    shards, extensions, rest = [], set(), iter(samples)
    while some := list(islice(rest, per_shard)):
        path = folder / f"shard-{len(shards):06d}.tar"
        # A given time keeps files reproducible; without one every member would also have a header more.
        with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
            for key, members in some:
                tar.write({"__key__": key, **members})
                extensions |= members.keys()
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        shards.append({"name": path.name, "samples": len(some), "bytes": len(content), "sha256": digest})
    index = {"name": name, "extensions": sorted(extensions), "shards": shards}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
