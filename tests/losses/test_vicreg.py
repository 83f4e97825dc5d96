import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import noise
from tiny import paired as contrast

from cl.losses.vicreg import VICReg


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000), *[st.floats(0, 30)] * 3)
def test_is_the_authors_program(b, d, seed, invariance, variance, covariance):
    x, y = noise(b, d, seed), 0.5 * noise(b, d, seed + 1)
    expected = invariance * F.mse_loss(x, y)
    for rows in (x, y):
        rows = rows - rows.mean(dim=0)
        expected = expected + variance * F.relu(1 - torch.sqrt(rows.var(dim=0) + 0.0001)).mean() / 2
        cov = rows.T @ rows / (b - 1)
        expected = expected + covariance * cov[~torch.eye(d, dtype=torch.bool)].pow(2).sum() / d
    torch.testing.assert_close(VICReg(invariance, variance, covariance)(contrast(x, y)), expected)


def test_gradcheck():
    x, y = (noise(4, 3, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x, y: VICReg()(contrast(x, y)), (x, y))


@given(st.integers(2, 6), st.floats(-2, 2))
def test_a_collapsed_batch_pays_the_variance_term_alone(b, constant):
    z = torch.full((b, 4), constant, dtype=torch.float64)
    assert VICReg()(contrast(z, z)).item() == pytest.approx(25 * (1 - 0.01))


def test_without_its_variance_term_it_has_nothing_against_collapse():
    assert VICReg().spreads and not VICReg(variance=0.0).spreads
    z = torch.ones(4, 3)
    assert VICReg(variance=0.0)(contrast(z, z)) == 0


def test_one_row_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        VICReg()(contrast(torch.ones(1, 2), torch.ones(1, 2)))
