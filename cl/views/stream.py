"""Views of a data set of any size, read and decoded as it is trained on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import gin
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cl.components import Capability, Place
from cl.errors import ClError, ConfigError, DataError
from cl.processes import work_for_parent
from cl.types import Pending, Views
from cl.views.groups import Grouping
from cl.views.loading import allowed, batch, check_size, count, sent, told
from cl.views.records import Bad, BadSample, Records, Source
from cl.views.samples import Sample, Samples
from cl.views.transforms import BatchTransform, SampleTransform


class Part(NamedTuple):
    """What a worker makes of a batch: places in the rank's share, the samples there without pictures, their views."""

    rows: list[int]
    samples: Samples | None
    crops: list[Tensor]
    bad: list[Bad]


@gin.register
class StreamViews:
    """Every epoch a seeded permutation of all samples; the rest that does not fill a batch waits for another epoch.

    Order, views and batches are the same for any number of workers, and of ranks, of which each takes every
    `world`-th row of a batch. The state is two numbers: resuming reads nothing again.

    A sample that cannot be used is counted, and its row of the batch is filled with another sample of this rank's share
    of the batch. The ids say that both rows are one sample, so they are never each other's negatives.

    Args:
        data: what is read sample by sample: shards, a folder, pairs.
        batch: samples a batch, over all ranks.
        transforms: one a view. Those of single samples work in the workers; those of batches, which ask for pictures of
            one size, on the model's device.
        group: what makes samples positives of each other.
        workers: processes that read, decode and augment; 0: the training's own.
    """

    def __init__(
        self,
        data: Source,
        batch: int,
        transforms: Sequence[SampleTransform | BatchTransform],
        group: Grouping,
        workers: int = 2,
    ):
        if batch < 1 or workers < 0:
            raise ValueError(f"StreamViews: batch {batch} must be at least 1, workers {workers} 0")
        self.data = data
        self.batch = batch
        self.transforms = transforms
        self.group = group
        self.workers = workers
        self.provides = data.provides | group.provides
        self.needs: frozenset[Capability] = group.needs.union(*(transform.needs for transform in transforms))
        self.epoch = 0
        self.position = 0
        self.skipped: Counter[str] = Counter()
        self.skipped_now: Counter[str] = Counter()  # in this epoch

    @property
    def views(self) -> int:
        """How many views a batch has: one a transform."""
        return len(self.transforms)

    def iterate(self, place: Place) -> Iterator[Views]:
        """Batches for ever, this rank's share of each."""
        if self.batch % place.world:
            raise ConfigError(f"StreamViews.batch {self.batch} is not a multiple of the {place.world} processes.")
        records, share = self.data.records(), self.batch // place.world
        if self.batch > len(records):
            raise DataError(
                f"A batch of {self.batch} cannot be filled from {len(records)} samples. Lower StreamViews.batch."
            )
        workers = min(self.workers, share)
        loader = DataLoader(
            Rows(self, place, records),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_alone,
            generator=torch.Generator(),  # its own: the workers' seed would be drawn from the training's
        )
        loaded = sent(loader, "StreamViews.workers")
        most = allowed(self.data.max_bad_fraction * len(records), place.world)
        while True:
            if self.position + self.batch > len(records):
                self.epoch, self.position, self.skipped_now = self.epoch + 1, 0, Counter()
            parts = [_received(loaded) for _ in range(max(1, workers))]
            for bad in (bad for part in parts for bad in part.bad):
                self.skipped[bad.counted] += 1
                count(self.skipped_now, bad, most)
            self.position += self.batch
            yield self._views(parts, share, place)

    def _views(self, parts: Sequence[Part], share: int, place: Place) -> Views:
        samples = [part.samples for part in parts if part.samples is not None]
        if not samples:
            raise DataError(f"None of a batch's {share} samples can be used. So far: {told(self.skipped)}.")
        usable, order = torch.tensor([row for part in parts for row in part.rows]).sort()
        # A row whose sample cannot be used takes the next one that can.
        taken = order[torch.searchsorted(usable, torch.arange(share)) % len(usable)].tolist()
        used = Samples.concatenate(samples).take(taken)
        ids = used.sample.to(place.device)
        return Views(
            crops=tuple(
                Pending(
                    _taken([part.crops[view] for part in parts if part.rows], taken).to(place.device),
                    ids,
                    partial(_make, transform, place.seed, self.epoch, view),
                )
                for view, transform in enumerate(self.transforms)
            ),
            numbers=tuple(range(self.views)),
            group=self.group(used).to(place.device),
            sample=ids,
            keys=used.keys,
        )

    def state_dict(self) -> dict[str, Any]:
        """Epoch, how many of its samples were consumed over all ranks, and what this rank skipped: ever, and in it."""
        skipped = {"skipped": dict(self.skipped), "skipped_now": dict(self.skipped_now)}
        return {"epoch": self.epoch, "position": self.position, **skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after what was consumed."""
        self.epoch, self.position, self.skipped = state["epoch"], state["position"], Counter(state["skipped"])
        self.skipped_now = Counter(state.get("skipped_now", {}))  # not in the earliest


class Rows(IterableDataset):
    """One rank's rows of batch after batch, from where the source stands; of each, a worker makes every so many."""

    def __init__(self, source: StreamViews, place: Place, records: Records):
        self.data, self.transforms, self.batch = source.data, source.transforms, source.batch
        self.epoch, self.position = source.epoch, source.position
        self.place = place
        self.records = records

    def __iter__(self) -> Iterator[Part | ClError]:
        worker = get_worker_info()
        try:
            yield from self.parts(*((worker.id, worker.num_workers) if worker else (0, 1)))
        except ClError as error:  # as it is: the loader would wrap it in a traceback
            yield error

    def parts(self, number: int, workers: int) -> Iterator[Part]:
        """What worker `number` makes of batch after batch."""
        epoch, position = self.epoch, self.position
        while True:
            if position + self.batch > len(self.records):
                epoch, position = epoch + 1, 0
            yield self._part(range(number, self.batch // self.place.world, workers), epoch, position)
            position += self.batch

    def _part(self, rows: range, epoch: int, position: int) -> Part:
        places = position + self.place.rank + self.place.world * np.arange(rows.start, rows.stop, rows.step)
        order = self.records.order(places, self.place.seed, epoch).tolist()
        at, samples, crops, bad = list[int](), list[Samples](), list[list[Tensor]](), list[Bad]()
        # A few at a time, so that few decoded pictures, which may be large, are in memory.
        for start in range(0, len(rows), FEW):
            decoded = []
            for row, number in zip(rows[start : start + FEW], order[start : start + FEW], strict=True):
                record = self.records[number]
                try:
                    decoded.append(self.data.decoded(record))
                    at.append(row)
                except BadSample as error:
                    bad.append(Bad.of(record, error))
            if decoded:
                seed = self.place.seed
                crops.append([_prepared(each, decoded, seed, epoch, view) for view, each in enumerate(self.transforms)])
                samples.append(batch(decoded, images=False))
        if not at:
            return Part([], None, [], bad)
        return Part(at, Samples.concatenate(samples), [_joined(views) for views in zip(*crops, strict=True)], bad)


FEW = 16
"""Pictures that are decoded before they are made into views."""


def _prepared(
    transform: SampleTransform | BatchTransform, samples: list[Sample], seed: int, epoch: int, view: int
) -> Tensor:
    if isinstance(transform, SampleTransform):
        return transform.crops(samples, seed, epoch, view)
    return transform.prepare(batch(samples))


def _joined(crops: Sequence[Tensor]) -> Tensor:
    for crop in crops:
        check_size(crop.shape[1:], crops[0].shape[1:])
    return torch.cat(tuple(crops))


def _make(transform: SampleTransform | BatchTransform, seed: int, epoch: int, view: int, rows: Tensor, ids: Tensor):
    if not isinstance(transform, SampleTransform):
        return transform(rows, ids, seed, epoch, view)
    return rows / 255 if rows.dtype == torch.uint8 else rows


def _taken(crops: list[Tensor], rows: list[int]) -> Tensor:
    """Of all parts' rows, one after the other, those at `rows`; copied once."""
    like, start = crops[0], 0
    form = torch.channels_last if like.ndim == 4 else torch.contiguous_format
    whole = torch.empty((len(rows), *like.shape[1:]), dtype=like.dtype, memory_format=form)
    places = torch.tensor(rows)
    for crop in crops:
        check_size(crop.shape[1:], like.shape[1:])
        mine = ((places >= start) & (places < start + len(crop))).nonzero().flatten()
        whole[mine] = crop[places[mine] - start]
        start += len(crop)
    return whole


def _received(parts: Iterator[Part | ClError]) -> Part:
    part = next(parts)
    if isinstance(part, ClError):
        raise part
    return part


def _alone(worker: int) -> None:
    work_for_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _as_it_is(part: Any) -> Any:
    return part
