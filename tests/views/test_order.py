"""An epoch's order: a permutation of which any part can be had alone, and as even as a shuffle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl.views.order import epoch_order


@given(st.integers(1, 2000), st.integers(0, 2**40), st.integers(0, 1000))
def test_it_is_a_permutation(n, seed, epoch):
    assert np.array_equal(np.sort(epoch_order(n, seed, epoch)), np.arange(n))


@given(st.integers(1, 500), st.integers(0, 9), st.data())
def test_any_part_is_that_of_the_whole(n, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    assert np.array_equal(epoch_order(n, seed, 3, places), epoch_order(n, seed, 3)[places])


def test_places_of_a_set_that_could_never_be_listed():
    n = 10**15
    places = np.arange(1000)
    order = epoch_order(n, 0, 0, places)
    assert len(set(order.tolist())) == 1000 and order.min() >= 0 and order.max() < n
    assert 0.45 < order.mean() / n < 0.55


def test_seeds_and_epochs_differ():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("n", [2, 3, 5, 8, 17])
def test_every_sample_comes_to_every_place_equally_often(n):
    many = 4000
    counts = np.zeros((n, n))
    for seed in range(many):
        counts[np.arange(n), epoch_order(n, seed, 0)] += 1
    expected = many / n
    chi = ((counts - expected) ** 2 / expected).sum()
    free = (n - 1) ** 2
    assert abs(chi - free) < 5 * (2 * free) ** 0.5


def test_neighbours_are_torn_apart():
    n = 3000
    order = epoch_order(n, 1, 0)
    distance = np.abs(np.diff(order))
    assert abs(distance.mean() / (n / 3) - 1) < 0.05  # of a uniform permutation: n / 3
    assert np.corrcoef(order, np.arange(n))[0, 1] ** 2 < 25 / n
    # Two epochs have hardly a place in common.
    assert (order == epoch_order(n, 1, 1)).sum() < 10
