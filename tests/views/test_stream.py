"""Views of data of any size: one order at any number of workers and ranks, exact resume, nothing lost uncounted."""

import tempfile
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Noise

from cl.components import Place, ViewSource
from cl.errors import ConfigError, DataError
from cl.views.augment import BatchAugment
from cl.views.groups import ByLabel, BySample
from cl.views.memory import MemoryViews
from cl.views.order import epoch_order
from cl.views.records import BadSample, Record, Source
from cl.views.reference_augment import ReferenceAugment
from cl.views.samples import Sample
from cl.views.shards import Shards
from cl.views.stream import FEW, Rows, StreamViews
from cl.views.write_shards import write_shards


class Numbers:
    """Samples 0 to n - 1, each a picture of one pixel; some cannot be used."""

    provides = frozenset()

    def __init__(self, n, bad=(), max_bad_fraction=1.0, fatal=()):
        self.n, self.bad, self.max_bad_fraction, self.fatal = n, bad, max_bad_fraction, fatal
        self.having = {"png": n}

    def records(self):
        return self

    def __len__(self):
        return self.n

    def order(self, places, seed, epoch):
        return epoch_order(self.n, seed, epoch, places)

    def __getitem__(self, position):
        if position in self.fatal:
            raise DataError(f"shard {position} is gone.")
        return Record(str(position), {}, f"shard {position % 3}", 1000 + position)

    def decoded(self, record):
        number = int(record.key)
        if number in self.bad:
            raise BadSample("rotten", "to the core")
        return Sample(torch.full((3, 1, 1), number % 256, dtype=torch.uint8), number, ("",), record.key, record.sample)


def numbers(n, batch, bad=(), workers=0, **settings):
    return StreamViews(Numbers(n, bad, **settings), batch, [Noise(), Noise()], BySample(), workers=workers)


def source(shards: Path, workers: int = 0, batch: int = 3, group=None, transforms=None) -> StreamViews:
    augment = ReferenceAugment(16)
    return StreamViews(Shards(str(shards)), batch, transforms or [augment, augment], group or BySample(), workers)


def keys(views, batches: int, place: Place | None = None) -> list[tuple[str, ...]]:
    return [each.keys for each in islice(views.iterate(place or Place()), batches)]


def simulated(views, batches, world, workers, seed=0):
    """The batches as ranks and workers make them, without any process."""
    whole = [[None] * views.batch for _ in range(batches)]
    for rank in range(world):
        rows = Rows(views, Place(rank, world, seed=seed), views.data.records())
        for worker in range(workers):
            for batch, part in zip(whole, islice(rows.parts(worker, workers), batches), strict=True):
                for row, key in zip(part.rows, part.samples.keys if part.samples else (), strict=True):
                    batch[rank + world * row] = key
    return whole


@given(st.data())
def test_the_order_is_a_function_of_nothing_but_the_seed(data):
    n = data.draw(st.integers(1, 60))
    world = data.draw(st.integers(1, 3))
    batch = world * data.draw(st.integers(1, 5).filter(lambda share: share * world <= n or share == 1))
    if batch > n:
        return
    seed, batches = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 12))
    expected = keys(numbers(n, batch), batches, Place(seed=seed))
    workers = data.draw(st.integers(1, 4))
    assert [tuple(each) for each in simulated(numbers(n, batch), batches, world, workers, seed)] == expected
    # Stopped anywhere and resumed at another number of ranks and workers.
    stop = data.draw(st.integers(0, batches))
    first, again = numbers(n, batch), numbers(n, batch)
    keys(first, stop, Place(seed=seed))
    again.load_state_dict(first.state_dict())
    ranks = data.draw(st.sampled_from([w for w in (1, 2, 3) if batch % w == 0]))
    rest = simulated(again, batches - stop, ranks, 2, seed)
    assert [tuple(each) for each in rest] == expected[stop:]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_shards_of_any_size_give_every_sample_once_an_epoch(n, per_shard, batch, seed):
    if batch > n:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), "x", [(f"{i:03d}", {"png": b"", "cls": b"1"}) for i in range(n)], per_shard)
        views = StreamViews(Shards(folder, caption=None, max_bad_fraction=1.0), batch, [Noise()], BySample(), 0)
        views.data.decoded = lambda record: Sample(torch.zeros(3, 1, 1).byte(), 0, ("",), record.key, record.sample)
        for _ in range(3):
            epoch = [key for each in keys(views, n // batch, Place(seed=seed)) for key in each]
            assert len(epoch) == len(set(epoch)) == n // batch * batch


def test_it_is_a_view_source(toy_shards):
    assert isinstance(source(toy_shards), ViewSource) and isinstance(Shards("x"), Source)
    assert isinstance(Numbers(3), Source)


def test_epochs_and_seeds_differ_and_repeat(toy_shards):
    first = keys(source(toy_shards), 10)
    assert first == keys(source(toy_shards), 10)
    assert first[:5] != first[5:]
    assert first != keys(source(toy_shards), 10, Place(seed=1))


@pytest.mark.parametrize("stop", [1, 5, 7])
@pytest.mark.parametrize("before, after", [(0, 2), (2, 1), (2, 2)])
def test_resuming_yields_the_very_next_views_with_real_workers(toy_shards, stop, before, after):
    whole = list(islice(source(toy_shards).iterate(Place()), 10))
    first = source(toy_shards, before)
    keys(first, stop)
    again = source(toy_shards, after)
    again.load_state_dict(first.state_dict())
    for one, other in zip(whole[stop:], islice(again.iterate(Place()), 10 - stop), strict=True):
        assert one.keys == other.keys and torch.equal(one.sample, other.sample)
        assert all(torch.equal(a, b) for a, b in zip(one.made().crops, other.made().crops, strict=True))


def test_two_ranks_share_the_batches_of_one(toy_shards):
    whole = list(islice(source(toy_shards, batch=4).iterate(Place()), 6))
    halves = [list(islice(source(toy_shards, rank, batch=4).iterate(Place(rank=rank, world=2)), 6)) for rank in (0, 1)]
    for one, *parts in zip(whole, *halves, strict=True):
        for rank, part in enumerate(parts):
            assert part.keys == one.keys[rank::2]
            assert torch.equal(part.made().crops[1], one.made().crops[1][rank::2])


def test_views_are_pictures_in_range_with_their_groups(toy_shards):
    batch = next(source(toy_shards, group=ByLabel()).iterate(Place())).made()
    assert batch.numbers == (0, 1)
    for crop in batch.crops:
        assert crop.shape == (3, 3, 16, 16) and crop.min() >= 0 and crop.max() <= 1 and crop.dtype == torch.float32
    assert not torch.equal(*batch.crops)
    labels = [int(key) % 4 for key in batch.keys]
    same = torch.tensor(labels)[:, None] == torch.tensor(labels)
    assert torch.equal(batch.group[:, None] == batch.group, same)


def test_small_pictures_are_augmented_in_batches_as_those_in_memory(toy_shards):
    augment = [BatchAugment(16), BatchAugment(16)]
    stream = source(toy_shards, workers=2, transforms=augment)
    memory = MemoryViews(Shards(str(toy_shards)), 3, augment, BySample())
    for one, other in zip(islice(stream.iterate(Place()), 7), islice(memory.iterate(Place()), 7), strict=True):
        assert one.keys == other.keys and torch.equal(one.sample, other.sample)
        for a, b in zip(one.made().crops, other.made().crops, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_making_views_leaves_the_training_generator_alone(toy_shards):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(source(toy_shards).iterate(Place()))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_used_is_counted_and_its_row_is_another_of_the_batch(workers):
    bad = {3, 7, 8}
    whole = keys(numbers(12, 4), 6)
    views = numbers(12, 4, bad, workers)
    for expected, batch in zip(whole, islice(views.iterate(Place()), 6), strict=True):
        usable = [key for key in expected if int(key) not in bad]
        assert len(batch.keys) == 4 and set(batch.keys) == set(usable)
        for key, kept, sample in zip(expected, batch.keys, batch.sample.tolist(), strict=True):
            assert (key == kept) == (int(key) not in bad) and sample == 1000 + int(kept)
        # Equal samples are equal rows, which never meet: ids of one sample and view are the row itself.
        for i in range(4):
            for j in range(4):
                if batch.keys[i] == batch.keys[j]:
                    assert torch.equal(batch.made().crops[0][i], batch.made().crops[0][j])
    assert views.skipped == {"shard 0: rotten": 2, "shard 1: rotten": 2, "shard 2: rotten": 2}
    again = numbers(12, 4, bad, workers)
    again.load_state_dict(views.state_dict())
    assert again.skipped == views.skipped


def test_too_many_samples_that_cannot_be_used_stop_the_run():
    views = numbers(100, 10, bad={5, 6, 7}, max_bad_fraction=0.02)
    with pytest.raises(DataError, match=r"has rotten: to the core.*more than max_bad_fraction"):
        keys(views, 10)
    assert keys(numbers(100, 10, bad={5, 6}, max_bad_fraction=0.02), 30)
    with pytest.raises(DataError, match="None of a batch's 2 samples can be used"):
        keys(numbers(10, 2, bad=range(10)), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_one_paragraph(workers):
    with pytest.raises(DataError, match=r"^shard \d is gone\.$"):
        keys(numbers(8, 4, workers=workers, fatal=range(8)), 2)


def test_a_worker_that_dies_is_told():
    class Deadly(Numbers):
        def decoded(self, record):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    views = StreamViews(Deadly(8), 4, [Noise()], BySample(), workers=1)
    with pytest.raises(DataError, match=r"A process that reads data ended: .*lower StreamViews\.workers"):
        keys(views, 1)


def test_more_workers_than_rows_and_fewer_shards_than_workers(toy_shards):
    assert keys(source(toy_shards, workers=3, batch=2), 3) == keys(source(toy_shards, batch=2), 3)


def test_sizes_are_checked(toy_shards):
    for wrong in ({"batch": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match="StreamViews"):
            source(toy_shards, **wrong)
    with pytest.raises(ConfigError, match="not a multiple of the 2 processes"):
        next(source(toy_shards).iterate(Place(world=2)))
    with pytest.raises(DataError, match="batch of 17 cannot be filled from 16"):
        next(source(toy_shards, batch=17).iterate(Place()))


def test_unequal_shares_of_ranks_end_together():
    views = [numbers(11, 4) for _ in range(2)]
    epochs = Counter()
    for rank, each in enumerate(views):
        for _ in islice(each.iterate(Place(rank, 2)), 10):
            epochs[rank, each.epoch] += 1
    assert epochs[0, 0] == epochs[1, 0] == 2 and epochs[0, 4] == epochs[1, 4] == 2
    assert np.array_equal(views[0].state_dict()["position"], views[1].state_dict()["position"])


class Sizes(Numbers):
    """Pictures of which that at the 17th place of the first epoch has a longer side."""

    def decoded(self, record):
        side = 2 if record.key == str(epoch_order(self.n, 0, 0)[FEW]) else 1
        return replace(super().decoded(record), image=torch.zeros(3, side, side, dtype=torch.uint8))


@pytest.mark.parametrize("batch, workers", [(40, 0), (FEW + 1, 0), (2, 0), (2, 2)])
def test_pictures_of_different_sizes_are_told_wherever_they_meet(batch, workers):
    views = StreamViews(Sizes(40), batch, [BatchAugment(8)], BySample(), workers)
    with pytest.raises(DataError, match=r"1 x 1.*one size by the data set's `size`|2 x 2.*one size by"):
        list(islice(views.iterate(Place()), 20))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_rank_may_leave_out_its_part_and_what_chance_gives_it(world):
    """One of 200 is within one per cent, on whatever rank it is; five times the limit is noticed by every rank."""

    def epoch(bad, rank):
        return keys(numbers(200, 20, bad=bad, max_bad_fraction=0.01), 10, Place(rank, world))

    for rank in range(world):
        assert len(epoch({7}, rank)) == 10
        with pytest.raises(DataError, match="more than max_bad_fraction"):
            epoch(set(range(0, 200, 5)), rank)


def test_a_resumed_epoch_counts_on():
    whole = numbers(100, 10, bad=set(range(0, 100, 20)), max_bad_fraction=0.04)
    with pytest.raises(DataError, match="more than max_bad_fraction"):
        keys(whole, 10)
    state = numbers(100, 10).state_dict()
    with pytest.raises(DataError, match="more than max_bad_fraction"):
        for _ in range(10):
            views = numbers(100, 10, bad=set(range(0, 100, 20)), max_bad_fraction=0.04)
            views.load_state_dict(state)
            keys(views, 1)
            state = views.state_dict()
