import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import block, rows

from cl.errors import ConfigError
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.types import Contrast

TEMPERATURE, SEED = st.floats(0.05, 3.0), st.integers(0, 1000)


@given(st.integers(2, 8), TEMPERATURE, st.floats(0.0, 2.0), st.floats(0.0, 0.5), SEED)
def test_is_the_authors_program(b, temperature, hardness, debias, seed):
    z = [rows(b, 5, seed + view).double().requires_grad_() for view in (0, 1)]
    both = torch.cat(z)
    exp = (both @ both.T / temperature).exp()
    negative = ~torch.eye(b, dtype=torch.bool).repeat(2, 2)
    negatives = exp[negative].view(2 * b, -1)
    n = 2 * b - 2
    positive = ((z[0] * z[1]).sum(dim=1) / temperature).exp().repeat(2)
    weight = negatives.log().mul(hardness).exp()
    drawn = (weight * negatives).sum(dim=1) / weight.mean(dim=1)
    pushed = ((-debias * n * positive + drawn) / (1 - debias)).clamp(min=n * math.exp(-1 / temperature))
    expected = -(positive / (positive + pushed)).log().mean()
    ours = HardNegativeInfoNCE(temperature, hardness, debias)(Contrast.pairs(*z))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)
    for mine, theirs in zip(torch.autograd.grad(ours, z), torch.autograd.grad(expected, z), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@given(st.integers(1, 8), TEMPERATURE, SEED, st.booleans())
def test_neither_hard_nor_debiased_it_is_info_nce(b, temperature, seed, both_ways):
    contrast = Contrast.pairs(rows(b, 5, seed).double(), rows(b, 5, seed + 1).double(), both_ways)
    ours = HardNegativeInfoNCE(temperature, hardness=0.0, debias=0.0)(contrast)
    torch.testing.assert_close(ours, InfoNCE(temperature)(contrast), rtol=1e-9, atol=1e-9)


@given(st.integers(1, 5), st.integers(0, 5), TEMPERATURE, SEED)
def test_a_queue_and_paired_keys(b, fill, temperature, seed):
    ids, pool_ids = block(range(b), 0), block(range(50, 50 + fill), 1, first=50)
    q, k, pool = (rows(n, 4, seed + place).double() for place, n in enumerate((b, b, fill)))
    contrast = Contrast(q, ids, k, pool, pool_ids, torch.ones(fill, dtype=torch.bool))
    ours = HardNegativeInfoNCE(temperature, hardness=0.0, debias=0.0)(contrast)
    torch.testing.assert_close(ours, InfoNCE(temperature)(contrast), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_sample_that_stands_in_for_another_is_one_positive(both_ways):
    z = [rows(4, 5, seed).double().index_select(0, torch.tensor([0, 1, 2, 3, 1])) for seed in (0, 1)]
    ids = [torch.tensor([(sample, sample, view) for sample in (0, 1, 2, 3, 1)]) for view in (0, 1)]
    if both_ways:
        contrast = Contrast(z[0], ids[0], pool=z[1], pool_ids=ids[1], both_ways=True)
    else:
        contrast = Contrast(torch.cat(z), torch.cat(ids), pool=torch.cat(z), pool_ids=torch.cat(ids), pool_is_q=True)
    ours = HardNegativeInfoNCE(0.5, hardness=0.0, debias=0.0)(contrast)
    similar, same = contrast.q @ contrast.pool.T / 0.5, contrast.q_ids[:, None, 1] == contrast.pool_ids[:, 1]
    negatives = similar.masked_fill(same, -torch.inf).logsumexp(dim=1)
    positive = (z[0] * z[1]).sum(dim=1).div(0.5).repeat(1 if both_ways else 2)
    other = similar.T.masked_fill(same.T, -torch.inf).logsumexp(dim=1)
    expected = [F.softplus(each - positive).mean() for each in ((negatives, other) if both_ways else (negatives,))]
    torch.testing.assert_close(ours, torch.stack(expected).mean())


def test_it_is_one_beside_a_queue_too_and_two_samples_of_a_group_are_two():
    q, k, pool = (rows(3, 4, seed).double() for seed in (0, 1, 2))
    ids, key_ids = torch.tensor([(0, 0, 0), (1, 1, 0), (0, 0, 0)]), torch.tensor([(0, 0, 1), (1, 1, 1), (0, 0, 1)])
    stale = torch.tensor([False, False, False])
    loss = HardNegativeInfoNCE(0.5)
    assert loss(Contrast(q, ids, pool=k, pool_ids=key_ids, stale=stale)).isfinite()
    assert loss(Contrast(q, ids, k, pool, block([5, 6, 7], 1, first=50), ~stale)).isfinite()
    with pytest.raises(ConfigError, match="was given 2"):  # an old key of the sample beside a fresh one
        old = torch.tensor([False, False, True])
        loss(Contrast(q, ids, pool=k, pool_ids=key_ids, stale=old, stale_same="positive"))
    with pytest.raises(ConfigError, match="was given 2"):
        loss(Contrast.of(q, torch.tensor([1, 1, 1])))


@pytest.mark.parametrize("temperature", [0.005, 0.05, 10.0])
def test_opposed_rows_stay_finite(temperature):
    z = torch.tensor([[1.0, 0], [-1, 0], [0, 1]]).requires_grad_()
    value = HardNegativeInfoNCE(temperature, 2.0, 0.3)(Contrast.pairs(z, -z))
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()


def test_no_hardness_leaves_a_learned_temperature_its_gradient():
    scales = []
    for build in (lambda learned: HardNegativeInfoNCE(learned, hardness=0.0, debias=0.0), InfoNCE):
        learned = LearnedTemperature(0.1)
        build(learned)(Contrast.pairs(rows(4, 3), rows(4, 3, seed=1))).backward()
        scales.append(learned.log_scale.grad)
    torch.testing.assert_close(*scales)


def test_several_positives_are_refused():
    with pytest.raises(ConfigError, match="one positive a row and was given 2") as found:
        HardNegativeInfoNCE(0.1)(Contrast.of(rows(3, 2), torch.zeros(3, dtype=torch.int64)))
    assert not found.value.shared, "the rows of another rank may have one each"


def test_several_positives_of_a_key_are_refused():
    ids = [torch.tensor(ids) for ids in ([[0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 2, 1]])]
    contrast = Contrast(rows(2, 2), ids[0], pool=rows(2, 2, seed=1), pool_ids=ids[1], both_ways=True)
    with pytest.raises(ConfigError, match="one positive a row and was given 2"):
        HardNegativeInfoNCE(0.1)(contrast)


@pytest.mark.parametrize("settings", [{"hardness": -1.0}, {"debias": 1.0}, {"debias": -0.1}, {"temperature": 0.0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        HardNegativeInfoNCE(**{"temperature": 0.1, **settings})
