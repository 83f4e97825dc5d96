"""The framework's own parts, `Predict`, `PositivesOnly` and `Alignment` on rows of free length, flow as the equations
of `cl.laboratory.linear_byol` say, and these end where they are said to.
"""

import itertools
import math

import pytest
import torch
from tiny import block
from torch import nn

from cl.encoders.predict import Predict
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.laboratory import linear_byol
from cl.laboratory.linear_byol import NOISE, RATE, REGIMES, Regime
from cl.losses.alignment import Alignment
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Objective, Term
from cl.types import Views


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


def flow(regime, w, p, steps):
    """(w, p) after so many small steps of gradient descent, from a symmetric start in two directions."""
    eye, views = torch.eye(2, dtype=torch.float64), whitened(2)
    built = objective(w * eye, p * eye if regime.predictor else None, regime.stop_gradient)
    ids = block(range(len(views[0])), 0)
    batch = Views(tuple(views), (0, 1), ids[:, 1], ids[:, 1])
    for _ in range(steps):
        built(batch).loss.backward()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter -= RATE * (parameter.grad + regime.decay * parameter)
                parameter.grad = None
    weight = built.encoder.online.towers["image"].heads["z"].weight
    return weight[0, 0].item(), built.encoder.predictors["z"].weight[0, 0].item() if regime.predictor else 1.0


STARTS = [(0.7, 0.3), (0.1, 0.2), (1.4, 1.0), (0.5, -0.5), (0.3, 0.3)]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", REGIMES)
def test_the_framework_flows_as_the_equations_say(name, start):
    wanted = REGIMES[name].flow(*start, 200)[-1]
    for found, value in zip(flow(REGIMES[name], *start, 200), wanted, strict=True):
        assert found == pytest.approx(value, rel=1e-9)


# Where flows end is followed by the equations, which the framework was seen to keep to.


@pytest.mark.parametrize("name", REGIMES)
def test_of_the_starts_that_are_drawn_those_survive_that_are_said_to(name):
    regime = REGIMES[name]
    ends = {start: regime.flow(start, start, round(linear_byol.TIME / RATE))[-1][0] for start in linear_byol.STARTS}
    assert {start for start, w in ends.items() if w > 0.2} == set(regime.survive)
    assert {start for start, w in ends.items() if w < linear_byol.COLLAPSED} == {*ends} - {*regime.survive}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_predictor_it_collapses_at_a_rate_that_is_known(decay):
    w, _ = Regime("", decay, predictor=False).flow(1.0, 1.0, 400)[-1]
    assert w == pytest.approx((1 - RATE * (NOISE + decay)) ** 400, rel=1e-9) and w < 0.25


@pytest.mark.parametrize("p", [-1.0, 0.1, 0.8, 3.0])
def test_without_stop_gradient_it_collapses_with_a_predictor_too(p):
    path = REGIMES["no stop-gradient"].flow(1.0, p, 1500)
    assert all(0 < later < (1 - RATE * NOISE) * now for (now, _), (later, _) in itertools.pairwise(path))


@pytest.mark.parametrize("start", [0.05, 0.3, 1.5])
def test_with_both_and_no_decay_any_positive_start_survives(start):
    w, p = Regime("").flow(start, start, 6000)[-1]
    assert p == pytest.approx(1 / (1 + NOISE), rel=1e-3) and w == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize(("w", "p"), [(0.5, 1.0), (0.59, 1.0), (0.61, 1.0), (0.1, 3.0), (2.0, 0.01), (0.01, 0.3)])
def test_without_decay_what_survives_is_known_from_the_start(w, p):
    ahead = w * w - p * p
    end, predictor = Regime("").flow(w, p, 40000)[-1]
    assert end**2 - predictor**2 == pytest.approx(ahead, rel=0.05)
    survives = ahead > -1 / (1 + NOISE) ** 2
    assert survives == (end > 0.05) and predictor == pytest.approx(
        1 / (1 + NOISE) if survives else math.sqrt(-ahead), rel=0.05
    )


def test_a_negative_predictor_does_not_survive_by_itself():
    """It first goes to 0 along with the embedding; s - p^2 is kept, so a start on s = p^2 ends there."""
    w, p = Regime("").flow(0.3, -0.3, 6000)[-1]
    assert w < 0.05 and -0.05 < p < 0


@pytest.mark.parametrize("decay", [0.05, 0.15])
def test_with_decay_small_starts_collapse_and_larger_ones_survive(decay):
    regime = Regime("", decay)
    low, high = regime.roots()
    w, p = regime.flow(0.8 * low, 0.8 * low, 6000)[-1]
    assert w < 0.03 and p < 0.03
    w, p = regime.flow(1.2 * low, 1.2 * low, 6000)[-1]
    assert p == pytest.approx(high, rel=1e-2) and w == pytest.approx(high, rel=1e-2)


def test_with_much_decay_nothing_survives():
    regime = Regime("", 0.3)
    assert regime.roots() is None and 1 / (4 * (1 + NOISE)) < 0.3
    w, p = regime.flow(1.0, 1.0, 4000)[-1]
    assert w < 0.03 and p < 0.03


def test_the_regimes_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    linear_byol.draw(tmp_path / "linear.png")
    assert (tmp_path / "linear.png").stat().st_size > 5000
