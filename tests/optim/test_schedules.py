import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl.components import Step
from cl.optim.schedules import Constant, Cosine, Schedule

VALUE = st.floats(0, 2)


@given(VALUE, VALUE, st.integers(1, 50), st.data())
def test_cosine_without_warm_up_has_a_closed_form(start, end, total, data):
    index = data.draw(st.integers(0, total))
    expected = end + (start - end) * (1 + math.cos(math.pi * index / total)) / 2
    assert Cosine(start, end)(Step(index, total)) == pytest.approx(expected)


@given(VALUE, VALUE, st.integers(2, 60), st.floats(0, 0.9))
def test_warm_up_is_a_line_from_0_to_start_and_then_half_a_cosine(start, end, total, warmup):
    schedule, rising = Cosine(start, end, warmup), warmup * total
    values = [schedule(Step(index, total)) for index in range(total)]
    up = math.ceil(rising)
    for index in range(up):
        assert values[index] == pytest.approx(start * (index + 1) / (rising + 1))
        assert 0 <= values[index] <= start
    for index in range(up, total):
        done = (index - rising) / (total - rising)
        assert values[index] == pytest.approx(end + (start - end) * (1 + math.cos(math.pi * done)) / 2)
    assert schedule(Step(total, total)) == pytest.approx(end, abs=1e-9)


def test_the_corners():
    assert Cosine()(Step(0, 10)) == 1 and Cosine(0.99, 1.0)(Step(0, 10)) == pytest.approx(0.99)
    assert Cosine(1.0, 0.0, 0.5)(Step(5, 10)) == 1
    assert Constant()(Step(3, 10)) == 1 and Constant(0.3)(Step(9, 10)) == 0.3
    assert isinstance(Constant(), Schedule) and isinstance(Cosine(), Schedule)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, math.nan])
def test_warm_up_is_a_fraction(warmup):
    with pytest.raises(ValueError, match=r"Cosine\.warmup"):
        Cosine(warmup=warmup)
