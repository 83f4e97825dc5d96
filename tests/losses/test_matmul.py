"""Products by oneDNN are products, whatever the strides, and no others are taken where they do not belong."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import rows

from cl.losses.info_nce import InfoNCE
from cl.losses.matmul import has_onednn, matmul, prefers_onednn
from cl.types import Contrast

SIZE = st.integers(1, 70)
here = pytest.mark.skipif(not has_onednn(), reason="this PyTorch has no oneDNN")


@here
@given(m=SIZE, n=SIZE, d=SIZE, seed=st.integers(0, 10**6), transposed=st.booleans())
def test_it_is_the_product(m, n, d, seed, transposed):
    a = rows(d, m + 3, seed).T[2 : m + 2] if transposed else rows(m, d + 3, seed)[:, 1 : d + 1]
    b = rows(n + 2, d, seed + 1)[1 : n + 1].T if transposed else rows(d, n + 2, seed + 1)[:, 1 : n + 1]
    found, wanted = matmul(a, b), a.double() @ b.double()
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, rtol=0, atol=1e-6 * d**0.5)


@here
def test_one_key_may_stand_for_many():
    a, key = rows(4, 5, 0), rows(1, 5, 1)
    assert torch.allclose(matmul(a, key.expand(3, 5).T), a @ key.expand(3, 5).T)


@here
@pytest.mark.parametrize(("m", "d", "n"), [(0, 3, 2), (2, 3, 0)])
def test_nothing_times_nothing(m, d, n):
    assert torch.equal(matmul(torch.empty(m, d), torch.empty(d, n)), torch.zeros(m, n))


@here
def test_autocast_leaves_it_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert matmul(torch.ones(2, 3), torch.ones(3, 2)).dtype == torch.float32


def abilities(name, wide):
    found = {"cpu_name": name, "avx512_f": wide} if name else {"architecture": "arm64"}
    return patch("torch.cpu.get_capabilities", lambda: found)


@pytest.mark.parametrize(
    ("name", "wide", "dtype", "device", "wanted"),
    [
        ("AMD EPYC", True, torch.float32, "cpu", True),
        ("AMD EPYC", False, torch.float32, "cpu", False),
        ("Intel(R) Xeon(R)", True, torch.float32, "cpu", False),
        ("AMD EPYC", True, torch.float64, "cpu", False),
        ("AMD EPYC", True, torch.bfloat16, "cpu", False),
        ("AMD EPYC", True, torch.float32, "meta", False),
        ("", None, torch.float32, "cpu", False),
    ],
)
def test_where_it_is_taken(name, wide, dtype, device, wanted):
    with abilities(name, wide):
        assert prefers_onednn(torch.empty(2, 2, dtype=dtype, device=device)) == (wanted and has_onednn())


def test_a_pytorch_without_it_goes_without():
    with abilities("AMD EPYC", True), patch("cl.losses.matmul.has_onednn", lambda: False):
        assert not prefers_onednn(torch.empty(2, 2))


def test_rows_of_no_width_are_left_to_others():
    with abilities("AMD EPYC", True):
        assert not prefers_onednn(torch.empty(2, 0))


@pytest.mark.parametrize("both_ways", [False, True])
def test_of_rows_of_no_width_all_logits_are_nothing(both_ways):
    z = torch.empty(4, 0, requires_grad=True)
    loss = InfoNCE(0.1)(Contrast.pairs(z, z, both_ways))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(4.0 if both_ways else 7.0).log())


@pytest.mark.filterwarnings("ignore:TF32")
def test_where_it_is_forbidden_it_is_left():
    with abilities("AMD EPYC", True), torch.backends.mkldnn.flags(enabled=False):
        assert not prefers_onednn(torch.empty(2, 2))
