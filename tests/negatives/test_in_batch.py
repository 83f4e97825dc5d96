from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import matrices, relation
from tiny import embeddings

from cl.components import NegativeProvider
from cl.errors import ConfigError
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch

VIEWS = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)
GROUPS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


def test_is_a_provider():
    assert isinstance(InBatch(True), NegativeProvider) and InBatch(True).provides == {
        "keys",
        "negatives",
        "negatives of the batch alone",
    }


@given(VIEWS, st.none() | VIEWS, GROUPS, st.booleans())
def test_ids_decide_what_a_row_meets(q_views, k_views, group, same_view):
    found = embeddings(len(group), q_views, k_views, group=group)
    for contrast in InBatch(same_view)(found):
        assert contrast.paired is None and contrast.stale is None and contrast.divisor is None
        met, positive = matrices(contrast)
        for i, query in enumerate(contrast.q_ids.tolist()):
            for j, key in enumerate(contrast.pool_ids.tolist()):
                expected = relation(query, key, False, "ignored")
                assert (bool(met[i, j]), bool(positive[i, j])) == (expected != "never met", expected == "positive")
                if query[1:] == key[1:]:
                    assert not met[i, j]


@given(VIEWS, st.none() | VIEWS, GROUPS)
def test_same_view_is_one_contrast_of_all_rows_and_all_keys(q_views, k_views, group):
    found = embeddings(len(group), q_views, k_views, group=group)
    (contrast,) = InBatch(True)(found)
    assert contrast.q is found.q and contrast.pool is found.keys and not contrast.both_ways
    assert torch.equal(contrast.q_ids, found.q_ids) and torch.equal(contrast.pool_ids, found.key_ids)
    assert contrast.pool_is_q == (k_views is None)


@given(VIEWS, st.none() | VIEWS, GROUPS)
def test_other_views_meet_one_key_view_at_a_time(q_views, k_views, group):
    b = len(group)
    found = embeddings(b, q_views, k_views, group=group)
    expected = [
        (key_view, [view for view in q_views if view != key_view])
        for key_view in (q_views if k_views is None else k_views)
    ]
    expected = [(key_view, others) for key_view, others in expected if others]
    contrasts = InBatch(False)(found)
    if k_views is None and len(q_views) == 2:
        (contrast,) = contrasts
        assert contrast.both_ways
        assert contrast.q_ids[:, 2].tolist() == [q_views[0]] * b
        assert contrast.pool_ids[:, 2].tolist() == [q_views[1]] * b
        return
    assert len(contrasts) == len(expected)
    for contrast, (key_view, others) in zip(contrasts, expected, strict=True):
        assert not contrast.both_ways and not contrast.pool_is_q
        assert torch.equal(contrast.pool, found.key_of(key_view)[0])
        assert contrast.pool_ids[:, 2].tolist() == [key_view] * b
        assert contrast.q_ids[:, 2].tolist() == [view for view in others for _ in range(b)]


@given(VIEWS, st.none() | VIEWS, GROUPS, st.booleans(), st.data())
def test_queries_are_those_asked_for_and_meet_what_they_meet_among_all(q_views, k_views, group, same_view, data):
    asked = data.draw(st.lists(st.sampled_from(q_views), min_size=1, unique=True))
    found = embeddings(len(group), q_views, k_views, group=group)

    def pairs(contrasts):
        found = Counter()
        for contrast in contrasts:
            ways = [contrast, contrast.turned] if contrast.both_ways else [contrast]
            for way in ways:
                met, _ = matrices(way)
                ids = [[tuple(row) for row in rows.tolist()] for rows in (way.q_ids, way.pool_ids)]
                found.update((ids[0][i], ids[1][j]) for i, j in met.nonzero().tolist())
        return found

    every = Counter({pair: count for pair, count in pairs(InBatch(same_view)(found)).items() if pair[0][2] in asked})
    assert pairs(InBatch(same_view, asked)(found)) == every


def test_clips_one_direction_is_a_cross_entropy_of_its_logits():
    found = embeddings(5, (0, 1))
    (contrast,) = InBatch(False, (0,))(found)
    logits = found.q[:5] @ found.q[5:].T / 0.1
    torch.testing.assert_close(InfoNCE(0.1)(contrast), torch.nn.functional.cross_entropy(logits, torch.arange(5)))


@pytest.mark.parametrize("queries", [(), (0, 0)])
def test_queries_name_views_each_once(queries):
    with pytest.raises(ValueError, match=r"InBatch.queries must name views"):
        InBatch(False, queries)


def test_a_view_that_makes_no_queries_is_named():
    with pytest.raises(ConfigError, match=r"InBatch.queries names view 2, .* of the views 0, 1\."):
        InBatch(False, (0, 2))(embeddings(2, (0, 1)))


def test_moco_v3_meets_the_other_views_momentum_keys():
    found = embeddings(3, (0, 1), (0, 1))
    first, second = InBatch(False)(found)  # keys of view 0, keys of view 1
    assert torch.equal(first.q, found.q[3:]) and torch.equal(first.pool, found.k[:3])
    assert torch.equal(second.q, found.q[:3]) and torch.equal(second.pool, found.k[3:])
    assert first.positives.tolist() == second.positives.tolist() == [1, 1, 1]


def test_momentum_keys_of_the_row_itself_are_never_met():
    found = embeddings(2, (0, 1), (0, 1))
    (contrast,) = InBatch(True)(found)
    met, positive = matrices(contrast)
    assert torch.equal(met, ~torch.eye(4, dtype=torch.bool))
    assert torch.equal(positive, torch.eye(4, dtype=torch.bool).roll(2, dims=1))


@pytest.mark.parametrize("same_view", [True, False])
@given(st.permutations(range(4)), st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_permuting_samples_permutes_gradients(same_view, order, group):
    """The loss stays, every sample keeps its gradient."""
    whole = embeddings(4, (0, 1), group=group)
    order = torch.tensor([*order, *(4 + i for i in order)])
    losses, gradients = [], []
    for index in (torch.arange(8), order):
        q = whole.q[index].double().requires_grad_()
        found = type(whole)(q, whole.q_ids[index], (0, 1))
        (contrast,) = InBatch(same_view)(found)
        losses.append(InfoNCE(0.3)(contrast))
        gradients.append(torch.autograd.grad(losses[-1], q)[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0][order])
