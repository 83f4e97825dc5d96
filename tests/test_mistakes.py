"""What a person may get wrong about a run: one paragraph and an exit code, and nothing of theirs is lost."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_command_line import ROOT, TINY, arguments

from cl import launch, wiring
from cl.errors import CheckpointError
from cl.report import Report
from cl.run_folder import RunFolder
from cl.train import Training

pytestmark = pytest.mark.usefixtures("digits_loaded_once")
RUN = [*TINY, "cl.train.steps = 4", "cl.train.checkpoint_every = 2", "cl.train.keep = 2"]


def train(folder, *params, resume=False, recipe="simclr", imports=()):
    words = [*arguments(recipe, folder, *RUN, *params), *(["--resume"] if resume else [])]
    return launch.main([*words, *(word for name in imports for word in ("--import", name))])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_folder_of_somebodys_own_is_not_resumed(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.log").write_text("a\nlast without end")
    assert train(tmp_path / "mine", resume=True) == 5
    assert "There is no run to resume at" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["a\nlast without end"]


def test_resuming_needs_a_folder(capsys):
    assert launch.main(["--gin", "gin/simclr.gin", "--resume"]) == 2
    assert "name it by --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "params, said",
    [
        (["AdamW.lr = -1.0"], "AdamW cannot be built: lr and weight_decay must be at least 0, got -1.0"),
        (["AdamW.rules = [@Rule()]", "Rule.pattern = '('"], "Rule.pattern '(' is no regular expression: missing )"),
        (["AdamW.rules = [@Rule()]", "Rule.pattern = 'nosuch'"], "Rule.pattern 'nosuch' decides over no"),
        (["LocalEngine.clip = 0.0"], "LocalEngine.clip is a norm above 0"),
        (["LocalEngine.clip = -1.0"], "LocalEngine.clip is a norm above 0"),
        (["cl.train.optimizer = @LARS()", "LARS.lr = 1.0", "LARS.weight_decay = 0.0"], "LARS cannot be built: LARS.w"),
        (["cl.train.seed = -1"], "cl.train.seed must lie in"),
        (["cl.train.seed = 1180591620717411303424"], "cl.train.seed` has 1180"),
        (["cl.train.evaluations = [@KNN(), @a/KNN()]"], "cl.train.evaluations has 'knn' twice"),
    ],
)
def test_what_is_refused_leaves_no_folder(params, said, tmp_path, capsys):
    assert train(tmp_path / "run", *params) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content, said",
    [("def f(:\n", r"mistake.py:1: SyntaxError"), ("x = 1\nnosuch\n", "mistake.py:2: NameError: name 'nosuch'")],
)
def test_a_module_that_cannot_be_imported(content, said, tmp_path, capsys, monkeypatch):
    (tmp_path / "mistake.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert train(tmp_path / "run", imports=["mistake"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "2", "RANK": "x"}, {"WORLD_SIZE": "2", "RANK": "2"}],
)
def test_an_environment_that_no_launcher_makes(said, tmp_path, capsys, monkeypatch):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "leave", lambda code: None)
    assert train(tmp_path / "run") == 2
    assert "No launcher says WORLD_SIZE" in capsys.readouterr().err


def test_runs_that_is_a_link_to_nowhere(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="runs cannot be written"):
        RunFolder.fresh("simclr", tmp_path / "runs")


def test_fewer_steps_than_were_made(run, capsys):
    before = (run / "summary.json").read_bytes(), (run / "config.gin").read_bytes()
    assert train(run, "cl.train.steps = 3", resume=True) == 2
    assert "is at step 4, and cl.train.steps is 3: bind it to 4 or more" in capsys.readouterr().err
    assert ((run / "summary.json").read_bytes(), (run / "config.gin").read_bytes()) == before


@pytest.mark.parametrize(
    "hooks, said",
    [
        ("[@UpdateMomentum(), @CollapseMonitor(), @Enqueue()]", "has another's state in CollapseMonitor's place"),
        ("[@UpdateMomentum(), @Enqueue()]", "has the state of 3 hooks, this configuration 2"),
    ],
)
def test_other_hooks_than_the_runs(hooks, said, tmp_path, capsys):
    moco = {"recipe": "moco_v2"}
    assert train(tmp_path / "run", "Queue.dim = 8", **moco) == 0
    assert train(tmp_path / "run", "Queue.dim = 8", f"cl.train.hooks = {hooks}", resume=True, **moco) == 5
    error = capsys.readouterr().err
    assert said in error and "Use the run's own config.gin" in error
    assert json.loads((tmp_path / "run" / "exit.0.json").read_text()) == {"code": 5}


def test_another_view_source_than_the_runs(run, capsys, monkeypatch):
    monkeypatch.setattr("cl.views.memory.MemoryViews.load_state_dict", lambda self, state: state["skipped"])
    assert train(run, "cl.train.steps = 5", resume=True) == 5
    assert "has another's state in MemoryViews's place (KeyError('skipped'))" in capsys.readouterr().err


def test_what_nobody_thought_of_is_told_by_its_exit_code(run, monkeypatch):
    monkeypatch.setattr(Training, "start", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        train(run, "cl.train.steps = 5", resume=True)
    assert json.loads((run / "exit.0.json").read_text()) == {"code": 1}


def test_an_old_checkpoint_that_was_moved_and_linked(run, tmp_path):
    old = run / "checkpoints" / "step-00000002"
    shutil.move(old, tmp_path / "far")
    old.symlink_to(tmp_path / "far")
    assert train(run, "cl.train.steps = 6", resume=True) == 0
    assert not old.is_symlink() and (tmp_path / "far" / "state.json").exists()


def test_lines_of_metrics_that_cannot_be_read_are_left_out_and_told(run, caplog):
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text("\0\0\0\n" + whole + '{"step": 1, "cut sho')
    with Report(run, 5, 4):
        assert metrics.read_text() == whole
    assert "1 lines cannot be read" in caplog.text


def test_metrics_are_rewritten_in_one_step(run, monkeypatch):
    before = (run / "metrics.jsonl").read_bytes()

    def killed(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr("cl.report.replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        Report(run, 4, 2)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_file_that_begins_with_a_byte_order_mark_is_gin(tmp_path):
    (tmp_path / "mine.gin").write_text(f"include '{ROOT / 'gin' / 'simclr.gin'}'\ncl.train.steps = 7\n", "utf-8-sig")
    assert wiring.read([tmp_path / "mine.gin"]).value("steps", 0) == 7


@pytest.fixture
def tool(monkeypatch):
    def call(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        return runpy.run_path(str(ROOT / "tools" / name), run_name="tool")["main"]()

    return call


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "nowhere/f.npz"], "an .npz file in a folder that exists"),
        (["--out", "features"], "an .npz file in a folder that exists"),
        (["--size", "0"], "--size is a number of pixels"),
        (["--view", "9"], "the run's encoder has the views 0, 1"),
    ],
)
def test_embedding_refuses_before_it_reads_pictures(words, said, run, tool, capsys):
    with pytest.raises(SystemExit):
        tool("embed.py", run, "nowhere", *words)
    assert said in capsys.readouterr().err


def test_features_that_cannot_be_written(run, toy_shards, tool, tmp_path, capsys):
    (tmp_path / "f.npz").mkdir()
    assert tool("embed.py", run, toy_shards, "--size", "32", "--out", tmp_path / "f.npz") == 5
    assert "f.npz cannot be written: Is a directory" in capsys.readouterr().err


def test_figures_are_said_though_they_cannot_be_written(run, tool, capsys, monkeypatch):
    monkeypatch.setattr(Training, "evaluate", lambda self, split: {"knn": 0.5})
    (run / "evaluation.test.json").mkdir()
    assert tool("evaluate.py", run) == 5
    said = capsys.readouterr()
    assert "0.5000" in said.out and "evaluation.test.json cannot be written: Is a directory" in said.err


def test_a_run_without_evaluations_says_so(run, tool, capsys):
    assert tool("evaluate.py", run) == 0
    assert "This run has no evaluations" in capsys.readouterr().out


def test_trunks_of_any_checkpoint_are_exported(run, tool, tmp_path):
    written = (run / "trunk.image.safetensors").read_bytes()
    (run / "trunk.image.safetensors").unlink()
    assert tool("export.py", run) == 0 and (run / "trunk.image.safetensors").read_bytes() == written
    with safe_open(run / "trunk.image.safetensors", "pt") as file:
        by = json.loads(file.metadata()["normalised_by"])
    image = wiring.read([run / "config.gin"], []).build().objective.encoder.towers["image"]
    assert by == {"mean": image.mean.flatten().tolist(), "std": image.std.flatten().tolist()}
    for step in (2, 4):
        assert tool("export.py", run, "--step", step, "--out", tmp_path / f"{step}") == 0
    early, late = (load_file(tmp_path / f"{step}" / "trunk.image.safetensors") for step in (2, 4))
    assert (tmp_path / "4" / "trunk.image.safetensors").read_bytes() == written
    saved = load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    trunk = {key.partition(".trunk.")[2]: value for key, value in saved.items() if ".trunk." in key}
    assert early.keys() == late.keys() == trunk.keys()
    assert all(torch.equal(early[key], value) for key, value in trunk.items())
    assert any(not torch.equal(early[key], late[key]) for key in early)


def test_an_earlier_trunk_does_not_take_the_last_ones_place(run, tool, capsys):
    with pytest.raises(SystemExit):
        tool("export.py", run, "--step", "2")
    assert "--step needs --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["export.py", "evaluate.py"])
def test_a_step_without_a_checkpoint_is_refused(name, run, tool, tmp_path, capsys):
    out = ["--out", tmp_path / "out"] if name == "export.py" else []
    assert tool(name, run, "--step", "3", *out) == 5
    assert "There is no checkpoint of step 3" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_earlier_checkpoints_are_evaluated_and_embedded(run, tool, toy_shards, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Training, "evaluate", lambda self, split: {"sum": weights(self)})
    found = {}
    for step in (2, 4):
        assert tool("evaluate.py", run, "--step", step) == 0
        figures.append(json.loads((run / f"evaluation.test.step-{step}.json").read_text())["sum"])
        words = ["--size", "32", "--label", "", "--step", step, "--out", tmp_path / f"{step}.npz"]
        assert tool("embed.py", run, toy_shards, *words) == 0
        found[step] = np.load(tmp_path / f"{step}.npz")["features"]
    assert figures[0] != figures[1] and not np.array_equal(found[2], found[4])
    assert not (run / "evaluation.test.json").exists()


def weights(training):
    return sum(float(parameter.detach().double().abs().sum()) for parameter in training.objective.parameters())


def test_trunks_that_cannot_be_written(run, tool, tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert tool("export.py", run, "--out", tmp_path / "taken") == 5
    assert "taken cannot be written: File exists" in capsys.readouterr().err


def test_a_pointer_that_is_no_text(run, tool, capsys):
    (run / "checkpoints" / "last").write_bytes(b"\xff\xfe")
    assert tool("evaluate.py", run) == 5
    assert "last is not a whole checkpoint" in capsys.readouterr().err


def test_a_log_that_cannot_be_opened_is_refused(run, capsys):
    (run / "train.log").unlink()
    (run / "train.log").mkdir()
    assert train(run, "cl.train.steps = 6", resume=True) == 5
    assert "train.log" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_what_the_log_could_not_take_is_said_where_all_processes_are(run):
    (run / "train.log").unlink()
    (run / "train.log").symlink_to("/dev/full")
    with Report(run, 5, 4) as report:
        report.say("nobody reads this")
        report.advance(5, {"loss": 1.0})
        for act in (lambda: report.record(5, {"loss": 1.0}), lambda: report.table("figures", {"loss": 1.0})):
            with pytest.raises(CheckpointError, match=r"train\.log"):
                act()
