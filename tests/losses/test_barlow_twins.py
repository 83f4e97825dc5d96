import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import noise
from tiny import paired as contrast
from torch import nn

from cl.losses.barlow_twins import BarlowTwins


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000), st.floats(0, 1))
def test_is_the_authors_program(b, d, seed, redundancy):
    x, y = noise(b, d, seed), noise(b, d, seed + 1)
    norm = nn.BatchNorm1d(d, affine=False).double()
    c = norm(x).T @ norm(y) / b
    on = (c.diagonal() - 1).pow(2).sum()
    off = c[~torch.eye(d, dtype=torch.bool)].pow(2).sum()
    torch.testing.assert_close(BarlowTwins(redundancy)(contrast(x, y)), on + redundancy * off)


def test_gradcheck():
    x, y = (noise(4, 3, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x, y: BarlowTwins()(contrast(x, y)), (x, y))


@given(st.integers(2, 6), st.floats(-2, 2))
def test_a_collapsed_batch_pays_for_every_dimension(b, constant):
    z = torch.full((b, 4), constant, dtype=torch.float64, requires_grad=True)
    value = BarlowTwins()(contrast(z, z))
    value.backward()
    assert value.item() == pytest.approx(4) and z.grad.isfinite().all()


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_length_does_not_matter(factor, seed):
    x, y = 10 * noise(6, 3, seed), 10 * noise(6, 3, seed + 1)
    torch.testing.assert_close(
        BarlowTwins()(contrast(factor * x, y)), BarlowTwins()(contrast(x, y)), rtol=1e-3, atol=1e-4
    )
