"""What makes two samples positives of each other. A group is hashed with its kind, so a label never equals a sample."""

import hashlib
from typing import Protocol, runtime_checkable

import gin
import torch
from jaxtyping import Int64
from torch import Tensor

from cl.components import Capability
from cl.views.samples import Samples


@runtime_checkable
class Grouping(Protocol):
    """The group of every sample of a data set."""

    provides: frozenset[Capability]
    needs: frozenset[Capability]

    def __call__(self, samples: Samples) -> Int64[Tensor, "b"]: ...


@gin.register
class BySample:
    """Every sample is its own group: self-supervision."""

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset()

    def __call__(self, samples: Samples) -> Int64[Tensor, "b"]:
        return samples.sample


@gin.register
class ByLabel:
    """Samples of one label are positives (SupCon). A sample without a label (-1) is a group of its own."""

    provides: frozenset[Capability] = frozenset({"groups of a label"})
    needs: frozenset[Capability] = frozenset({"labels"})

    def __call__(self, samples: Samples) -> Int64[Tensor, "b"]:
        labels = samples.label.unique().tolist()
        hashed = {label: stable_hash("label", str(label)) for label in labels}
        group = torch.tensor([hashed[label] for label in samples.label.tolist()], dtype=torch.int64)
        return torch.where(samples.label < 0, samples.sample, group)


@gin.register
class ByCaption:
    """Samples of one first caption are positives (UniCL). A sample without a caption is a group of its own."""

    provides: frozenset[Capability] = frozenset({"groups of a caption"})
    needs: frozenset[Capability] = frozenset({"captions"})

    def __call__(self, samples: Samples) -> Int64[Tensor, "b"]:
        first = [captions[0] for captions in samples.captions]
        group = [stable_hash("caption", caption) for caption in first]
        empty = torch.tensor([caption == "" for caption in first])
        return torch.where(empty, samples.sample, torch.tensor(group, dtype=torch.int64))


def stable_hash(*parts: str) -> int:
    """63 bits of blake2b over the parts; the same on every machine and in every process. Names need not be UTF-8."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
