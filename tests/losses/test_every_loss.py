"""What holds of all losses: of their width, the order of rows, what they cannot fall below, and second derivatives."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.precision import wide
from cl.types import Contrast

SOFTMAX = {
    "InfoNCE": lambda: InfoNCE(LearnedTemperature(0.5), tile=4),
    "smoothed": lambda: InfoNCE(0.5, smoothing=0.1, tile=4),
    "decoupled": lambda: DecoupledInfoNCE(0.5, tile=4),
    "hard negatives": lambda: HardNegativeInfoNCE(0.5, tile=4),
}
TILED = SOFTMAX | {"sigmoid": lambda: Sigmoid(LearnedTemperature(0.5), tile=4)}
LOSSES = TILED | {
    "alignment": Alignment,
    "VICReg": VICReg,
    "Barlow Twins": BarlowTwins,
    "self-distillation": lambda: SelfDistillation(dim=4, student=0.2, teacher=0.1),
}
WIDTHS = [torch.bfloat16, torch.float32, torch.float64]


def ids(group, view=0):
    group = torch.as_tensor(group)
    return torch.stack([group, torch.arange(len(group)), torch.full_like(group, view)], dim=1)


def paired(q, k, pool):
    """Queries, each with a key of its own, and other keys."""
    every = ids(range(len(q) + len(pool)))
    return Contrast(q, every[: len(q)], k, pool, every[len(q) :])


def rows(n, seed):
    return F.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def contrasts(loss, seed):
    """Of every shape that the loss takes, with one positive a row."""
    yield paired(rows(6, seed), rows(6, seed + 1), rows(9, seed + 2))
    if loss in TILED:
        yield Contrast.pairs(rows(5, seed), rows(5, seed + 1))
        yield Contrast.pairs(rows(7, seed), rows(7, seed + 1), both_ways=True)


def derived(loss, contrast):
    q = contrast.q.detach().requires_grad_()
    found = LOSSES[loss]()(replace(contrast, q=q))
    found.backward()
    return found, q.grad


@pytest.mark.parametrize("loss", LOSSES)
@given(widths=st.tuples(*[st.sampled_from(WIDTHS)] * 3))
def test_keys_and_queries_of_unlike_widths(loss, widths):
    """Of numbers that bfloat16 holds, so that all widths stand for the same rows; as wide as the queries or wider."""
    of = [rows(n, seed).bfloat16() for seed, n in enumerate((6, 6, 9))]
    found, gradient = derived(loss, paired(*(each.to(width) for each, width in zip(of, widths, strict=True))))
    wanted, wanted_gradient = derived(loss, paired(*(each.double() for each in of)))
    assert found.dtype in (wide(torch.empty(0, dtype=widths[0])).dtype, torch.float64)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert gradient.dtype == widths[0]
    near = 1e-2 if widths[0] == torch.bfloat16 else 1e-5
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=near, atol=near)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**16))
def test_autocast_changes_nothing(loss, seed):
    for contrast in contrasts(loss, seed):
        wanted = LOSSES[loss]()(contrast)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(LOSSES[loss]()(contrast), wanted)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_rows_is_no_matter(loss, seed):
    order = torch.Generator().manual_seed(seed)
    for contrast in contrasts(loss, seed):
        of_q = torch.randperm(len(contrast.q), generator=order)
        of_pool = of_q if contrast.pool_is_q else torch.randperm(len(contrast.pool), generator=order)
        turned = replace(
            contrast,
            q=contrast.q[of_q],
            q_ids=contrast.q_ids[of_q],
            paired=None if contrast.paired is None else contrast.paired[of_q],
            pool=contrast.pool[of_pool],
            pool_ids=contrast.pool_ids[of_pool],
        )
        (found, gradient), (wanted, wanted_gradient) = derived(loss, turned), derived(loss, contrast)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, wanted_gradient[of_q], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "decoupled"])
@given(seed=st.integers(0, 2**16))
def test_what_is_no_likelihood_ratio_is_not_negative(loss, seed):
    for contrast in contrasts(loss, seed):
        assert LOSSES[loss]()(contrast) >= -1e-5


@given(
    groups=st.lists(st.integers(0, 2), min_size=2, max_size=30),
    temperature=st.floats(0.005, 10),
    seed=st.integers(0, 2**16),
)
def test_info_nce_is_at_least_the_logarithm_of_the_positives(groups, temperature, seed):
    """Log-sum-exp over all is at least that over the positives, and that their mean and log of their number."""
    group = torch.tensor(groups)
    positives = (group[:, None] == group).sum(dim=1) - 1
    bound = positives[positives > 0].double().log().mean() if positives.any() else 0.0
    contrast = Contrast.of(rows(len(groups), seed), group)
    assert InfoNCE(temperature, tile=7)(contrast) >= bound - 1e-6 * (1 / temperature + 1)


@pytest.mark.parametrize("loss", TILED)
def test_second_derivatives_are_refused(loss):
    for contrast in contrasts(loss, seed=0):
        for learned in ([contrast.q], [contrast.q, contrast.pool]):
            for each in learned:
                each.requires_grad_()
            found = LOSSES[loss]()(replace(contrast))
            with pytest.raises(RuntimeError, match="first derivatives only"):
                torch.autograd.grad(found, learned, create_graph=True)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("loss", TILED)
def test_a_key_that_is_not_finite_is_not_taken_for_one_that_is_never_met(loss, bad):
    """Of one query, all of whose products with it may be minus infinity."""
    for sign in (1, -1):
        pool = rows(3, 0)
        pool[1] = sign * bad
        assert not LOSSES[loss]()(paired(rows(1, 1).abs(), rows(1, 2), pool)).isfinite()


@pytest.mark.parametrize("loss", TILED)
def test_a_query_that_is_not_finite_is_seen_where_there_is_nothing_to_meet(loss):
    q = rows(3, 0)
    q[1] = math.nan
    contrast = paired(q, rows(3, 1), rows(0, 2))
    assert not LOSSES[loss]()(contrast).isfinite()
    if loss == "sigmoid":  # which needs no positive
        assert not LOSSES[loss]()(replace(contrast, paired=None)).isfinite()


def test_no_rows_are_no_loss():
    for loss in LOSSES.keys() - {"VICReg", "Barlow Twins"}:  # which refuse them
        assert LOSSES[loss]()(paired(rows(0, 0), rows(0, 1), rows(3, 2))) == 0, loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "build",
    [
        lambda x: HardNegativeInfoNCE(0.5, hardness=x),
        lambda x: VICReg(covariance=x),
        lambda x: BarlowTwins(redundancy=x),
        lambda x: Sigmoid(0.5, bias=x if x != -1 else math.nan),
        lambda x: LearnedTemperature(0.5, max_scale=x),
        lambda x: InfoNCE(1e-40 if x != -1 else x),
    ],
)
def test_a_setting_that_is_no_number_or_out_of_range_is_named(build, value):
    with pytest.raises(ValueError, match=r"(hardness|covariance|redundancy|bias|LearnedTemperature|temperature)"):
        build(value)
