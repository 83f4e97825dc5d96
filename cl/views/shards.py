"""WebDataset shards: tar files whose members of one stem are one sample, beside an `index.json` that counts them.

The tar files are read with `webdataset`; what they hold is decoded here. Its own decoder would unpickle, and its own
opener would run `pipe:` commands.

The index is what tells a shard that was cut at a member's border from a whole one:

    {"name": "digits-v1/train", "extensions": ["cls", "json", "png", "txt"],
     "shards": [{"name": "shard-000000.tar", "samples": 4096, "bytes": 21234567, "sha256": "..."}, ...]}
"""

import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import gin
import torch
from braceexpand import braceexpand
from einops import rearrange
from webdataset.tariterators import group_by_keys, tar_file_expander

from cl.components import Capability
from cl.errors import DataError
from cl.views.decode import EXTENSIONS, decode, square
from cl.views.groups import stable_hash
from cl.views.samples import Sample, Samples

logger = logging.getLogger(__name__)

INDEX = "index.json"


class Record(NamedTuple):
    """A sample as it stands in its shard: bytes by extension and `__key__`; the shard; the data set's name."""

    members: dict[str, Any]
    shard: Path
    name: str


@gin.register
class Shards:
    """The samples of WebDataset shards, in the order of the shards and of their members.

    Opens nothing before it is read. Every count that the index states is checked; shards without an index are read
    as they are, with a warning.

    Args:
        path: a folder of shards with its index; or shards by name, with braces (`'data/{000..009}.tar'`) or as a list.
        label: extension of the member that holds the class number; None: none.
        caption: extension of the member that holds the caption, in UTF-8; None: none.
        size: pictures are resized by their shorter side and cut to a square of so many pixels about the middle;
            None: they are all of one size already.

    Raises (when read):
        DataError: naming the shard, and the key where there is one: a folder or shard that is missing, damaged, cut or
            of another number of samples than the index says; a key that comes twice; a sample without a picture that
            can be decoded, or without its label or caption; pictures of different sizes; a URL or a command as path.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        label: str | None = "cls",
        caption: str | None = "txt",
        size: int | None = None,
    ):
        if size is not None and size < 1:
            raise ValueError(f"Shards.size must be at least 1 pixel, got {size}")
        self.path = path
        self.label = label
        self.caption = caption
        self.size = size
        provided: dict[Capability, str | None] = {"labels": label, "captions": caption}
        self.provides: frozenset[Capability] = frozenset(word for word, extension in provided.items() if extension)

    def samples(self) -> Iterator[Sample]:
        """One sample after the other, each picture of its own size unless `size` says otherwise."""
        return (self.decoded(record) for record in self.records())

    def records(self, order: Callable[[int], Sequence[int]] = range) -> Iterator[Record]:
        """One undecoded sample after the other; `order` gives, for a number of shards, the order they are read in."""
        shards, name, expected = self._listed()
        seen: set[str] = set()
        for shard in (shards[number] for number in order(len(shards))):
            found = 0
            for members in _members(shard):
                key = members["__key__"]
                if key in seen:
                    raise DataError(
                        f"{shard}: the key {key!r} comes twice. Either two samples share a name, or the members of one "
                        "sample do not stand together. Write the shards again, each sample with a key of its own."
                    )
                seen.add(key)
                found += 1
                yield Record(members, shard, name)
            if found != expected.get(shard, found):
                raise DataError(
                    f"{shard}: its index says {expected[shard]} samples, found {found}. The file was cut or "
                    f"changed after it was written: copy it again, or make a new {INDEX} if it is meant to be so."
                )
            if not found:
                raise DataError(f"{shard}: a tar file without any sample. Take it out of the data set.")

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in order, at most `chunk` at a time."""
        samples = self.samples()
        first: Sample | None = None
        while rows := list(islice(samples, chunk)):
            first = first or rows[0]
            for row in rows:
                if row.image.shape != first.image.shape:
                    raise DataError(
                        f"{self.path}: {row.key!r} is a picture of {_pixels(row)} pixels, {first.key!r} one of "
                        f"{_pixels(first)}. Set Shards.size to bring them to one size."
                    )
            yield Samples(
                images=torch.stack([row.image for row in rows]),
                label=torch.tensor([row.label for row in rows]),
                captions=tuple(row.caption for row in rows),
                keys=tuple(row.key for row in rows),
                sample=torch.tensor([row.sample for row in rows]),
            )

    def load(self) -> Samples:
        """All samples at once."""
        return Samples.concatenate(list(self.read()))

    def _listed(self) -> tuple[list[Path], str, dict[Path, int]]:
        """The shards, the data set's name, and how many samples each shard should have, as far as it is known."""
        if isinstance(self.path, str) and Path(self.path).is_dir():
            shards = _in_folder(Path(self.path))
        else:
            shards = [shard for pattern in _patterns(self.path) for shard in _expanded(pattern)]
        name, expected = shards[0].parent.name, {}
        for folder in sorted({shard.parent for shard in shards}):
            if (folder / INDEX).exists():
                name, counts = _index(folder)
                expected |= counts
            else:
                logger.warning("%s has no %s: a shard that was cut would go unnoticed.", folder, INDEX)
        return shards, name, expected

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds.

        Raises:
            DataError: it has no picture, label or caption that can be read; shard and key are named.
        """
        members, shard, name = record
        key = members["__key__"]
        image = None
        try:
            extension = next(extension for extension in EXTENSIONS if extension in members)
            image = decode(members[extension])
            label = -1 if self.label is None else int(members[self.label])
            caption = "" if self.caption is None else members[self.caption].decode("utf-8").strip()
        except StopIteration:
            have = ", ".join(extension for extension in members if not extension.startswith("_"))
            raise DataError(
                f"{shard}: {key!r} has no picture: its members are {have}. Pictures end in {', '.join(EXTENSIONS)}."
            ) from None
        except KeyError as missing:
            raise DataError(
                f"{shard}: {key!r} has no member {missing.args[0]!r}. Name the extension the shards have in "
                "Shards.label and Shards.caption, or None to read without."
            ) from None
        except (ValueError, OSError) as error:
            what = "no picture that can be decoded" if image is None else "a label or caption that cannot be read"
            raise DataError(f"{shard}: {key!r} has {what}: {error}. Mend the sample or leave it out.") from None
        pixels = torch.from_numpy(image if self.size is None else square(image, self.size))
        return Sample(
            image=rearrange(pixels, "h w c -> c h w"),
            label=label,
            caption=caption,
            key=key,
            sample=stable_hash(name, shard.name, key),
        )


def _in_folder(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        shards = list(_index(folder)[1])
    else:
        shards = sorted(path for path in folder.iterdir() if path.suffix == ".tar")
    if not shards:
        raise DataError(f"The folder {folder} holds no shards: neither {INDEX} nor a .tar file. Correct Shards.path.")
    return shards


def _patterns(path: str | Sequence[str]) -> Sequence[str]:
    patterns = [path] if isinstance(path, str) else path
    if not patterns:
        raise DataError("Shards.path is an empty list: name a folder of shards, or the shards.")
    return patterns


def _expanded(pattern: str) -> list[Path]:
    if command := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", pattern):
        raise DataError(
            f"Shards.path {pattern!r} begins with {command[0]!r}: URLs and commands are never opened. Copy the shards "
            "to a folder and name that."
        )
    shards = [Path(name) for name in braceexpand(pattern)]
    for shard in shards:
        if not shard.is_file():
            raise DataError(
                f"There is no folder or shard {shard}, which Shards.path = {pattern!r} names. Correct the path, or "
                f"make the built-in shards there: python tools/make_shards.py digits {shard}"
            )
    return shards


def _index(folder: Path) -> tuple[str, dict[Path, int]]:
    """Name of the data set in the folder, and the number of samples of each shard."""
    try:
        content = json.loads((folder / INDEX).read_text())
        name, counts = str(content["name"]), {str(shard["name"]): int(shard["samples"]) for shard in content["shards"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / INDEX} cannot be read as an index of shards ({error!r}). Write it again.") from None
    for shard in counts:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise DataError(f"{folder / INDEX} names the shard {shard!r}, which is not in {folder}. Copy it there.")
    return name, {folder / shard: count for shard, count in counts.items()}


def _members(shard: Path) -> Iterator[dict[str, Any]]:
    """The samples of a shard as webdataset groups them: `__key__`, and the bytes of each member by extension."""
    if shard.stat().st_size == 0:
        raise DataError(f"{shard}: an empty file. Copy the shard again.")
    try:
        with shard.open("rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}]))
    except tarfile.ReadError as error:
        raise DataError(
            f"{shard}: not a whole tar file ({error.args[0]}, of {shard.stat().st_size} bytes). Copy the shard again."
        ) from None
    except ValueError as error:
        raise DataError(f"{shard}: {error.args[0]}. Write the shard again, every member once.") from None


def _pixels(sample: Sample) -> str:
    return "{1} x {0}".format(*sample.image.shape[1:])
