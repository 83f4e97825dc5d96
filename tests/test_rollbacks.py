"""A run that collapsed goes on from a checkpoint of before it, at a lower rate, and says so."""

import json
import os
import shutil
import signal
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_command_line import TINY, arguments

from cl import launch, rollbacks
from cl.errors import CheckpointError, NumericError, RollBack
from cl.rollbacks import Rollback
from cl.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("digits_loaded_once")
RUN = [*TINY, "cl.train.steps = 10", "cl.train.checkpoint_every = 2", "cl.train.keep = 9", "cl.train.log_every = 1"]


def train(folder, *params, collapsing=True, resume=False):
    hooks = ["cl.train.hooks = [@Collapsing()]"] if collapsing else []
    words = arguments("simclr", folder, *RUN, *hooks, *params)
    return launch.main([*words, "--import", "collapsing", *(["--resume"] if resume else [])])


def checkpoint(folder, step):
    return (folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_goes_on_from_the_newest_healthy_checkpoint_at_a_lower_rate(tmp_path, capsys):
    run, halved = tmp_path / "run", tmp_path / "halved"
    assert train(run) == 0
    assert "rolled back: It all fell together. The rate is 0.5 of the first." in capsys.readouterr().out
    (only,) = rollbacks.read(RunFolder(run, resume=True))
    assert only == Rollback(4, 0.5, "It all fell together.")
    lines = metrics(run)
    assert [line["step"] for line in lines if "rate" in line] == list(range(1, 11))
    assert [line["rate"] for line in lines if "rate" in line] == [1.0] * 4 + [0.5] * 6
    assert json.loads((run / "summary.json").read_text())["rollbacks"] == 1

    # As one that never collapsed and was resumed there at half the rate.
    assert train(halved, "cl.train.steps = 10", collapsing=False) == 0
    assert checkpoint(halved, 4) == checkpoint(run, 4) and checkpoint(halved, 6) != checkpoint(run, 6)
    (halved / "checkpoints" / "last").write_text("step-00000004")
    shutil.copy(run / "rollbacks.json", halved)
    assert train(halved, collapsing=False, resume=True) == 0
    assert checkpoint(halved, 10) == checkpoint(run, 10)


def test_a_signal_while_it_is_built_anew_stops_it_after_the_next_step(tmp_path, monkeypatch):
    run, built = tmp_path / "run", launch.built

    def build(config):
        if (run / "rollbacks.json").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return built(config)

    monkeypatch.setattr(launch, "built", build)
    assert train(run) == 143
    assert (run / "checkpoints" / "last").read_text() == "step-00000005"
    monkeypatch.undo()
    assert train(run, resume=True) == 0
    assert [line["rate"] for line in metrics(run) if "rate" in line] == [1.0] * 4 + [0.5] * 6


def test_a_resumed_run_keeps_to_the_lower_rate(tmp_path):
    run = tmp_path / "run"
    assert train(run) == 0
    after = checkpoint(run, 10)
    (run / "checkpoints" / "last").write_text("step-00000006")
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    assert train(run, resume=True) == 0
    assert checkpoint(run, 10) == after


def test_one_that_collapsed_too_often_ends_with_4(tmp_path, capsys):
    assert train(tmp_path / "run", "Collapsing.fine = 0.1", "Collapsing.rollbacks = 2") == 4
    error = capsys.readouterr().err
    assert "It was rolled back 2 times before: this run ends" in error and "Traceback" not in error


def test_a_collapse_at_the_start_goes_back_there_and_one_without_a_checkpoint_ends_with_4(tmp_path):
    run = tmp_path / "run"
    assert train(run, "Collapsing.healthy = 0") == 0
    assert [line["rate"] for line in metrics(run) if "rate" in line] == [0.5] * 10
    for checkpoint in (run / "checkpoints").glob("step-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(NumericError, match="There is no whole checkpoint of step 0"):
        rollbacks.go_back(RunFolder(run, resume=True), RollBack("It fell.", 0, 0.5, 3))


def test_who_goes_back_to_the_start_has_its_checkpoint_all_the_time(tmp_path, monkeypatch):
    run, renamed, rename = tmp_path / "run", [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (renamed.append(Path(to).name), rename(path, to))[1])
    assert train(run, "Collapsing.healthy = 0") == 0
    assert renamed.count("step-00000000") == 1 and renamed.count("step-00000002") == 2


def test_what_is_undone_is_gone_with_its_checkpoints(tmp_path):
    run = tmp_path / "run"
    assert train(run, "cl.train.steps = 7", collapsing=False) == 0  # preempted, say, in the middle of the collapse
    state = run / "checkpoints" / "step-00000007"
    assert state.exists()
    assert train(run, "cl.train.hooks = [@CollapseMonitor()]", collapsing=False, resume=True) == 0
    rollbacks.go_back(RunFolder(run, resume=True), RollBack("It fell.", 5, 0.5, 3))
    assert sorted(path.name[-1] for path in (run / "checkpoints").glob("step-*")) == ["2", "4"]


def test_a_disk_that_refuses_leaves_what_was(tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(run, "cl.train.steps = 6", collapsing=False) == 0
    before = sorted(path.name for path in (run / "checkpoints").iterdir())

    def full(*_):
        raise CheckpointError("no space")

    monkeypatch.setattr(RunFolder, "write_json", full)
    with pytest.raises(CheckpointError, match="no space"):
        rollbacks.go_back(RunFolder(run, resume=True), RollBack("It fell.", 4, 0.5, 3))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


REAL = [
    *TINY,
    "cl.train.steps = 60",
    "CollapseMonitor.every = 2",
    "CollapseMonitor.patience = 3",
    "cl.train.checkpoint_every = 10",
]


@pytest.mark.parametrize(("then", "code"), [("warn", 0), ("stop", 4), ("roll back", 4)])
def test_what_is_done_about_a_collapse_that_is_one(then, code, tmp_path, capsys, caplog):
    """BYOL without predictor and norms: it cannot but collapse, at half the rate too."""
    run = tmp_path / "run"
    params = [*REAL, f"CollapseMonitor.then = '{then}'", "CollapseMonitor.rollbacks = 1"]
    assert launch.main(arguments("collapse/byol_no_norm_no_predictor", run, *params)) == code
    undone = rollbacks.read(RunFolder(run, resume=True))
    assert len(undone) == (then == "roll back")
    assert all("The embeddings collapsed at step" in each.why for each in undone)
    if then == "warn":
        assert json.loads((run / "summary.json").read_text())["collapsed"] and "The embeddings collapsed" in caplog.text
        assert (run / "train.log").read_text().count("The embeddings collapsed") == 1
    else:
        assert "NumericError: The embeddings collapsed at step" in capsys.readouterr().err


def test_a_signal_in_the_step_that_would_go_back_stops_the_run(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "Collapsing.stopped = True") == 143
    assert "Stopped by SIGTERM before it went back from a collapse" in capsys.readouterr().err
    assert train(run, resume=True) == 0
    assert len(rollbacks.read(RunFolder(run, resume=True))) == 1


def test_the_training_that_collapsed_is_not_kept(tmp_path, monkeypatch):
    made, alive = [], []

    def built(config, build=launch.built):
        alive.append([each() is not None for each in made])
        training = build(config)
        made.append(weakref.ref(training.objective))
        return training

    monkeypatch.setattr(launch, "built", built)
    assert train(tmp_path / "run") == 0
    assert alive == [[], [False]]


def test_rates_multiply(tmp_path):
    assert train(tmp_path / "run", "Collapsing.fine = 0.3") == 0
    assert [line["rate"] for line in metrics(tmp_path / "run") if "rate" in line][-1] == 0.25


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.5, 0.1, 1.0])), max_size=4), st.integers(0, 9))
def test_a_rate_is_that_of_what_came_before(each, index):
    expected = 1.0
    for step, rate in each:
        expected *= rate if step <= index else 1
    assert rollbacks.rate([Rollback(step, rate, "") for step, rate in each], index) == pytest.approx(expected)


@pytest.mark.parametrize("what", ['{"steps": 4}', '{"step": "4", "rate": 0.5, "why": ""}'])
def test_a_file_that_was_altered_is_said_so(what, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run) == 0
    (run / "rollbacks.json").write_text(f'{{"rollbacks": [{what}]}}')
    config = (run / "config.gin").read_bytes()
    assert train(run, "cl.train.steps = 11", resume=True) == 5
    assert (run / "config.gin").read_bytes() == config
    assert "rollbacks.json is not what was written" in capsys.readouterr().err
