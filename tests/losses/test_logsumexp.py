"""Against the whole matrix in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.losses import tiles
from cl.losses.logsumexp import logsumexp, logsumexp_both_ways, logsumexp_itself
from cl.losses.tiles import BOUND, KEPT, LOG2E, Plan, Tiles

M, TILE, SEED = st.integers(1, 12), st.integers(1, 7), st.integers(0, 10**6)
SCALE = st.sampled_from([1.0, 8.0, 300.0])  # 300: products far beyond BOUND


@pytest.fixture(params=[0, 20, KEPT], ids=["multiplied again", "some kept", "kept"], scope="module", autouse=True)
def kept(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "KEPT", request.param)
        yield


def rows(m, d, scale, generator):
    return (torch.randn(m, d, generator=generator, dtype=torch.float64) * scale**0.5).requires_grad_()


def dense(q, k, never, dim=1):
    return (q @ k.T).masked_fill(never, -torch.inf).logsumexp(dim=dim)


def pairs(never):
    def apart(at):
        i, j = never[at].nonzero(as_tuple=True)
        order = torch.randperm(len(i))
        return i[order] + at.start, j[order]

    return apart


def weigh(*values):
    """A number that gives every row another gradient, and rows that meet nothing none."""
    return sum((torch.where(v.isinf(), 0, v) * torch.linspace(-1, 2, len(v), dtype=v.dtype)).sum() for v in values)


def agree(ours, theirs, leaves):
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    mine, expected = (torch.autograd.grad(weigh(*values), leaves) for values in (ours, theirs))
    for one, other in zip(mine, expected, strict=True):
        # The whole matrix gives NaN to rows that meet nothing; they have no say.
        torch.testing.assert_close(one, other.nan_to_num(), rtol=1e-9, atol=1e-10)


@given(M, M, st.integers(1, 4), TILE, SCALE, st.sampled_from([0.0, 0.3, 1.0]), SEED, st.sampled_from(["q", "k", "qk"]))
def test_rows_over_keys(m, n, d, tile, scale, share, seed, wanted):
    generator = torch.Generator().manual_seed(seed)
    q, k = rows(m, d, scale, generator), rows(n, d, scale, generator)
    never = torch.rand(m, n, generator=generator) < share
    leaves = [leaf for name, leaf in (("q", q), ("k", k)) if name in wanted]
    q, k = (leaf if name in wanted else leaf.detach() for name, leaf in (("q", q), ("k", k)))
    agree([logsumexp(q, k, pairs(never), tile)], [dense(q, k, never)], leaves)


@given(M, M, st.integers(1, 4), TILE, SCALE, st.sampled_from([0.0, 0.3, 1.0]), SEED)
def test_both_ways(m, n, d, tile, scale, share, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = rows(m, d, scale, generator), rows(n, d, scale, generator)
    never = torch.rand(m, n, generator=generator) < share
    agree(logsumexp_both_ways(q, k, pairs(never), tile), (dense(q, k, never), dense(q, k, never, dim=0)), [q, k])


@given(M, st.integers(1, 4), TILE, SCALE, st.sampled_from([0.0, 0.3, 1.0]), SEED)
def test_itself(m, d, tile, scale, share, seed):
    generator = torch.Generator().manual_seed(seed)
    z = rows(m, d, scale, generator)
    never = torch.rand(m, m, generator=generator) < share
    never = never | never.T
    agree([logsumexp_itself(z, pairs(never), tile)], [dense(z, z, never)], [z])


LARGEST = BOUND / LOG2E
"""The largest natural logit below which powers need no shift."""


def nowhere(rows):
    return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)


def plan(z, **settings):
    return Plan(z, z, nowhere, 4, "float32", powers=True, **settings)


@pytest.mark.parametrize("size", [0.5 * LARGEST, 0.99 * LARGEST, 1.01 * LARGEST, 20 * LARGEST])
def test_opposed_float32_rows_stay_finite(size):
    z = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]) * size**0.5
    assert plan(z).bounded == (size < LARGEST)
    z.requires_grad_()
    lse = logsumexp_itself(z, lambda at: (torch.arange(at.start, at.stop),) * 2, tile=3)
    torch.testing.assert_close(lse, torch.full((4,), size))
    lse.sum().backward()
    assert z.grad.isfinite().all()


def test_an_even_sum_over_many_keys_at_the_bound():
    largest = 0.999 * LARGEST
    q, k = torch.full((1, 1), largest**0.5), torch.full((2**17, 1), largest**0.5)
    assert plan(k).bounded
    value = logsumexp(q, k, nowhere)
    torch.testing.assert_close(value, torch.tensor([largest + 17 * math.log(2)]))


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_gradients_at_the_bound_are_no_smaller_than_float32(products):
    """As small as those of a mean over many rows whose logits are all as large as the bound."""
    z = (torch.ones(4, 1) * (0.99 * LARGEST) ** 0.5).requires_grad_()
    assert plan(z).bounded
    value = logsumexp_itself(z, nowhere, products=products).sum()
    (gradient,) = torch.autograd.grad(1e-12 * value, z)
    torch.testing.assert_close(gradient, 1e-12 * 2 * z.detach(), rtol=1e-5 if products == "float32" else 0.02, atol=0)


def test_where_there_are_no_products_of_bfloat16_rounded_rows_are_multiplied_as_float32(monkeypatch):
    monkeypatch.setattr(tiles, "has_bfloat16", lambda device: False)
    q, k = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (9, 13))
    value = logsumexp(q, k, nowhere, products="bfloat16")
    exact = logsumexp(q, k, nowhere)
    assert torch.equal(value, logsumexp(q.bfloat16().float(), k.bfloat16().float(), nowhere))
    assert not torch.equal(value, exact)


def test_no_keys_at_all():
    q = torch.ones(3, 2, requires_grad=True)
    value = logsumexp(q, torch.ones(0, 2), nowhere)
    assert (value == -torch.inf).all()
    torch.where(value.isinf(), 0, value).sum().backward()
    assert (q.grad == 0).all()


@pytest.mark.parametrize("triangle", [True, False])
def test_the_first_tiles_are_kept_until_they_come_again(triangle, monkeypatch):
    monkeypatch.setattr(tiles, "KEPT", 50)
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    mine = plan(z, triangle=triangle, again=True)
    passes = []
    for kept in ((4, 4, 4), (), ()):
        passes.append([(part.rows, part.keys, part.values.clone()) for part in Tiles(z, z, mine)])
        assert tuple(len(part.values) for part in mine.kept) == kept  # 16 numbers each, and no fourth one
    for one, *others in zip(*passes, strict=True):
        assert all(other[:2] == one[:2] and torch.equal(other[2], one[2]) for other in others)


def test_nothing_is_kept_that_does_not_come_again():
    z = torch.ones(9, 2)
    for mine in (plan(z), Plan(z * 100, z, nowhere, 4, "float32", powers=True, again=True)):
        assert list(Tiles(z, z, mine)) and not mine.kept


def test_every_further_backward_pass_finds_what_the_first_found():
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = logsumexp_itself(z, lambda at: (torch.arange(at.start, at.stop),) * 2, tile=4).sum()
    first, *further = (torch.autograd.grad(value, z, retain_graph=True)[0] for _ in range(4))
    assert all(torch.equal(first, each) for each in further)


def test_second_derivatives_are_refused():
    z = torch.ones(3, 2, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    value = logsumexp_itself(z, lambda at: (none, none)).sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(value, z, create_graph=True)
