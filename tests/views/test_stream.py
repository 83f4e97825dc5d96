"""Views from shards as they are read: one order at any number of workers, and resuming yields the very next keys."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from cl.components import Place
from cl.views.groups import ByLabel, BySample
from cl.views.reference_augment import ReferenceAugment
from cl.views.shards import Shards
from cl.views.stream import StreamViews


def source(shards: Path, workers: int = 0, batch: int = 3, shuffle: int = 5, **settings) -> StreamViews:
    augment = ReferenceAugment(16)
    group = settings.get("group", BySample())
    return StreamViews(Shards(str(shards)), batch, [augment, augment], group, workers=workers, shuffle=shuffle)


def keys(views: StreamViews, batches: int, place: Place | None = None) -> list[tuple[str, ...]]:
    return [each.keys for each in islice(views.iterate(place or Place()), batches)]


def test_an_epoch_has_every_sample_once_but_for_the_rest_of_a_batch(toy_shards):
    seen = [key for batch in keys(source(toy_shards), 5) for key in batch]
    assert len(seen) == len(set(seen)) == 15


def test_epochs_and_seeds_differ_and_repeat(toy_shards):
    first = keys(source(toy_shards), 10)
    assert first == keys(source(toy_shards), 10)
    assert first[:5] != first[5:]
    assert first != keys(source(toy_shards), 10, Place(seed=1))


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7])
def test_resuming_yields_the_very_next_keys(toy_shards, stop):
    whole = keys(source(toy_shards), 10)
    first = source(toy_shards)
    keys(first, stop)
    again = source(toy_shards)
    again.load_state_dict(first.state_dict())
    assert keys(again, 10 - stop) == whole[stop:]


def test_order_and_pixels_are_the_same_with_workers(toy_shards):
    alone, many = (list(islice(source(toy_shards, workers).iterate(Place()), 6)) for workers in (0, 2))
    for one, other in zip(alone, many, strict=True):
        assert one.keys == other.keys
        assert all(torch.equal(a, b) for a, b in zip(one.crops, other.crops, strict=True))


def test_two_ranks_share_the_batches_of_one(toy_shards):
    whole = keys(source(toy_shards, batch=4), 4)
    halves = [keys(source(toy_shards, batch=4), 4, Place(rank=rank, world=2)) for rank in (0, 1)]
    assert whole == [left + right for left, right in zip(*halves, strict=True)]


def test_views_are_pictures_in_range_with_their_groups(toy_shards):
    batch = next(source(toy_shards, group=ByLabel()).iterate(Place()))
    assert batch.numbers == (0, 1)
    for crop in batch.crops:
        assert crop.shape == (3, 3, 16, 16) and crop.min() >= 0 and crop.max() <= 1
    assert not torch.equal(*batch.crops)
    labels = [int(key) % 4 for key in batch.keys]
    same = torch.tensor(labels)[:, None] == torch.tensor(labels)
    assert torch.equal(batch.group[:, None] == batch.group, same)


def test_making_views_leaves_the_training_generator_alone(toy_shards):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(source(toy_shards).iterate(Place()))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"shuffle": 0}, {"workers": -1}])
def test_sizes_are_checked(toy_shards, wrong):
    with pytest.raises(ValueError, match="StreamViews"):
        source(toy_shards, **wrong)
