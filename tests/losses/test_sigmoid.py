import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import contrasts, leaves
from tiny import rows

from cl.losses import tiles
from cl.losses.sigmoid import Sigmoid
from cl.losses.softplus import softplus_sum
from cl.losses.temperature import LearnedTemperature
from cl.losses.tiles import Tiles
from cl.types import Contrast

TEMPERATURE, BIAS = st.floats(0.1, 3.0), st.floats(-10, 10)


@given(contrasts(), TEMPERATURE, BIAS, st.integers(1, 5))
def test_values_and_gradients_are_the_loops(contrast, temperature, bias, tile):
    loss = Sigmoid(temperature, bias, tile).double()
    offset = loss.bias.detach().clone().requires_grad_()

    def row(positives, negatives):
        signed = [s + offset for s in positives] + [-s - offset for s in negatives]
        return -torch.stack(signed).sigmoid().log().sum() if signed else None

    contrast, inputs = leaves(contrast)
    theirs = oracle.over_rows(contrast, temperature, row, "count", turned=False)
    ours = loss(contrast)
    torch.testing.assert_close(
        torch.autograd.grad(ours, loss.bias, retain_graph=True)[0],
        torch.autograd.grad(theirs, offset, retain_graph=True, allow_unused=True, materialize_grads=True)[0],
    )
    oracle.agree(ours, theirs, inputs)


@given(st.integers(1, 8), st.integers(0, 1000), BIAS)
def test_is_the_papers_program(b, seed, bias):
    """Algorithm 1: labels 2 eye - 1, sum over pairs divided by n."""
    image, text = rows(b, 5, seed).double(), rows(b, 5, seed + 1).double()
    loss = Sigmoid(LearnedTemperature(0.1), bias).double()
    logits = image @ text.T * 10 + loss.bias
    expected = -F.logsigmoid((2 * torch.eye(b).double() - 1) * logits).sum() / b
    torch.testing.assert_close(loss(Contrast.pairs(image, text, both_ways=True)), expected, rtol=1e-6, atol=1e-9)


def test_gradcheck():
    image, text = (rows(4, 3, seed).double().requires_grad_() for seed in (0, 1))
    temperature = LearnedTemperature(0.5).double()
    loss = Sigmoid(temperature, -1.0, tile=3).double()
    inputs = (image, text, temperature.log_scale, loss.bias)
    assert torch.autograd.gradcheck(lambda *_: loss(Contrast.pairs(image, text, both_ways=True)), inputs)


@given(st.integers(2, 8), BIAS)
def test_collapsed_at_the_bias(b, bias):
    z = torch.zeros(b, 4, dtype=torch.float64)
    value = Sigmoid(0.1, bias).double()(Contrast.pairs(z, z, both_ways=True))
    x = Sigmoid(0.1, bias).bias.double()
    torch.testing.assert_close(value, ((b - 1) * F.softplus(x) + F.softplus(-x))[0])


@pytest.mark.parametrize("logit", [-30.0, -1e-6, 0.0, 5.0, 1e4])
def test_pairs_that_are_all_alike_and_many(logit):
    """At 0 each factor of the products that the logarithms are taken of is the largest."""
    z = torch.ones(512, 1)
    none = (torch.zeros(0, dtype=torch.int64),) * 2
    value = softplus_sum(z, z * logit, torch.zeros(1), lambda at: none, lambda at: none)
    expected = 512**2 * F.softplus(torch.tensor(logit, dtype=torch.float64))
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("native", [True, False])
def test_products_in_bfloat16(native, monkeypatch):
    monkeypatch.setattr(tiles, "has_bfloat16", lambda device: native)
    image, text = (rows(40, 16, seed).requires_grad_() for seed in (0, 1))
    found = []
    for products in ("float32", "bfloat16"):
        value = Sigmoid(0.1, -3.0, tile=16, products=products)(Contrast.pairs(image, text, both_ways=True))
        found.append((value, *torch.autograd.grad(value, (image, text))))
    for exact, rounded in zip(*found, strict=True):
        assert 0 < (rounded - exact).norm() < 0.01 * exact.norm()


def test_needs_a_pool():
    with pytest.raises(ValueError, match="pool"):
        Sigmoid(0.1)(Contrast(rows(2, 3), torch.zeros(2, 3, dtype=torch.int64), paired=rows(2, 3)))


@pytest.mark.usefixtures("without_shape_checks")
def test_a_bias_without_a_point_is_one():
    torch.testing.assert_close(Sigmoid(0.1, bias=-10).bias, Sigmoid(0.1, bias=-10.0).bias)


def test_no_rows_are_no_loss():
    none = torch.zeros(0, 3, dtype=torch.int64)
    contrast = Contrast(rows(0, 2), none, rows(0, 2), pool=rows(2, 2), pool_ids=torch.zeros(2, 3, dtype=torch.int64))
    assert Sigmoid(0.1)(contrast) == 0


def test_a_positive_infinitely_far_is_no_perfect_one():
    """Its logit is minus infinity, as that of a pair that never meets."""
    ids = torch.zeros(1, 3, dtype=torch.int64)
    q = torch.full((1, 1), -1e30, requires_grad=True)
    pool = torch.full((1, 1), 1e30)
    assert Sigmoid(0.1)(Contrast(q, ids, pool=pool, pool_ids=ids + torch.tensor([0, 0, 1]))).isnan()


def test_only_the_gradients_that_are_wanted_are_multiplied(monkeypatch):
    """One product more for the queries', one for the keys'; a frozen key, as of a queue, has none."""
    times = []
    once = Tiles.accumulate
    monkeypatch.setattr(Tiles, "accumulate", lambda *arguments: times.append(1) or once(*arguments))
    for learned, wanted in (((), 0), ((0,), 1), ((1,), 1), ((0, 1), 2)):
        q, k = (torch.randn(5, 3, requires_grad=place in learned) for place in (0, 1))
        loss = Sigmoid(0.1)
        loss(Contrast.pairs(q, k, both_ways=True)).backward()
        assert len(times) == wanted and loss.bias.grad is not None
        assert all((rows.grad is None) != rows.requires_grad for rows in (q, k))
        times.clear()
