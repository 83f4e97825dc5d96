import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import block, embeddings, rows

from cl.components import NegativeProvider
from cl.losses.info_nce import InfoNCE
from cl.negatives import neighbours
from cl.negatives.neighbours import Neighbours


def filled(size, fill, d=4, seed=9):
    provider = Neighbours(size=size, dim=d)
    provider.ring.enqueue(rows(fill, d, seed), block(range(fill), 0, first=50))
    return provider


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_the_nearest_is_that_of_a_loop_however_many_are_compared_at_once(b, size, fill, at_once, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "AT_ONCE", at_once)
        provider, keys = filled(size, fill, seed=seed + 1), rows(b, 4, seed)
        found = provider.nearest(keys)
    past, _ = provider.ring()
    for i in range(b):
        cosines = [float(keys[i] @ past[j]) for j in range(len(past))]
        assert float(keys[i] @ found[i]) == pytest.approx(max(cosines), abs=1e-6)
        assert any(torch.equal(found[i], row) for row in past)


def test_neighbours_of_one_view_meet_the_predictions_of_the_other():
    provider, found = filled(8, 5), embeddings(3, (0, 1), (0, 1))
    assert isinstance(provider, NegativeProvider)
    first, second = provider(found)
    for contrast, key_view, view in ((first, 0, 1), (second, 1, 0)):
        keys, ids = found.key_of(key_view)
        assert torch.equal(contrast.q, provider.nearest(keys)) and torch.equal(contrast.q_ids, ids)
        pool, pool_ids = found.q_of(view)
        assert torch.equal(contrast.pool, pool) and torch.equal(contrast.pool_ids, pool_ids)
        assert contrast.positives.tolist() == [1, 1, 1] and contrast.paired is None


def test_an_empty_queue_leaves_each_key_to_itself():
    provider, found = Neighbours(size=8, dim=4), embeddings(3, (0, 1), (0, 1))
    for contrast, view in zip(provider(found), (0, 1), strict=True):
        assert torch.equal(contrast.q, found.key_of(view)[0])


def test_the_gradient_reaches_the_predictions_alone():
    found = embeddings(3, (0, 1), (0, 1))
    found.q.requires_grad_()
    found.k.requires_grad_()
    sum(InfoNCE(0.1)(contrast) for contrast in filled(8, 5)(found)).backward()
    assert found.q.grad.abs().sum() > 0 and found.k.grad is None


def test_what_is_looked_up_was_enqueued_before():
    """A key in the queue already would be its own neighbour: the hook enqueues after the step."""
    provider, found = filled(8, 5), embeddings(3, (0, 1), (0, 1))
    before = provider.nearest(found.key_of(0)[0])
    provider(found)
    assert torch.equal(provider.nearest(found.key_of(0)[0]), before)
    provider.ring.enqueue(*found.key_of(0))
    assert torch.equal(provider.nearest(found.key_of(0)[0]), found.key_of(0)[0])


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Neighbours\.size must be at least 1"):
        Neighbours(size=0, dim=4)
