from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Noise, Pictures

from cl.components import Place, ViewSource
from cl.errors import DataError
from cl.views.groups import ByLabel, BySample
from cl.views.memory import MemoryViews
from cl.views.order import epoch_order
from cl.views.transforms import BatchTransform

N = st.integers(1, 20)


def source(n=12, batch=4, views=2, group=None):
    return MemoryViews(Pictures(n), batch, [Noise() for _ in range(views)], BySample() if group is None else group)


def take(views, count, **place):
    return [batch.made() for batch in islice(views.iterate(Place(**place)), count)]


def same(one, other):
    return one.keys == other.keys and all(torch.equal(a, b) for a, b in zip(one.crops, other.crops, strict=True))


def test_is_a_view_source():
    assert isinstance(source(), ViewSource) and isinstance(Noise(), BatchTransform)
    assert (
        source().views == 2
        and source().provides == {"labels", "captions"}
        and source(group=ByLabel()).needs == {"labels"}
    )


@given(N, st.data(), st.integers(0, 5))
def test_an_epoch_meets_every_sample_at_most_once(n, data, seed):
    batch = data.draw(st.integers(1, n))
    per_epoch = n // batch
    batches = take(source(n, batch), 2 * per_epoch, seed=seed)
    for epoch in (0, 1):
        keys = [key for views in batches[epoch * per_epoch :][:per_epoch] for key in views.keys]
        assert len(keys) == len(set(keys)) == per_epoch * batch  # a batch never spans epochs
        order = epoch_order(n, seed, epoch).tolist()
        assert keys == [f"shard/{row}" for row in order[: len(keys)]]


def test_rows_belong_together():
    samples = Pictures(12).load()
    (views,) = take(source(group=ByLabel()), 1, seed=3)
    row = [samples.keys.index(key) for key in views.keys]
    assert torch.equal(views.sample, samples.sample[row])
    assert torch.equal(views.group, ByLabel()(samples)[row])
    assert views.numbers == (0, 1)
    for view in (0, 1):
        expected = Noise()(samples.images[row], samples.sample[row], 3, 0, view)
        assert torch.equal(views.crops[view], expected)
    assert not torch.equal(*views.crops)


def test_epochs_and_seeds_have_other_orders_and_other_views():
    first, second = take(source(12, 12), 2)
    assert first.keys != second.keys and sorted(first.keys) == sorted(second.keys)
    (other,) = take(source(12, 12), 1, seed=1)
    assert other.keys != first.keys
    of = dict(zip(first.keys, first.crops[0], strict=True))
    assert not any(torch.equal(of[key], crop) for key, crop in zip(second.keys, second.crops[0], strict=True))


@given(st.integers(0, 9), st.integers(0, 9))
def test_resumed_views_are_the_unbroken_ones(before, after):
    whole = take(source(10, 3), before + after, seed=7)
    first, second = source(10, 3), source(10, 3)
    taken = take(first, before, seed=7)
    second.load_state_dict(first.state_dict())
    taken += take(second, after, seed=7)
    assert len(taken) == len(whole) and all(same(a, b) for a, b in zip(taken, whole, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_a_batch(world):
    whole = take(source(12, 4), 5, seed=1)
    shares = [take(source(12, 4), 5, rank=rank, world=world, seed=1) for rank in range(world)]
    for step, views in enumerate(whole):
        parts = [share[step] for share in shares]
        for rank, part in enumerate(parts):  # of which each has every so many rows
            assert part.keys == views.keys[rank::world]
            for view in (0, 1):
                assert torch.equal(part.crops[view], views.crops[view][rank::world])


def test_a_resume_on_other_ranks_goes_on_with_the_same_samples():
    first, again = source(12, 4), [source(12, 4) for _ in range(2)]
    take(first, 2, world=1)
    for views in again:
        views.load_state_dict(first.state_dict())
    keys = [take(views, 1, rank=rank, world=2)[0].keys for rank, views in enumerate(again)]
    whole = take(source(12, 4), 3)[2].keys
    assert keys == [whole[0::2], whole[1::2]]


def test_a_batch_too_large_or_too_small():
    with pytest.raises(DataError, match=r"batch of 13.*12 samples.*MemoryViews\.batch") as error:
        take(source(12, 13), 1)
    assert error.value.code == 3
    with pytest.raises(ValueError, match=r"MemoryViews\.batch"):
        source(batch=0)


def test_what_was_left_out_is_counted_by_one_process():
    class Some(Pictures):
        def load(self):
            return replace(super().load(), skipped={"shard: rotten": 2})

    for rank, expected in ((0, {"shard: rotten": 2}), (1, {})):
        views = MemoryViews(Some(8), 4, [Noise()], BySample())
        next(views.iterate(Place(rank, 2)))
        assert views.skipped == expected
