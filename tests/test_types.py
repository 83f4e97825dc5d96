from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import contrasts, counts, matrices, relation
from tiny import block, embeddings, pictures, rows
from torch import Tensor

from cl import contrast as module
from cl.types import Contrast, Embeddings, Views

HASH = st.integers(0, 2**63 - 1)


@pytest.fixture(params=[0, 10**9], ids=["listed", "masks"], scope="module", autouse=True)
def many(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MANY", request.param)
        yield


def listed(found, contrast, start=0):
    """Pairs, of a list or of masks of two tiles."""
    if not callable(found):
        return list(zip(*map(Tensor.tolist, found), strict=True))
    n = len(contrast.pool)
    mask = torch.cat([found(slice(0, n // 2)), found(slice(n // 2, n))], dim=1)
    return [(i + start, j) for i, j in mask.nonzero().tolist()]


@given(contrasts())
def test_pairs_are_the_definition(contrast):
    met, positive = matrices(contrast)
    everyone = slice(0, len(contrast.q))
    stale = [False] * len(contrast.pool_ids) if contrast.stale is None else contrast.stale.tolist()
    apart, known = (listed(pairs(everyone), contrast) for pairs in (contrast.apart, contrast.apart_or_positive))
    for i, query in enumerate(contrast.q_ids.tolist()):
        for j, key in enumerate(contrast.pool_ids.tolist()):
            expected = relation(query, key, stale[j], contrast.stale_same)
            assert (bool(met[i, j]), bool(positive[i, j])) == (expected != "never met", expected == "positive")
            assert ((i, j) in apart, (i, j) in known) == (expected == "never met", expected != "negative")


@given(contrasts(), st.data())
def test_pairs_of_a_slice_are_those_of_its_rows(contrast, data):
    start = data.draw(st.integers(0, len(contrast.q)))
    stop = data.draw(st.integers(start, len(contrast.q)))
    for pairs in (contrast.apart, contrast.apart_or_positive):
        whole = listed(pairs(slice(0, len(contrast.q))), contrast)
        part = listed(pairs(slice(start, stop)), contrast, start)
        assert len(set(whole)) == len(whole)
        assert sorted(part) == sorted((i, j) for i, j in whole if start <= i < stop)


@given(contrasts())
def test_sums_over_rows_are_those_of_the_matrices(contrast):
    met, positive = matrices(contrast)
    own = 0 if contrast.paired is None else 1
    assert contrast.candidates.tolist() == (met.sum(dim=1) + own).tolist()
    torch.testing.assert_close(contrast.attraction(contrast.pool), positive.double() @ contrast.pool)
    torch.testing.assert_close(contrast.gathering(contrast.pool), met.double() @ contrast.pool)


@given(contrasts())
def test_counts_from_ids_are_sums_of_the_matrices(contrast):
    of_q, of_pool = counts(contrast)
    _, positive = matrices(contrast)
    assert contrast.positives.tolist() == of_q
    assert contrast.positives.tolist() == (positive.sum(dim=1) + (contrast.paired is not None)).tolist()
    contributing = sum(count > 0 for count in of_q)
    if contrast.both_ways:
        assert contrast.turned.positives.tolist() == of_pool == positive.sum(dim=0).tolist()
        contributing += sum(count > 0 for count in of_pool)
    assert contrast.contributing.item() == contributing


SAMPLES = st.lists(st.one_of(HASH, st.integers(0, 3)), min_size=1, max_size=5)


@given(st.integers(1, 3), SAMPLES, st.data())
def test_views_one_after_the_other_are_told_from_ids_that_nearly_come_so(v, samples, data):
    groups = [sample % 3 for sample in samples] if data.draw(st.booleans()) else samples
    triples = [(group, sample, 7 - view) for view in range(v) for group, sample in zip(groups, samples, strict=True)]
    ids = torch.tensor(triples)
    disturbed = disturb(ids, len(samples), data)
    q = rows(len(ids), 3, len(ids)).double()
    contrast = Contrast(q, ids, pool=q, pool_ids=ids, pool_is_q=True)
    assert disturbed != "no" or contrast._views == (v if unique(samples) else None)
    agrees(contrast)


@given(SAMPLES, st.data())
def test_two_views_row_by_row_are_told_from_ids_that_nearly_are(samples, data):
    ids = torch.cat([torch.tensor([(sample, sample, view) for sample in samples]) for view in (3, 1)])
    disturbed = disturb(ids, len(samples), data)
    b = len(samples)
    q = rows(2 * b, 3, b).double()
    contrast = Contrast(q[:b], ids[:b], pool=q[b:], pool_ids=ids[b:], both_ways=True)
    assert disturbed != "no" or contrast._aligned == unique(samples)
    agrees(contrast)
    agrees(contrast.turned)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("v", [1, 2, 3])
def test_views_of_samples_and_of_groups(v, grouped):
    ids = torch.tensor([(s % 3 if grouped else s, s, view) for view in range(v) for s in (0, 3, 4, 8)])
    q = rows(len(ids), 3).double()
    contrast = Contrast(q, ids, pool=q, pool_ids=ids, pool_is_q=True)
    assert (contrast._views, contrast._grouped) == (v, grouped)
    agrees(contrast)


def unique(samples):
    return len(set(samples)) == len(samples)


def disturb(ids, b, data):
    """Changes an id or two, or nothing; returns what."""
    disturbed = data.draw(st.sampled_from(["no", "order", "group", "view", "sample", "both"]))
    if disturbed == "order":
        ids[-b:] = ids[-b:].flip(0)
    elif disturbed != "no":
        row, other = (data.draw(st.integers(0, len(ids) - 1)) for _ in range(2))
        columns = {"group": [0], "view": [2], "sample": [0, 1], "both": [0, 1, 2]}[disturbed]
        ids[row, columns] = ids[other, columns]
    return disturbed


def agrees(contrast):
    """Holds what a contrast finds out from its ids against the definition."""
    met, positive = matrices(contrast)
    pairs = listed(contrast.apart(slice(0, len(contrast.q))), contrast)
    assert sorted(pairs) == [tuple(pair) for pair in (~met).nonzero().tolist()]
    assert contrast.positives.tolist() == positive.sum(dim=1).tolist()
    assert not contrast.all_contribute or positive.any(dim=1).all()
    assert not contrast.one_each or (positive.sum(dim=1) == 1).all()
    pool = contrast.q if contrast.pool_is_q else contrast.pool
    logits = (contrast.q @ pool.T).masked_fill(~positive, 0)
    torch.testing.assert_close(contrast.agreement(contrast.q, pool), logits.sum(dim=1))
    torch.testing.assert_close(contrast.attraction(contrast.pool), positive.to(contrast.pool.dtype) @ contrast.pool)


@given(st.lists(st.tuples(HASH, st.integers(0, 500)), min_size=1, max_size=20), st.integers(0, 2))
def test_counts_hold_for_hashes(numbers, twice):
    ids = torch.tensor([(sample, sample, view) for sample, view in numbers + numbers[:twice]])
    z = torch.zeros(len(ids), 2)
    contrast = Contrast(z, ids, pool=z, pool_ids=ids)
    assert torch.equal(contrast.positives, matrices(contrast)[1].sum(dim=1))


def test_a_contrast_without_a_pool_counts_its_pairs():
    contrast = Contrast(rows(3, 2), block([0, 1, 2], 0), paired=rows(3, 2))
    assert contrast.positives.tolist() == [1, 1, 1] and contrast.contributing == 3
    with pytest.raises(AssertionError, match="without a pool"):
        contrast.apart(slice(0, 3))


@given(st.integers(1, 6))
def test_pairs_are_simclr_and_both_ways_clip(b):
    z0, z1 = rows(b, 3), rows(b, 3, seed=1)
    simclr, clip = Contrast.pairs(z0, z1), Contrast.pairs(z0, z1, both_ways=True)
    met, positive = matrices(simclr)
    eye = torch.eye(2 * b, dtype=torch.bool)
    assert torch.equal(met, ~eye) and torch.equal(positive, eye.roll(b, dims=1))
    met, positive = matrices(clip)
    assert met.all() and torch.equal(positive, torch.eye(b, dtype=torch.bool))
    assert simclr.contributing == clip.contributing == 2 * b
    for made in (simclr, clip, Contrast.of(z0, torch.arange(b) % 2)):
        found = replace(made)  # knows nothing but the ids
        assert (found._views, found._aligned) == (made._views, made._aligned)
        assert found._grouped == made._grouped


def test_other_ids_for_queries_that_are_the_pool_are_refused():
    contrast = Contrast.pairs(rows(2, 3), rows(2, 3, seed=1))
    ids = contrast.q_ids.flip(0)
    with pytest.raises(ValueError, match="other ids for them"):
        replace(contrast, q_ids=ids)
    other = replace(contrast, q=rows(4, 3, seed=2))
    assert other.pool is other.q
    assert replace(contrast, q_ids=ids, pool_ids=ids.clone()).positives.tolist() == [1] * 4


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_of_labels_is_supcon(labels):
    label = torch.tensor(labels)
    met, positive = matrices(Contrast.of(rows(len(labels), 3), label))
    others = ~torch.eye(len(labels), dtype=torch.bool)
    assert torch.equal(met, others) and torch.equal(positive, (label[:, None] == label) & others)


@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
def test_joined_parts_are_the_whole_batch(b, parts, q_views):
    k_views = q_views[:2]
    pieces = [embeddings(b, q_views, k_views, first=10 * part, seed=part) for part in range(parts)]
    whole = Embeddings.joined(pieces)
    assert whole.q_views == tuple(q_views) and whole.k_views == tuple(k_views)
    for view in q_views:
        for ours, theirs in zip(
            whole.q_of(view), zip(*(piece.q_of(view) for piece in pieces), strict=True), strict=True
        ):
            assert torch.equal(ours, torch.cat(theirs))
    for view in k_views:
        theirs = zip(*(piece.key_of(view) for piece in pieces), strict=True)
        for ours, expected in zip(whole.key_of(view), theirs, strict=True):
            assert torch.equal(ours, torch.cat(expected))


def test_joined_queries_stay_the_keys():
    whole = Embeddings.joined([embeddings(2, (0, 1)), embeddings(2, (0, 1), first=2, seed=1)])
    assert whole.k is None and whole.keys is whole.q and whole.key_views == (0, 1)
    assert whole.key_of(1)[1].tolist() == [[s, s, 1] for s in range(4)]


@given(st.integers(1, 4), st.permutations([0, 1, 2]))
def test_blocks_come_in_the_order_asked_for(b, order):
    whole = embeddings(b, (0, 1, 2), (2, 0))
    _, ids = whole.q_of(*order)
    assert ids[:, 2].tolist() == [view for view in order for _ in range(b)]
    keys, ids = whole.key_of(0)
    assert torch.equal(keys, whole.k[b:]) and set(ids[:, 2].tolist()) == {0}
    assert all(torch.equal(a, b) for a, b in zip(whole.key_of_everywhere(0), (keys, ids), strict=True))


def test_detached_rows_have_no_graph():
    q = rows(2, 3).requires_grad_()
    whole = Embeddings(q * 1, block([0, 1], 0), (0,), q * 2, block([0, 1], 1), (1,)).detached()
    assert not whole.q.requires_grad and not whole.k.requires_grad


def test_views_select_and_number_their_crops():
    views = pictures(3, views=3)
    chosen = views.select((2, 0))
    assert chosen.numbers == (2, 0) and chosen.crops[0] is views.crops[2] and chosen.crops[1] is views.crops[0]
    assert chosen.ids(2).tolist() == [[0, 0, 2], [1, 1, 2], [2, 2, 2]]
    moved = views.to(torch.device("cpu"), torch.channels_last)
    assert moved.crops[0].is_contiguous(memory_format=torch.channels_last) and torch.equal(
        moved.crops[0], views.crops[0]
    )
    assert moved.keys == views.keys


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(Exception, match=r"(?i)type-check"):
        Views(crops=(), numbers=(), group=torch.zeros(3, dtype=torch.int64), sample=torch.zeros(2, dtype=torch.int64))


ROWS, IDS = torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"q": ROWS[:, 0]}, r"contrast's q has the shape \(3,\)"),
        ({"q_ids": IDS[:2]}, r"contrast's q has the shape \(3, 2\), its ids \(2, 3\)"),
        ({"paired": ROWS[:2]}, "contrast's paired has the shape"),
        ({"pool": ROWS}, "contrast's pool has the shape .* its ids None"),
        ({"pool": torch.zeros(3, 4), "pool_ids": IDS}, "as wide as the queries"),
        ({"pool": ROWS, "pool_ids": IDS[:1]}, "an id of three integers"),
        ({"pool": ROWS, "pool_ids": IDS, "stale": torch.ones(2, dtype=torch.bool)}, "one for each row of the pool"),
    ],
)
def test_rows_and_ids_that_do_not_belong_together_are_named(broken, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        Contrast(**({"q": ROWS, "q_ids": IDS} | broken))


def test_views_and_labels_of_other_lengths_are_named(without_shape_checks):
    with pytest.raises(ValueError, match="both have a row a sample"):
        Contrast.pairs(ROWS, ROWS[:2])
    with pytest.raises(ValueError, match="one label a row"):
        Contrast.of(ROWS, torch.zeros(2, dtype=torch.int64))


def test_stale_keys_are_one_of_three_things(without_shape_checks):
    with pytest.raises(ValueError, match="stale_same must be one of positive, ignored, negative, got 'ignore'"):
        Contrast(ROWS, IDS, pool=ROWS, pool_ids=IDS, stale_same="ignore")


def test_another_divisor_leaves_known_what_was_found_out():
    contrast = Contrast.of(rows(6, 3), torch.tensor([0, 0, 1, 1, 1, 2]))
    assert contrast.contributing == 5
    divided = contrast.divided_by(torch.tensor(4.0))
    assert divided.divisor == 4 and divided.q is contrast.q and contrast.divisor is None
    assert divided._equal is contrast._equal and divided.positives is contrast.positives


@pytest.mark.parametrize("extra", ["paired", "stale", "both_ways", "no pool"])
def test_a_pool_of_queries_is_that_and_nothing_else(extra):
    z, ids = rows(3, 2), block([0, 1, 2], 0)
    settings = {"pool": z, "pool_ids": ids, "pool_is_q": True}
    settings |= {"paired": {"paired": z}, "stale": {"stale": torch.zeros(3, dtype=torch.bool)}}.get(extra, {})
    settings |= {"both_ways": {"both_ways": True}, "no pool": {"pool": None, "pool_ids": None}}.get(extra, {})
    with pytest.raises(ValueError, match="is not both at once"):
        Contrast(z, ids, **settings)
