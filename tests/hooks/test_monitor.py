import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import embeddings, output, rows, tower

from cl.components import PostStepHook, RollsBack, Step
from cl.encoders.dual import dual
from cl.encoders.siamese import siamese
from cl.errors import NumericError, RollBack
from cl.hooks.monitor import CollapseMonitor
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.objective import Objective, Term

PAIRS = dual(tower(), tower())
OBJECTIVE = Objective(siamese(tower()), {"a": Term(InBatch(True), InfoNCE(0.2))})
HEALTHY = output(z=embeddings(64, (0, 1), d=8))
POINT = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: rows(1, d).repeat(n, 1)))
LINE = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: rows(1, d) * torch.randn(n, 1).sign()))
ZERO = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: torch.zeros(n, d)))


def collapsed(hook, outputs):
    return [bool(hook(OBJECTIVE, found, Step(i, 1000))["collapsed"]) for i, found in enumerate(outputs)]


def test_towers_that_fell_to_a_point_each_are_collapsed():
    """Pictures and texts pooled have a spread, and two directions."""

    def two(n, d, seed):
        return (rows(2, d).repeat_interleave(n // 2, dim=0) + 1e-3 * rows(n, d, seed)).float()

    found = output(z=embeddings(64, (0, 1), d=64, make=two))
    pairs = Objective(PAIRS, {"a": Term(InBatch(same_view=False), InfoNCE(0.2))})
    hook = CollapseMonitor(patience=1, then="stop")
    with pytest.raises(NumericError, match=r"feature_std 0\.00"):
        hook(pairs, found, Step(0, 1000))
    assert hook(OBJECTIVE, found, Step(1, 1000)) is not None
    measured = CollapseMonitor(patience=1)(pairs, output(z=embeddings(64, (0, 1), d=8)), Step(0, 1000))
    assert measured["collapsed"].item() == 0


def test_pairs_with_two_captions_are_healthy():
    def make(n, d, seed):
        captions = rows(2, d, 1).repeat(n // 4, 1)
        return torch.cat([rows(n // 2, d, 2), captions])

    pairs = Objective(PAIRS, {"a": Term(InBatch(same_view=False), InfoNCE(0.2))})
    measured = CollapseMonitor(patience=1)(pairs, output(z=embeddings(64, (0, 1), d=64, make=make)), Step(0, 10))
    assert measured["collapsed"].item() == 0 and measured["effective_rank"].item() > 10


def test_every_embedding_is_looked_at():
    both = output(z=HEALTHY.embeddings["z"], ssl=POINT.embeddings["z"])
    measured = CollapseMonitor(patience=1)(OBJECTIVE, both, Step(0, 1000))
    assert measured["collapsed"].item() == 1 and measured["feature_std"].item() < 1e-3
    assert measured["effective_rank"].item() == pytest.approx(1) and measured["uniformity"].item() > -1e-3


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


def test_says_so_once_where_it_goes_on(caplog):
    hook = CollapseMonitor(every=1, patience=2)
    assert collapsed(hook, [POINT] * 4) == [False, True, True, True]
    assert len(caplog.records) == 1 and "collapsed at step 2: feature_std 0 (below 0.12)" in caplog.text


def test_rolls_back_to_what_was_healthy_last():
    hook = CollapseMonitor(every=2, patience=2, then="roll back", rate=0.1, rollbacks=7)
    assert isinstance(hook, RollsBack) and hook.reach == 4 and CollapseMonitor().reach == 0
    for index, found in enumerate([HEALTHY, HEALTHY, HEALTHY, HEALTHY, POINT, POINT]):
        hook(OBJECTIVE, found, Step(index, 100))
    with pytest.raises(RollBack, match="collapsed at step 7") as error:
        hook(OBJECTIVE, POINT, Step(6, 100))
    assert (error.value.healthy, error.value.rate, error.value.most, error.value.code) == (2, 0.1, 7, 4)
    again = pickle.loads(pickle.dumps(error.value))  # as processes tell each other
    assert str(again) == str(error.value) and again.healthy == 2


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_part_of_the_dimensions_is_seen_by_the_tail_alone(share):
    def make(n, d, seed):
        made = rows(n, d, seed)
        return torch.cat([made[:, : d // 2], share * made[:, d // 2 :]], dim=1)

    half = output(z=embeddings(64, (0, 1), d=8, make=make))
    assert collapsed(CollapseMonitor(patience=1, min_tail=0.01), [half]) == [share == 0]
    assert collapsed(CollapseMonitor(patience=1), [half]) == [False]


def test_rows_close_together_are_seen_by_the_uniformity():
    near = output(z=embeddings(64, (0, 1), d=8, make=lambda n, d, seed: rows(n, d, seed) + 3 * rows(1, d)))
    assert collapsed(CollapseMonitor(every=1, patience=1, max_uniformity=-1.0), [near, HEALTHY]) == [True, False]


def test_the_alignment_is_that_of_a_samples_views():
    measured = CollapseMonitor()(OBJECTIVE, HEALTHY, Step(0, 1000))
    first, second = HEALTHY.embeddings["z"].q.chunk(2)
    assert measured["alignment"].item() == pytest.approx((first - second).square().sum(1).mean().item(), rel=1e-5)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "settings",
    [
        {"every": 0},
        {"patience": 0},
        {"rate": 0.0},
        {"rate": 2.0},
        {"rollbacks": -1},
        {"then": "rollback"},
    ],
)
def test_what_it_cannot_do_is_refused(settings):
    with pytest.raises(ValueError, match=r"CollapseMonitor\."):
        CollapseMonitor(**settings)


def test_stops_when_asked_to():
    hook = CollapseMonitor(every=1, patience=2, then="stop")
    hook(OBJECTIVE, POINT, Step(0, 10))
    with pytest.raises(NumericError, match="collapsed at step 2") as error:
        hook(OBJECTIVE, POINT, Step(1, 10))
    assert error.value.code == 4


def test_a_last_step_that_comes_early_is_measured_and_not_counted():
    hook = CollapseMonitor(every=20, patience=2, then="stop")
    hook(OBJECTIVE, POINT, Step(40, 42))
    measured = hook(OBJECTIVE, POINT, Step(41, 42))
    assert measured["feature_std"] < 1e-3 and not measured["collapsed"] and hook.in_a_row == 1
    with pytest.raises(NumericError, match="collapsed at step 61"):
        hook(OBJECTIVE, POINT, Step(60, 61))


def test_the_count_survives_a_restart():
    hook, again = CollapseMonitor(every=1, patience=2), CollapseMonitor(every=1, patience=2)
    assert isinstance(hook, PostStepHook)
    assert collapsed(hook, [POINT]) == [False]
    again.load_state_dict(hook.state_dict())
    assert collapsed(again, [POINT]) == [True]


def test_what_was_only_warned_of_stops_a_run_that_is_resumed_to_stop():
    hook = CollapseMonitor(every=1, patience=2, then="stop")
    hook.load_state_dict({"in_a_row": 10})  # as written before there was a healthy step
    with pytest.raises(NumericError, match="collapsed at step 21"):
        hook(OBJECTIVE, POINT, Step(20, 100))


def test_an_embedding_is_left_as_it_is():
    q = HEALTHY.embeddings["z"].q
    before = q.clone()
    CollapseMonitor()(OBJECTIVE, HEALTHY, Step(0, 10))
    assert torch.equal(q, before)
