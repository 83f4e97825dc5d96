"""Views of a data set of any size, read and decoded as it is trained on."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import gin
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cl.components import Capability, Place
from cl.types import Views
from cl.views.groups import Grouping, stable_hash
from cl.views.memory import epoch_order
from cl.views.samples import Sample, Samples
from cl.views.shards import Record, Shards


@runtime_checkable
class SampleTransform(Protocol):
    """Makes one view of a sample. It draws from torch's generator, which is seeded for (seed, epoch, sample, view)."""

    needs: frozenset[Capability]

    def one(self, sample: Sample) -> Tensor: ...


@gin.register
class StreamViews:
    """Every epoch the shards in a seeded order, their samples through a shuffle buffer.

    The order and the randomness of every view are the same for any number of workers. What does not fill a batch at an
    epoch's end is left out. Resuming reads again what was consumed of the epoch, without decoding it.

    Args:
        data: shards of pictures of any size.
        batch: samples a batch, over all ranks.
        transforms: one a view.
        group: what makes samples positives of each other.
        workers: processes that decode and augment; 0: the training's own.
        shuffle: samples in the buffer, as they are in the shards.
    """

    def __init__(
        self,
        data: Shards,
        batch: int,
        transforms: Sequence[SampleTransform],
        group: Grouping,
        workers: int = 2,
        shuffle: int = 2000,
    ):
        if batch < 1 or workers < 0 or shuffle < 1:
            raise ValueError(
                f"StreamViews: batch {batch} and shuffle {shuffle} must be at least 1, workers {workers} 0"
            )
        self.data = data
        self.batch = batch
        self.transforms = transforms
        self.group = group
        self.workers = workers
        self.shuffle = shuffle
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
        while True:
            stream = _Epoch(self, place, self.epoch, self.position)
            rows: list[tuple[Sample, list[Tensor]]] = []
            # A generator of its own: the loader would draw its workers' seed from the training's.
            loader = DataLoader(
                stream,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                generator=torch.Generator(),
            )
            for row in loader:
                rows.append(row)
                if len(rows) == self.batch // place.world:
                    self.position += self.batch
                    yield self._views(rows, place)
                    rows = []
            self.epoch, self.position = self.epoch + 1, 0

    def _views(self, rows: list[tuple[Sample, list[Tensor]]], place: Place) -> Views:
        samples = Samples(
            images=torch.empty(len(rows), 0, 0, 0, dtype=torch.uint8),
            label=torch.tensor([sample.label for sample, _ in rows]),
            captions=tuple(sample.caption for sample, _ in rows),
            keys=tuple(sample.key for sample, _ in rows),
            sample=torch.tensor([sample.sample for sample, _ in rows]),
        )
        return Views(
            crops=tuple(
                torch.stack(crops).to(place.device) for crops in zip(*(crops for _, crops in rows), strict=True)
            ),
            numbers=tuple(range(self.views)),
            group=self.group(samples).to(place.device),
            sample=samples.sample.to(place.device),
            keys=samples.keys,
        )

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and how many of its samples were consumed over all ranks."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after what was consumed."""
        self.epoch, self.position = state["epoch"], state["position"]


class _Epoch(IterableDataset):
    """One rank's samples of an epoch, transformed; a worker makes every `workers`-th, so that their order is one."""

    def __init__(self, source: StreamViews, place: Place, epoch: int, position: int):
        self.source = source
        self.place = place
        self.epoch = epoch
        self.position = position

    def __iter__(self) -> Iterator[tuple[Sample, list[Tensor]]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        source, share = self.source, self.source.batch // self.place.world
        mine = 0
        for index, record in enumerate(self._records()):
            if index < self.position or index % source.batch // share != self.place.rank:
                continue
            mine += 1
            if (mine - 1) % workers == number:
                sample = source.data.decoded(record)
                yield sample, [self._view(sample, view) for view in range(source.views)]

    def _order(self, shards: int) -> list[int]:
        return epoch_order(shards, self.place.seed, self.epoch).tolist()

    def _records(self) -> Iterator[Record]:
        """Undecoded samples in the epoch's order."""
        random = torch.Generator().manual_seed(stable_hash("buffer", str(self.place.seed), str(self.epoch)))
        buffer: list[Record] = []
        for record in self.source.data.records(self._order):
            buffer.append(record)
            if len(buffer) > self.source.shuffle:
                yield _drawn(buffer, random)
        while buffer:
            yield _drawn(buffer, random)

    def _view(self, sample: Sample, view: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_hash("view", *map(str, (self.place.seed, self.epoch, sample.sample, view))))
            return self.source.transforms[view].one(sample)


def _drawn(buffer: list[Record], random: torch.Generator) -> Record:
    chosen = int(torch.randint(len(buffer), (), generator=random))
    buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
    return buffer.pop()


def _as_it_is(row: Any) -> Any:
    return row
