"""A data set kept in memory after its first reading."""

from collections.abc import Iterator
from functools import cached_property
from typing import final

from cl.views.samples import DataSet, Samples


@final
class LoadedOnce:
    """Wraps a data set: `load` reads at its first call and hands out the same samples ever after.

    Pictures stay uint8 on the CPU, as stored: 3 kB for one of 32 x 32 pixels.
    """

    def __init__(self, data: DataSet):
        self.data = data
        self.provides = data.provides

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """The wrapped data set's samples, read anew."""
        return self.data.read(chunk)

    def load(self) -> Samples:
        """All samples, read once."""
        return self._samples

    @cached_property
    def _samples(self) -> Samples:
        return self.data.load()
