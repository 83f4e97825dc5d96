"""Views of a data set that fits in memory, augmented a whole batch at a time on the model's device."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import gin
import torch
from jaxtyping import Int64
from torch import Tensor

from cl.components import Capability, Place
from cl.errors import ConfigError, DataError
from cl.types import Pending, Views
from cl.views.groups import Grouping, stable_hash
from cl.views.samples import DataSet, Samples


@runtime_checkable
class Transform(Protocol):
    """Makes one view of a batch. Its randomness is a function of (seed, epoch, sample, view) alone."""

    needs: frozenset[Capability]

    def prepare(self, samples: Samples) -> Tensor:
        """What of the samples it works on, once for the whole data set: pictures, tokens."""
        ...

    def __call__(self, rows: Tensor, sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int) -> Tensor: ...


@gin.register
class MemoryViews:
    """Every epoch a seeded permutation of all samples; the rest that does not fill a batch waits for another epoch.

    Args:
        data: decoded once, kept as uint8 on the model's device.
        batch: samples a batch, over all ranks.
        transforms: one a view.
        group: what makes samples positives of each other.
    """

    def __init__(self, data: DataSet, batch: int, transforms: Sequence[Transform], group: Grouping):
        if batch < 1:
            raise ValueError(f"MemoryViews.batch must be at least 1, got {batch}")
        self.data = data
        self.batch = batch
        self.transforms = transforms
        self.group = group
        self.provides = data.provides
        self.needs: frozenset[Capability] = group.needs.union(*(transform.needs for transform in transforms))
        self.epoch = 0
        self.position = 0

    @property
    def views(self) -> int:
        """How many views a batch has: one a transform."""
        return len(self.transforms)

    def iterate(self, place: Place) -> Iterator[Views]:
        """Batches for ever, this rank's share of each."""
        if self.batch % place.world:
            raise ConfigError(f"MemoryViews.batch {self.batch} is not a multiple of the {place.world} processes.")
        samples = self.data.load()
        if self.batch > len(samples):
            raise DataError(
                f"A batch of {self.batch} cannot be filled from {len(samples)} samples. Lower MemoryViews.batch."
            )
        share = self.batch // place.world
        sources = [transform.prepare(samples).to(place.device) for transform in self.transforms]
        group, ids = self.group(samples).to(place.device), samples.sample.to(place.device)
        while True:
            order = epoch_order(len(samples), place.seed, self.epoch)
            epoch = self.epoch
            while self.position + self.batch <= len(samples):
                rows = order[self.position + place.rank * share :][:share]
                self.position += self.batch
                here = rows.to(place.device)
                sample = ids[here]
                picked = {source: source[here] for source in sources}  # views of the same pictures share them
                crops = [
                    Pending(picked[source], sample, partial(_make, transform, place.seed, epoch, view))
                    for view, (transform, source) in enumerate(zip(self.transforms, sources, strict=True))
                ]
                yield Views(
                    crops=tuple(crops),
                    numbers=tuple(range(len(crops))),
                    group=group[here],
                    sample=sample,
                    keys=tuple(samples.keys[row] for row in rows.tolist()),
                )
            self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and how many of its samples were consumed over all ranks."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after what was consumed."""
        self.epoch, self.position = state["epoch"], state["position"]


def _make(transform: Transform, seed: int, epoch: int, view: int, rows: Tensor, sample: Tensor) -> Tensor:
    return transform(rows, sample, seed, epoch, view)


def epoch_order(n: int, seed: int, epoch: int) -> Int64[Tensor, "n"]:
    """The permutation of an epoch, on whatever number of ranks."""
    mixed = stable_hash("order", str(seed), str(epoch))
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))
