"""BYOL with linear networks, whose collapse can be written down (Tian et al. 2021, arXiv:2102.06810, section 3).

Of a direction of the data, with variance 1 and augmentation noise of variance v, let s be the variance of the embedding
and p the predictor's factor. Under a stop-gradient, a target equal to the network and weight decay e, both flow by

    p' = s (1 - (1 + v) p) - e p          s' = 2 p s (1 - (1 + v) p) - 2 e s          (their equations 11 and 12)

Without a predictor p = 1: s' = -2 (v + e) s, and s goes to 0. With one, s - p^2 goes to 0 like exp(-2 e t), so that in
the end p' = p^2 (1 - (1 + v) p) - e p. Without decay 0 is unstable for any positive start; with decay starts below the
smaller root of p (1 - (1 + v) p) = e collapse, and those above it survive at the larger. Decay above 1 / (4 (1 + v))
leaves no root.

The framework's own parts, `Predict`, `PositivesOnly` and `Alignment` on rows of free length, are held to these flows.
"""

import math

import pytest
import torch
from tiny import block
from torch import nn

from cl.encoders.predict import Predict
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.losses.alignment import Alignment
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Objective, Term
from cl.types import Views

NOISE, RATE = 0.25, 0.02
"""v, and the time of a step."""


def whitened(d, n=64):
    """Two views of `n` samples: variance 1 in each direction and noise of `NOISE`, exactly, and all uncorrelated."""
    q, _ = torch.linalg.qr(torch.randn(n, 3 * d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x, first, second = (q * n**0.5).split(d, dim=1)
    return [(x + NOISE**0.5 * noise)[:, :, None, None] for noise in (first, second)]


def objective(w, p, stop_gradient=True):
    """A linear encoder with the weights `w` and, unless None, a linear predictor with `p`."""
    head = nn.Linear(*w.shape[::-1], bias=False)
    head.weight.data = w.clone()
    tower = Tower(nn.Flatten(), {"z": head}, mean=[0.0], std=[1.0])
    predictors = {}
    if p is not None:
        predictors["z"] = nn.Linear(*p.shape, bias=False)
        predictors["z"].weight.data = p.clone()
    encoder = Predict(siamese(tower, unit_norm=False), predictors, stop_gradient)
    encoder.online.finish = lambda z: z  # type: ignore[method-assign]  # float64, as it is
    return Objective(encoder, {"only": Term(PositivesOnly(), Alignment(), weight=0.5)}).double()


def flow(s, p, decay, steps, stop_gradient=True):
    """(s, p) after so many small steps of gradient descent, from a symmetric start in two directions."""
    d = 2
    w, views = math.sqrt(s) * torch.eye(d, dtype=torch.float64), whitened(d)
    built = objective(w, None if p is None else p * torch.eye(d, dtype=torch.float64), stop_gradient)
    ids = block(range(len(views[0])), 0)
    batch = Views(tuple(views), (0, 1), ids[:, 1], ids[:, 1])
    for _ in range(steps):
        built(batch).loss.backward()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter -= RATE * (parameter.grad + decay * parameter)
                parameter.grad = None
    weight = built.encoder.online.towers["image"].heads["z"].weight
    predictor = 1.0 if p is None else built.encoder.predictors["z"].weight[0, 0].item()
    return (weight @ weight.T)[0, 0].item(), predictor


def written_down(s, p, decay, steps):
    """The same by the equations, in the same steps."""
    for _ in range(steps):
        slope = 1 - (1 + NOISE) * p
        w = math.sqrt(s)
        s, p = (w + RATE * (p * slope * w - decay * w)) ** 2, p + RATE * (s * slope - decay * p)
    return s, p


def roots(decay):
    """Of p (1 - (1 + v) p) = decay: the smaller and the larger."""
    root = math.sqrt(1 - 4 * (1 + NOISE) * decay)
    return (1 - root) / (2 * (1 + NOISE)), (1 + root) / (2 * (1 + NOISE))


STARTS = [(0.5, 0.3, 0.0), (0.01, 0.2, 0.1), (2.0, 1.0, 0.05), (0.3, -0.5, 0.1), (0.04, 0.2, 0.15), (0.09, 0.3, 0.15)]


@pytest.mark.parametrize(("s", "p", "decay"), STARTS)
def test_the_framework_flows_as_the_equations_say(s, p, decay):
    for found, wanted in zip(flow(s, p, decay, 200), written_down(s, p, decay, 200), strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_predictor_it_collapses_at_a_rate_that_is_known(decay):
    s, _ = flow(1.0, None, decay, 400)
    assert s == pytest.approx((1 - RATE * (NOISE + decay)) ** 800, rel=1e-9) and s < 0.06


def test_without_stop_gradient_it_collapses_with_a_predictor_too():
    first, _ = flow(1.0, 0.5, 0.2, 300, stop_gradient=False)
    second, _ = flow(1.0, 0.5, 0.2, 600, stop_gradient=False)
    assert second < 0.3 * first < 0.1


# Where flows end is followed by the equations, which the framework was seen to keep to.


@pytest.mark.parametrize("start", [0.05, 0.3, 1.5])
def test_with_both_and_no_decay_any_positive_start_survives(start):
    s, p = written_down(start**2, start, 0.0, 6000)
    assert p == pytest.approx(1 / (1 + NOISE), rel=1e-3) and s == pytest.approx(p**2, rel=1e-6)


def test_a_negative_predictor_does_not_survive_by_itself():
    """It first goes to 0 along with the embedding; s - p^2 is kept, so a start on s = p^2 ends there."""
    s, p = written_down(0.09, -0.3, 0.0, 6000)
    assert s < 1e-3 and -0.05 < p < 0


@pytest.mark.parametrize("decay", [0.05, 0.15])
def test_with_decay_small_starts_collapse_and_larger_ones_survive(decay):
    low, high = roots(decay)
    below, above = 0.8 * low, 1.2 * low
    s, p = written_down(below**2, below, decay, 6000)
    assert s < 1e-3 and p < 0.03
    s, p = written_down(above**2, above, decay, 6000)
    assert p == pytest.approx(high, rel=1e-2) and s == pytest.approx(high**2, rel=2e-2)


def test_with_much_decay_nothing_survives():
    assert 1 / (4 * (1 + NOISE)) < 0.3
    s, p = written_down(1.0, 1.0, 0.3, 4000)
    assert s < 1e-3 and p < 0.03
