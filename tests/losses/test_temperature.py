import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.losses.temperature import LearnedTemperature

LOW, HIGH = math.log(2.0), math.log(50.0)
WHERE = st.floats(LOW - 2, HIGH + 2) | st.sampled_from([LOW, HIGH])


def at(log_scale):
    temperature = LearnedTemperature(0.1, max_scale=50.0, min_scale=2.0).double()
    with torch.no_grad():
        temperature.log_scale.fill_(log_scale)
    return temperature


@given(st.floats(0.011, 0.99))
def test_starts_at_its_initial_value(initial):
    temperature = LearnedTemperature(initial)
    assert temperature().shape == temperature.log_scale.shape == (1,)
    assert temperature().item() == pytest.approx(1 / initial, rel=1e-5)


@given(WHERE)
def test_the_scale_is_clamped_and_the_parameter_never_edited(where):
    temperature = at(where)
    assert temperature().item() == pytest.approx(math.exp(min(max(where, LOW), HIGH)))
    assert temperature.log_scale.item() == where


@given(WHERE, st.sampled_from([-3.0, -1e-3, 1e-3, 3.0]))
def test_gradient_passes_unless_descent_leads_further_out(where, upstream):
    temperature = at(where)
    (temperature() * upstream).sum().backward()
    gradient = temperature.log_scale.grad.item()
    outward = (where >= HIGH and upstream < 0) or (where <= LOW and upstream > 0)
    assert gradient == pytest.approx(0 if outward else upstream * temperature().item())


@given(st.floats(LOW + 0.01, HIGH - 0.01))
def test_gradient_inside_is_that_of_exp(where):
    temperature = at(where)
    assert torch.autograd.gradcheck(lambda _: temperature(), (temperature.log_scale,))


@pytest.mark.parametrize("start, wanted", [(HIGH + 1, 10.0), (LOW - 1, 10.0)])
def test_descent_comes_back_from_beyond_a_bound(start, wanted):
    temperature = at(start)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        (temperature().log() - math.log(wanted)).square().sum().backward()
        optimizer.step()
    assert temperature().item() == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("side", [HIGH, LOW])
def test_descent_does_not_run_away_beyond_a_bound(side):
    temperature = at(side)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (temperature() * (-1 if side == HIGH else 1)).sum().backward()
        optimizer.step()
    assert temperature.log_scale.item() == pytest.approx(side)


@pytest.mark.parametrize("initial", [0.0, -0.1, math.nan, 0.009, 1.5])
def test_initial_must_lie_in_the_bounds(initial):
    with pytest.raises(ValueError, match=r"LearnedTemperature\.initial"):
        LearnedTemperature(initial)


def test_a_scale_of_nothing_is_no_bound():
    with pytest.raises(ValueError, match="both are numbers above 0"):
        LearnedTemperature(min_scale=0.0)
