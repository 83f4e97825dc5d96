"""What makes a view: of single samples in a loader's process, or of whole batches on the model's device.

Either way its randomness is a function of (seed, epoch, sample, view) alone, so that a view is the same on any number
of processes, in any piece of a batch and after a resume.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from cl.components import Capability
from cl.views.samples import Sample, Samples


@runtime_checkable
class BatchTransform(Protocol):
    """Makes a view of rows that are prepared once: pictures of one size."""

    needs: frozenset[Capability]

    def prepare(self, samples: Samples) -> Tensor:
        """What of the samples it works on, without anything random: pictures, tokens."""
        ...

    def __call__(self, rows: Tensor, sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int) -> Tensor: ...


@runtime_checkable
class SampleTransform(Protocol):
    """Makes a view of samples whose pictures are of any size: uint8 pictures `b c s s`, or token ids `b t`."""

    needs: frozenset[Capability]

    def crops(self, samples: Sequence[Sample], seed: int, epoch: int, view: int) -> Tensor: ...
