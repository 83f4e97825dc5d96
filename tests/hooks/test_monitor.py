import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import embeddings, output, rows, tower

from cl.components import PostStepHook, Step
from cl.encoders.siamese import siamese
from cl.errors import NumericError
from cl.hooks.monitor import CollapseMonitor
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.objective import Objective, Term

OBJECTIVE = Objective(siamese(tower()), {"a": Term(InBatch(True), InfoNCE(0.2))})
HEALTHY = output(z=embeddings(64, (0, 1), d=8))
POINT = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: rows(1, d).repeat(n, 1)))
LINE = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: rows(1, d) * torch.randn(n, 1).sign()))
ZERO = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: torch.zeros(n, d)))


def collapsed(hook, outputs):
    return [bool(hook(OBJECTIVE, found, Step(i, 1000))["collapsed"]) for i, found in enumerate(outputs)]


def test_healthy_rows_have_a_std_near_one_over_root_d_and_full_rank():
    measured = CollapseMonitor()(OBJECTIVE, HEALTHY, Step(0, 1000))
    assert measured["feature_std"].item() == pytest.approx(1 / math.sqrt(8), rel=0.1)
    assert 6 < measured["effective_rank"].item() <= 8 and measured["collapsed"].item() == 0


@pytest.mark.parametrize("found", [POINT, LINE, ZERO])
def test_a_point_a_line_and_zero_rows_are_collapsed(found):
    measured = CollapseMonitor(patience=1)(OBJECTIVE, found, Step(0, 1000))
    assert measured["collapsed"].item() == 1
    assert all(torch.isfinite(value) for value in measured.values())


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 4))
def test_collapsed_is_so_many_measurements_in_a_row(bad, patience):
    hook, row, expected = CollapseMonitor(every=1, patience=patience), 0, []
    for each in bad:
        row = row + 1 if each else 0
        expected.append(row >= patience)
    assert collapsed(hook, [POINT if each else HEALTHY for each in bad]) == expected


@given(st.integers(1, 7), st.integers(1, 20))
def test_measures_every_so_often_and_at_the_end(every, total):
    hook = CollapseMonitor(every=every)
    measured = [bool(hook(OBJECTIVE, HEALTHY, Step(i, total))) for i in range(total)]
    assert measured == [i % every == 0 or i == total - 1 for i in range(total)]


def test_stops_when_asked_to():
    hook = CollapseMonitor(every=1, patience=2, stop=True)
    hook(OBJECTIVE, POINT, Step(0, 10))
    with pytest.raises(NumericError, match="collapsed at step 2") as error:
        hook(OBJECTIVE, POINT, Step(1, 10))
    assert error.value.code == 4


def test_the_count_survives_a_restart():
    hook, again = CollapseMonitor(every=1, patience=2), CollapseMonitor(every=1, patience=2)
    assert isinstance(hook, PostStepHook)
    assert collapsed(hook, [POINT]) == [False]
    again.load_state_dict(hook.state_dict())
    assert collapsed(again, [POINT]) == [True]


def test_an_embedding_is_left_as_it_is():
    q = HEALTHY.embeddings["z"].q
    before = q.clone()
    CollapseMonitor()(OBJECTIVE, HEALTHY, Step(0, 10))
    assert torch.equal(q, before)
