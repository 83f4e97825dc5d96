import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.encoders.decorrelated import DecorrelatedBatchNorm
from cl.encoders.norms import BatchNorm
from cl.errors import ConfigError, NumericError
from cl.evaluation.spectrum import effective_rank


def correlated(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, c, generator=generator, dtype=torch.float64)
    return rows @ torch.randn(c, c, generator=generator, dtype=torch.float64) + 3


def covariance(x):
    return x.T @ x / len(x) - torch.outer(x.mean(dim=0), x.mean(dim=0))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 20), st.integers(0, 1000))
def test_features_of_a_group_have_variance_one_and_no_correlation(group, parts, more, seed):
    x = correlated(8 * group + more, group * parts, seed)
    y = DecorrelatedBatchNorm(group * parts, group=group, eps=1e-12)(x)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros_like(y[0]), atol=1e-9, rtol=0)
    for part in y.split(group, dim=1):
        torch.testing.assert_close(covariance(part), torch.eye(group).double(), atol=1e-6, rtol=0)


@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 1000))
def test_groups_of_one_are_batch_norm(n, c, seed):
    x = correlated(n, c, seed).float()
    ours, theirs = DecorrelatedBatchNorm(c, group=1, eps=1e-5), BatchNorm(c, affine=False)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


@given(st.integers(0, 1000))
def test_neither_the_order_of_rows_nor_the_scale_and_place_of_features_matters(seed):
    x = correlated(20, 6, seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    norm = DecorrelatedBatchNorm(6, group=3, eps=1e-14)
    torch.testing.assert_close(norm(x[order]), norm(x)[order])
    torch.testing.assert_close(norm(x * torch.arange(1, 7) + 5), norm(x), atol=1e-6, rtol=1e-6)


def test_gradients_are_those_of_finite_differences():
    x = correlated(7, 4, 0).requires_grad_()
    assert torch.autograd.gradcheck(DecorrelatedBatchNorm(4, group=2), (x,))


def test_rows_on_a_line_leave_it_where_batch_norm_leaves_them_there():
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(200, 1, generator=generator) @ torch.randn(1, 16, generator=generator)
    x = line + 0.01 * torch.randn(200, 16, generator=generator)
    assert effective_rank(BatchNorm(16)(x), centred=False) < 3
    assert effective_rank(DecorrelatedBatchNorm(16, group=16, eps=1e-8)(x), centred=False) > 15


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_strong_direction_has_a_factor_at_any_scale(scale):
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(256, 1, generator=generator) @ torch.randn(1, 64, generator=generator) * scale
    norm = DecorrelatedBatchNorm(64, momentum=0.5)
    for _ in range(20):  # what eval mode uses is nearly as singular
        assert torch.isfinite(norm(line)).all()
    assert torch.isfinite(norm.eval()(line)).all()


def test_a_collapsed_batch_is_finite_with_finite_gradients():
    x = torch.ones(8, 4, requires_grad=True)
    y = DecorrelatedBatchNorm(4, group=4)(x)
    (y * torch.arange(32.0).view(8, 4)).sum().backward()
    assert torch.equal(y, torch.zeros(8, 4)) and x.grad is not None and torch.isfinite(x.grad).all()


def test_eval_mode_uses_what_was_seen_and_no_company():
    norm = DecorrelatedBatchNorm(6, group=3, eps=1e-6, momentum=1.0)
    x = correlated(50, 6, 1).float()
    whitened = norm(x)
    norm.eval()
    torch.testing.assert_close(norm(x), whitened)
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1])


def test_bfloat16_rows_under_autocast_come_out_float32():
    x, norm = correlated(16, 4, 2).bfloat16(), DecorrelatedBatchNorm(4, group=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, norm(x.float()))


def test_a_batch_that_has_no_factor_is_a_numeric_error_and_leaves_no_trace():
    norm = DecorrelatedBatchNorm(4, group=4)
    with pytest.raises(NumericError, match="covariance is not finite"):
        norm(torch.full((8, 4), torch.nan))
    assert torch.equal(norm.running_mean, torch.zeros(4))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="group must divide the width 6, got 4"):
        DecorrelatedBatchNorm(6, group=4)
    with pytest.raises(
        ConfigError, match=r"7 rows is too small to decorrelate groups of 4.*DecorrelatedBatchNorm\.group"
    ):
        DecorrelatedBatchNorm(4, group=4)(torch.zeros(7, 4))
