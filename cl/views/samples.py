"""Decoded samples, and what gives them: the reading side of every data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    caption: str
    key: str
    sample: int


@dataclass(frozen=True, eq=False)
class Samples:
    """Decoded samples, in the order of their shards.

    Attributes:
        images: RGB pictures, all of one size.
        label: class number, -1 where there is none.
        captions: what is in the picture, '' where nothing is said.
        keys: names, unique in the data set.
        sample: a 63-bit hash of (data set, shard, key).
    """

    images: UInt8[Tensor, "b c h w"]
    label: Int64[Tensor, "b"]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    sample: Int64[Tensor, "b"]

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        """All samples of `parts`, one after the other."""
        return Samples(
            images=torch.cat([part.images for part in parts]),
            label=torch.cat([part.label for part in parts]),
            captions=tuple(caption for part in parts for caption in part.captions),
            keys=tuple(key for part in parts for key in part.keys),
            sample=torch.cat([part.sample for part in parts]),
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
