import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import paired as contrast
from tiny import rows

from cl.losses.alignment import Alignment
from cl.types import Contrast

SIZES = {"b": st.integers(1, 6), "d": st.integers(1, 5), "seed": st.integers(0, 1000)}


@given(**SIZES)
def test_is_two_minus_two_cosines_in_a_loop(b, d, seed):
    q, k = rows(b, d, seed).double(), rows(b, d, seed + 1).double()
    cosines = [float(F.cosine_similarity(q[i], k[i], dim=0)) for i in range(b)]
    expected = sum(2 - 2 * cosine for cosine in cosines) / b
    # The rows are unit in float32.
    assert Alignment()(contrast(q, k)).item() == pytest.approx(expected, abs=1e-6)


@given(**SIZES)
def test_rows_off_the_sphere_are_at_their_squared_distance(b, d, seed):
    q, k = 3 * rows(b, d, seed).double(), rows(b, d, seed + 1).double()
    expected = sum((q[i, j] - k[i, j]).item() ** 2 for i in range(b) for j in range(d)) / b
    assert Alignment()(contrast(q, k)).item() == pytest.approx(expected, rel=1e-9)


def test_gradcheck():
    q, k = (rows(3, 4, seed).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda q, k: Alignment()(contrast(q, k)), (q, k))


@given(st.integers(1, 6), st.sampled_from([0.0, 1.0, -0.3]))
def test_collapsed_is_zero_exactly(b, constant):
    z = torch.full((b, 4), constant, requires_grad=True)
    value = Alignment()(contrast(z, z.detach()))
    value.backward()
    assert value.item() == 0 and (z.grad == 0).all()


@given(st.permutations(range(5)), st.integers(0, 1000))
def test_order_and_rotation_change_nothing(order, seed):
    q, k = rows(5, 3, seed).double(), rows(5, 3, seed + 1).double()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    expected = Alignment()(contrast(q, k))
    torch.testing.assert_close(Alignment()(contrast(q[order], k[order])), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(Alignment()(contrast(q @ turn, k @ turn)), expected, rtol=1e-9, atol=1e-12)


def test_autocast_changes_nothing():
    pair = contrast(rows(5, 7), rows(5, 7, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = Alignment()(pair)
    assert value.dtype == torch.float32 and torch.equal(value, Alignment()(pair))


def test_needs_paired_keys():
    with pytest.raises(ValueError, match="PositivesOnly"):
        Alignment()(Contrast.pairs(rows(2, 3), rows(2, 3)))


def test_no_rows_are_no_loss():
    assert Alignment()(Contrast(rows(0, 2), torch.zeros(0, 3, dtype=torch.int64), rows(0, 2))) == 0
