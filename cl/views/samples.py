"""Decoded samples, and what gives them: the reading side of every data set."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from cl.components import Capability


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded sample, its picture of whatever size. Fields as in `Samples`."""

    image: UInt8[Tensor, "c h w"]
    label: int
    captions: tuple[str, ...]
    key: str
    sample: int


@dataclass(frozen=True, eq=False)
class Samples:
    """Decoded samples, in the order of their shards.

    Attributes:
        images: RGB pictures, all of one size.
        label: class number, -1 where there is none.
        captions: what is in the picture: of each sample one text or several, '' where nothing is said.
        keys: names, unique in the data set.
        sample: a 63-bit hash of (data set, key).
        skipped: how many samples were left out because they cannot be used, by where they are and why.
    """

    images: UInt8[Tensor, "b c h w"]
    label: Int64[Tensor, "b"]
    captions: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    sample: Int64[Tensor, "b"]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> "Samples":
        """The samples at `rows`, in that order."""
        at = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            images=self.images[at],
            label=self.label[at],
            captions=tuple(self.captions[row] for row in rows),
            keys=tuple(self.keys[row] for row in rows),
            sample=self.sample[at],
        )

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        """All samples of `parts`, one after the other."""
        return Samples(
            images=torch.cat([part.images for part in parts]),
            label=torch.cat([part.label for part in parts]),
            captions=tuple(texts for part in parts for texts in part.captions),
            keys=tuple(key for part in parts for key in part.keys),
            sample=torch.cat([part.sample for part in parts]),
            skipped=sum((Counter(part.skipped) for part in parts), Counter()),
        )


@runtime_checkable
class DataSet(Protocol):
    """A named split of pictures. Its constructor opens nothing."""

    provides: frozenset[Capability]

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in shard order, at most `chunk` at a time."""
        ...

    def load(self) -> Samples:
        """All samples at once."""
        ...
