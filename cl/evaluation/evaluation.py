"""What measures an encoder on held-out samples, and what it asks of others."""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import torch

from cl.components import Capability, Encoder
from cl.views.samples import DataSet

Split = Literal["validation", "test"]


@runtime_checkable
class Evaluation(Protocol):
    """Numbers for an encoder. Tune and show progress on 'validation', quote 'test'.

    Attributes:
        name: what a table calls it.
        needs: what every one of `data` must provide; to be compared before any of it is opened.
        data: the data sets it reads, by role. They are opened at the first call, not by the constructor.
    """

    name: str
    needs: frozenset[Capability]
    data: Mapping[str, DataSet]

    def baseline(self, device: torch.device) -> dict[str, float]:
        """What no encoder at all reaches on the test split, by metric; empty where there is no such thing."""
        ...

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """The encoder's figures on a split, by metric. The encoder comes back in the mode it was in."""
        ...
