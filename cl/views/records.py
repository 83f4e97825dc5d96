"""Samples as they are stored: bytes by extension, found by their position in a data set."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Int64
from numpy import ndarray

from cl.components import Capability
from cl.views.samples import Sample


class Record(NamedTuple):
    """A sample as it is stored.

    Attributes:
        key: its name, unique in its data set.
        members: bytes by extension.
        where: the shard or folder it comes from, for messages.
        sample: a 63-bit hash of (data set, key): the same from a folder, from shards made of it, and from other shards.
    """

    key: str
    members: Mapping[str, bytes]
    where: str
    sample: int


@runtime_checkable
class Records(Protocol):
    """All samples of a data set in their stored order, opened and checked."""

    @property
    def having(self) -> Mapping[str, int]:
        """How many of them have a member of an extension."""
        ...

    def __len__(self) -> int:
        """Samples an epoch."""
        ...

    def __getitem__(self, position: int) -> Record: ...

    def order(self, places: Int64[ndarray, "p"], seed: int, epoch: int) -> Int64[ndarray, "p"]:
        """The positions of the samples that stand at `places` of an epoch: of a permutation."""
        ...


class BadSample(ValueError):
    """A sample that cannot be used.

    Attributes:
        reason: what it is counted under.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Bad(NamedTuple):
    """A sample that was left out: where it is, its key, the reason it is counted under, and what was wrong."""

    where: str
    key: str
    reason: str
    what: str

    @staticmethod
    def of(record: Record, error: BadSample) -> "Bad":
        """What `error` says of a record."""
        return Bad(record.where, record.key, error.reason, str(error))

    @property
    def counted(self) -> str:
        """Where and why: what is counted together."""
        return f"{self.where}: {self.reason}"


@runtime_checkable
class Source(Protocol):
    """A data set that is read sample by sample, in any order. Its constructor opens nothing.

    Attributes:
        max_bad_fraction: of all samples, how many may be left out because they cannot be used.
    """

    provides: frozenset[Capability]
    max_bad_fraction: float

    def records(self) -> Records:
        """Opens and checks it; quick from the second time on.

        Raises:
            DataError: it cannot be opened, is damaged, or does not have what is to be read of it.
        """
        ...

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds.

        Raises:
            BadSample: it has no picture, label or caption that can be read.
        """
        ...
