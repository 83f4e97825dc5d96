import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import embeddings

from cl.components import NegativeProvider
from cl.negatives.positives_only import PositivesOnly

VIEWS = st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True)


def pairs(found):
    """(query view, key view) of every Contrast, and that its rows are what it says."""
    seen = []
    for contrast in PositivesOnly()(found):
        assert contrast.pool is None and contrast.stale is None and not contrast.both_ways
        assert contrast.positives.tolist() == [1] * len(contrast.q)
        (view,) = contrast.q_ids[:, 2].unique().tolist()
        assert torch.equal(contrast.q, found.q_of(view)[0]) and torch.equal(contrast.q_ids, found.q_of(view)[1])
        keys = [key for key in found.key_views if torch.equal(contrast.paired, found.key_of(key)[0])]
        assert len(keys) == 1
        assert torch.equal(found.key_of(keys[0])[1][:, :2], contrast.q_ids[:, :2])  # the row's own sample
        seen.append((view, keys[0]))
    return seen


def test_is_a_provider():
    assert isinstance(PositivesOnly(), NegativeProvider) and PositivesOnly().provides == {"keys", "paired"}


@given(st.integers(1, 4), VIEWS, VIEWS)
def test_every_key_view_meets_every_other_view(b, q_views, k_views):
    found = embeddings(b, q_views, k_views)
    assert sorted(pairs(found)) == sorted((q, k) for k in k_views for q in q_views if q != k)


@given(st.integers(1, 4), VIEWS)
def test_a_pair_counts_once_where_keys_are_queries(b, views):
    found = embeddings(b, views)
    assert sorted(pairs(found)) == sorted((q, k) for k in views for q in views if q < k)


def test_the_published_methods():
    assert pairs(embeddings(3, (0,), (1,))) == [(0, 1)]  # MoCo
    assert sorted(pairs(embeddings(3, (0, 1), (0, 1)))) == [(0, 1), (1, 0)]  # BYOL, SimSiam
    assert pairs(embeddings(3, (0, 1))) == [(0, 1)]  # VICReg, Barlow Twins
    dino = pairs(embeddings(3, (0, 1, 2), (0, 1)))
    assert sorted(dino) == [(0, 1), (1, 0), (2, 0), (2, 1)]
