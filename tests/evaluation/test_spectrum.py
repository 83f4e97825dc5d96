import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cl.evaluation.spectrum import alignment, effective_rank, feature_std, spectrum_tail, uniformity

ROWS = [feature_std, effective_rank, spectrum_tail, uniformity]


def random_rows(m, d, seed, spread=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, d, generator=generator, dtype=torch.float64)
    return rows * torch.exp(-spread * torch.arange(d)) + torch.randn(d, generator=generator)


def unit(rows):
    return [[x / math.hypot(*row) for x in row] for row in rows.tolist()]


def squared_distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


shapes = {"m": st.integers(2, 12), "d": st.integers(2, 12), "seed": st.integers(0, 10**6)}


@settings(deadline=None, max_examples=30)
@given(**shapes, spread=st.sampled_from([0.0, 0.3]))
def test_against_loops_in_float64(m, d, seed, spread):
    rows, other = random_rows(m, d, seed, spread), random_rows(m, d, seed + 1)
    u, v = unit(rows), unit(other)

    stds = []
    for column in zip(*u, strict=True):
        mean = sum(column) / m
        stds.append(math.sqrt(sum((x - mean) ** 2 for x in column) / m))
    assert feature_std(rows.float()).item() == pytest.approx(sum(stds) / d, rel=1e-4)

    for centred in (True, False):
        sigma = np.linalg.svd(rows.numpy() - rows.numpy().mean(0) * centred, compute_uv=False)
        p = sigma / sigma.sum()
        expected = math.exp(-sum(x * math.log(x) for x in p if x > 1e-12))
        assert effective_rank(rows.float(), centred).item() == pytest.approx(expected, rel=1e-4)

    variances = np.linalg.svd(rows.numpy() - rows.numpy().mean(0), compute_uv=False) ** 2
    expected = sum(sorted([*variances, *[0.0] * d], reverse=True)[(d + 1) // 2 : d]) / sum(variances)
    assert spectrum_tail(rows.float()).item() == pytest.approx(expected, rel=1e-4, abs=1e-9)

    assert alignment(rows.float(), other.float()).item() == pytest.approx(
        sum(squared_distance(a, b) for a, b in zip(u, v, strict=True)) / m, rel=1e-4
    )
    for t in (2.0, 0.5):
        pairs = [math.exp(-t * squared_distance(u[i], u[j])) for i in range(m) for j in range(i)]
        expected = math.log(sum(pairs) / len(pairs))
        assert uniformity(rows.float(), t).item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(**shapes)
def test_permuting_and_rotating_rows_changes_nothing(m, d, seed):
    rows, other = random_rows(m, d, seed), random_rows(m, d, seed + 1)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(random_rows(d, d, seed + 2)).Q
    for function in ROWS:
        assert function(rows[order].float()).item() == pytest.approx(function(rows.float()).item(), rel=1e-4, abs=1e-5)
    for function in (effective_rank, uniformity):
        expected = function(rows.float()).item()
        assert function((rows @ rotation).float()).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    expected = alignment(rows.float(), other.float()).item()
    assert alignment((rows @ rotation).float(), (other @ rotation).float()).item() == pytest.approx(expected, rel=1e-4)
    assert effective_rank(rows.float() * 100).item() == pytest.approx(effective_rank(rows.float()).item(), rel=1e-4)


@pytest.mark.parametrize("d", [2, 5, 16])
def test_orthonormal_rows(d):
    basis = torch.eye(d)
    assert effective_rank(basis, centred=False).item() == pytest.approx(d)
    # Centring takes one direction away.
    assert effective_rank(basis).item() == pytest.approx(d - 1)
    assert effective_rank(torch.cat([basis, -basis])).item() == pytest.approx(d)
    assert uniformity(basis).item() == pytest.approx(-4)
    assert feature_std(torch.cat([basis, -basis])).item() == pytest.approx(1 / math.sqrt(d))


def test_rows_spread_over_the_sphere_are_healthy():
    d = 64
    rows = torch.randn(4096, d, generator=torch.Generator().manual_seed(0))
    assert feature_std(rows).item() == pytest.approx(1 / math.sqrt(d), rel=0.02)
    assert effective_rank(rows).item() > 0.98 * d
    assert -4 < uniformity(rows[:512]).item() < -3.8


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e15])
@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (1, 8), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_point_has_std_0_rank_1_and_uniformity_0(scale, shape, dtype):
    m, d = shape
    rows = (torch.randn(d, generator=torch.Generator().manual_seed(0)) * scale).to(dtype).repeat(m, 1)
    assert feature_std(rows).item() == 0
    assert effective_rank(rows).item() == 1
    assert effective_rank(rows, centred=False).item() == pytest.approx(1)
    assert uniformity(rows).item() == pytest.approx(0, abs=1e-6)
    assert alignment(rows, rows).item() == 0


def test_rows_that_differ_by_rounding_are_a_point():
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(1, 128, generator=generator), dim=1).repeat(256, 1)
    rounded = rows * (1 + 1e-7 * torch.randn(256, 128, generator=generator))
    assert effective_rank(rounded).item() == 1
    assert feature_std(rounded).item() < 1e-6


def test_centred_rank_measures_the_differences_and_plain_rank_the_point():
    generator = torch.Generator().manual_seed(0)
    point = F.normalize(torch.randn(1, 32, generator=generator), dim=1)
    rows = point + 1e-4 * torch.randn(1024, 32, generator=generator)
    assert effective_rank(rows).item() > 30
    assert effective_rank(rows, centred=False).item() < 1.1


def test_a_collapse_onto_a_line_has_rank_1():
    generator = torch.Generator().manual_seed(0)
    along, centre = torch.randn(256, 1, generator=generator), torch.randn(128, generator=generator)
    line = centre + along * torch.randn(128, generator=generator)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)


def test_rows_that_are_not_finite_say_so():
    for bad in (math.nan, math.inf):
        rows = torch.randn(8, 4)
        rows[0, 0] = bad
        assert math.isnan(effective_rank(rows).item())
        assert math.isnan(feature_std(rows).item())


def test_float32_without_gradient_under_autocast_too():
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for function in (*ROWS, lambda rows: alignment(rows, rows.flip(0))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(rows)
        assert value.dtype == torch.float32 and value.shape == () and not value.requires_grad
        assert value.item() == pytest.approx(function(rows).item(), rel=1e-6)
