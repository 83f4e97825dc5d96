"""Views of a data set that fits in memory, augmented a whole batch at a time on the model's device."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gin
import torch
from torch import Tensor

from cl.components import Capability, Place
from cl.errors import ConfigError, DataError
from cl.types import Pending, Views
from cl.views.groups import Grouping
from cl.views.order import epoch_order
from cl.views.samples import DataSet
from cl.views.transforms import BatchTransform


@gin.register
class MemoryViews:
    """Every epoch a seeded permutation of all samples; the rest that does not fill a batch waits for another epoch.

    Args:
        data: decoded once, kept as uint8 on the model's device.
        batch: samples a batch, over all ranks.
        transforms: one a view.
        group: what makes samples positives of each other.
    """

    def __init__(self, data: DataSet, batch: int, transforms: Sequence[BatchTransform], group: Grouping):
        if batch < 1:
            raise ValueError(f"MemoryViews.batch must be at least 1, got {batch}")
        self.data = data
        self.batch = batch
        self.transforms = transforms
        self.group = group
        self.provides = data.provides | group.provides
        self.needs: frozenset[Capability] = group.needs.union(*(transform.needs for transform in transforms))
        self.epoch = 0
        self.position = 0
        self.skipped: Mapping[str, int] = {}

    @property
    def views(self) -> int:
        """How many views a batch has: one a transform."""
        return len(self.transforms)

    def iterate(self, place: Place) -> Iterator[Views]:
        """Batches for ever, this rank's share of each."""
        if self.batch % place.world:
            raise ConfigError(f"MemoryViews.batch {self.batch} is not a multiple of the {place.world} processes.")
        samples = self.data.load()
        self.skipped = samples.skipped if place.rank == 0 else {}  # each process has all samples
        if self.batch > len(samples):
            raise DataError(
                f"A batch of {self.batch} cannot be filled from {len(samples)} samples. Lower MemoryViews.batch."
            )
        share = self.batch // place.world
        sources = [transform.prepare(samples).to(place.device) for transform in self.transforms]
        group, ids = self.group(samples).to(place.device), samples.sample.to(place.device)
        while True:
            order = torch.from_numpy(epoch_order(len(samples), place.seed, self.epoch))
            epoch = self.epoch
            while self.position + self.batch <= len(samples):
                rows = order[self.position + place.rank :: place.world][:share]
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


def _make(transform: BatchTransform, seed: int, epoch: int, view: int, rows: Tensor, sample: Tensor) -> Tensor:
    return transform(rows, sample, seed, epoch, view)
