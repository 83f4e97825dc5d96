"""The index of a folder of shards: what makes any sample one read, and what a damaged shard is known by.

Two files beside the shards. `index.json` has, of the data set and of every shard, what a person would ask:

    {"name": "digits-v1/train", "extensions": ["cls", "json", "png", "txt"],
     "shards": [{"name": "00000.tar", "samples": 2400, "bytes": 12345678, "sha256": "...",
                 "extensions": {"cls": 2400, ...}}, ...]}

`offsets.npy` has, shard by shard, the byte at which each of its samples begins, and the one at which the last ends:
int64, mapped into memory and never read whole.
"""

import hashlib
import json
import mmap
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from webdataset.tariterators import base_plus_ext

from cl.errors import DataError
from cl.views.groups import stable_hash
from cl.views.records import Record
from cl.views.tar import Buffer, Member, TarDamage, members

INDEX = "index.json"
OFFSETS = "offsets.npy"


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard as it was found.

    Attributes:
        path: the tar file.
        offsets: byte at which each sample begins, and the one at which the last ends.
        bytes: of the file.
        extensions: how many samples have a member of an extension.
        sha256: of the file; '' where it was not computed.
        whole: the file has the end mark of tar files: it was not cut between two members.
        passed_over: members that belong to no sample, because they have no extension.
        keys: a hash of each sample's key; empty where it was read from an index, for which they were compared before.
    """

    path: Path
    offsets: Int64[ndarray, "n"]
    bytes: int
    extensions: Mapping[str, int]
    sha256: str = ""
    whole: bool = True
    passed_over: int = 0
    keys: Int64[ndarray, "s"] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def scan(path: Path, digest: bool = False) -> Shard:
    """Reads a shard's headers, and with `digest` all its bytes.

    Raises:
        DataError: it is empty, damaged, cut inside a member or without any sample, or has a member twice.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: an empty file. Copy the shard again.")
    offsets, keys, present = list[int](), list[int](), set[str]()
    extensions, passed_over, end = Counter[str](), 0, 0
    last = None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            for key, extension, member in named(content):
                end = min(member.end, size)
                if key is None:
                    passed_over += 1
                    continue
                if key != last:
                    last, present = key, set()
                    keys.append(stable_hash(key))
                    offsets.append(member.start)
                if extension in present:
                    raise DataError(f"{path}: the member {member.name!r} comes twice. {AGAIN}")
                present.add(extension)
                extensions[extension] += 1
        except TarDamage as damage:
            after = f", after {len(keys):,} samples of which the last is {last!r}" if keys else ""
            raise DataError(f"{path}: {damage}{after}. Copy the shard again.") from None
        sha256 = hashlib.sha256(content).hexdigest() if digest else ""
    if not keys:
        raise DataError(f"{path}: a tar file without any sample. Take it out of the data set.")
    return Shard(path, np.array([*offsets, end]), size, extensions, sha256, end < size, passed_over, np.array(keys))


def named(content: Buffer) -> Iterator[tuple[str | None, str, Member]]:
    """Members with their sample's key and their extension in lower case, as webdataset splits names; None: of none."""
    for member in members(content):
        key, extension = base_plus_ext(member.name)
        hidden = key is not None and key.endswith("/")  # 'folder/.name', of which webdataset makes the key 'folder/'
        yield (None if hidden else key), (extension or "").lower(), member


def check_distinct(shards: Sequence[Shard]) -> None:
    """Compares the keys of a data set's shards, which were scanned.

    Raises:
        DataError: one comes twice.
    """
    keys = np.concatenate([shard.keys for shard in shards])
    order = keys.argsort(kind="stable")
    twice = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(twice):
        row = int(twice.min())
        for shard in shards:
            if row < len(shard):
                key = next(key for key, _, _ in named(stored(shard, row)) if key is not None)
                raise DataError(
                    f"{shard.path}: the key {key!r} comes twice in the data set. Either two samples share a name, or "
                    f"the members of one do not stand together. {AGAIN}"
                )
            row -= len(shard)


def stored(shard: Shard, row: int) -> bytes:
    """The bytes of a sample: its part of the tar file.

    Raises:
        DataError: the file is gone or was cut.
    """
    begin, end = extent(shard, row, row + 1)
    try:
        file = os.open(shard.path, os.O_RDONLY)
        try:
            content = os.pread(file, end - begin, begin)
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{shard.path}: cannot be read ({error.strerror}). It was there when training began.") from None
    if len(content) < end - begin:
        now = shard.path.stat().st_size
        raise DataError(f"{shard.path}: cut at byte {now} since it was opened. Copy the shard again.")
    return content


def extent(shard: Shard, first: int, last: int) -> tuple[int, int]:
    """The bytes from sample `first` up to sample `last` of a shard.

    Raises:
        DataError: offsets that no shard has.
    """
    begin, end = shard.offsets[first].item(), shard.offsets[last].item()
    if not 0 <= begin < end <= shard.bytes:
        raise DataError(f"{shard.path}: its index has offsets that it cannot have. Index it anew.")
    return begin, end


def write_index(folder: Path, name: str, shards: Sequence[Shard]) -> None:
    """Writes the index of shards that were scanned with a digest, aside and then renamed.

    Raises:
        DataError: a key comes twice.
        OSError: the folder cannot be written.
    """
    check_distinct(shards)
    index = {
        "name": name,
        "extensions": sorted(set().union(*(shard.extensions for shard in shards))),
        "shards": [
            {
                "name": shard.path.name,
                "samples": len(shard),
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "extensions": dict(sorted(shard.extensions.items())),
            }
            for shard in shards
        ],
    }
    with (folder / f".{OFFSETS}").open("wb") as file:
        np.save(file, np.concatenate([shard.offsets for shard in shards]), allow_pickle=False)
    (folder / f".{INDEX}").write_text(json.dumps(index, indent=1) + "\n")
    for file in (OFFSETS, INDEX):
        (folder / f".{file}").rename(folder / file)


def unpacked(content: bytes, where: str, name: str) -> Record:
    """The record that a sample's part of a shard holds; `name` is the data set's.

    Raises:
        DataError: it holds none.
    """
    found, key = {}, None
    try:
        for stem, extension, member in named(content):
            if stem is not None:
                key = stem
                found[extension] = content[member.data : member.data + member.size]
    except TarDamage as damage:
        raise DataError(f"{where}: {damage}. It is not what its index says: index it anew.") from None
    if key is None:
        raise DataError(f"{where}: no sample where its index says one is. Index it anew.")
    return Record(key, found, where, stable_hash(name, key))


class Entry(NamedTuple):
    """What an index says of a shard; no offsets where it was written by an earlier version."""

    name: str
    samples: int
    bytes: int
    sha256: str
    extensions: Mapping[str, int]
    offsets: Int64[ndarray, "n"] | None

    def shard(self, path: Path) -> Shard:
        """The shard as the index has it."""
        assert self.offsets is not None
        return Shard(path, self.offsets, self.bytes, self.extensions, self.sha256)


def parse_index(text: str, offsets: Int64[ndarray, "n"] | None) -> tuple[str, list[Entry]]:
    """The data set's name and what the two files of an index say of its shards.

    Raises:
        ValueError, KeyError, TypeError: they are no index.
    """
    content = json.loads(text)
    rows = content["shards"]
    lengths = [int(row["samples"]) + 1 for row in rows]
    if offsets is not None and offsets.shape != (sum(lengths),):
        raise ValueError(f"{OFFSETS} is of other shards")
    ends = np.cumsum(lengths)
    return str(content["name"]), [
        Entry(
            str(row["name"]),
            length - 1,
            int(row["bytes"]),
            str(row.get("sha256", "")),
            {} if offsets is None else dict(row["extensions"]),
            None if offsets is None else offsets[end - length : end],
        )
        for row, length, end in zip(rows, lengths, ends.tolist(), strict=True)
    ]


def read_index(folder: Path, only: Container[str] | None = None) -> tuple[str, list[Shard]]:
    """The data set's name, and its shards or those named `only`, each of the size that the index says.

    An index without offsets, as earlier versions wrote it, is completed by scanning the shards.

    Raises:
        DataError: the index cannot be read, or a shard is missing or of another size or number of samples.
    """
    try:
        offsets = np.load(folder / OFFSETS, mmap_mode="r") if (folder / OFFSETS).exists() else None
        name, entries = parse_index((folder / INDEX).read_text(), offsets)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / INDEX} cannot be read as an index of shards ({error!r}). Write it again: "
            f"python tools/make_shards.py index {folder}"
        ) from None
    if not entries:
        raise DataError(f"{folder / INDEX} names no shards. Write it again.")
    return name, [_audited(folder, entry) for entry in entries if only is None or entry.name in only]


def _audited(folder: Path, entry: Entry) -> Shard:
    path = folder / entry.name
    if path.name != entry.name or not path.is_file():
        raise DataError(f"{folder / INDEX} names the shard {entry.name!r}, which is not in {folder}. Copy it there.")
    if path.stat().st_size == entry.bytes and entry.offsets is not None:
        return entry.shard(path)
    found = scan(path)
    if len(found) != entry.samples or found.bytes != entry.bytes:
        raise DataError(
            f"{path}: its index says {entry.samples:,} samples in {entry.bytes:,} bytes, found {len(found):,} in "
            f"{found.bytes:,}. The file was cut or changed after it was indexed: copy it again, or index it anew if it "
            f"is meant to be so: python tools/make_shards.py index {folder}"
        )
    return found


AGAIN = "Write the shards again, the members of a sample together and each sample with a key of its own."
