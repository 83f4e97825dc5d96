"""tools/train.py as a person types it: bad input is one paragraph and an exit code, never a traceback."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cl import launch, rules

pytestmark = pytest.mark.usefixtures("digits_loaded_once")
ROOT = Path(__file__).parent.parent
TINY = [
    "MemoryViews.batch = 16",
    "cl.train.steps = 3",
    "cl.train.evaluate_every = 0",
    "cl.train.evaluations = []",
    "SmallResNet.widths = (8, 8, 8, 8)",
    "projector/MLP.widths = (8, 8, 8)",
]


def arguments(recipe: str, out: Path, *params: str) -> list[str]:
    words = ["--gin", str(ROOT / "gin" / f"{recipe}.gin"), "--out", str(out)]
    for param in params:
        words += ["--param", param]
    return words


@pytest.mark.parametrize(
    "param, said",
    [
        ("InfoNCE.temprature = 0.1", "temperature"),
        ("InfoNCE.temperature = 'warm'", "float"),
        ("InfoNCE.temperature = 0.0", "positive"),
        ("cl.train.steps = 2.5", "int"),
        ("cl.train.optimizer = @AdanW()", "AdamW"),
        ("SGD.momentum = 0.5", "SGD"),
        ("MemoryViews.batch = 1", "MemoryViews.batch"),
        ("cl.train.hooks = [@Enqueue()]", "@Queue()"),
        ("Term.loss = @Alignment()", "@PositivesOnly()"),
    ],
)
def test_a_wrong_configuration_exits_with_2_before_data_is_open(param, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cl.views.digits.Digits.load", lambda self: pytest.fail("data was opened"))
    assert launch.main(arguments("simclr", tmp_path / "run", param)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_missing_file_names_the_nearest(tmp_path, capsys):
    assert launch.main(["--gin", str(ROOT / "gin" / "simcrl.gin")]) == 2
    assert "simclr.gin" in capsys.readouterr().err


def test_an_output_folder_in_use_exits_with_5(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert launch.main(arguments("simclr", tmp_path, *TINY)) == 5
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_output_folder_below_a_file_exits_with_5(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert launch.main(arguments("simclr", tmp_path / "file" / "run", *TINY)) == 5
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_resume_says_which_run_the_folder_holds_once_nothing_refused_it(tmp_path, capsys):
    run, names = tmp_path / "run", ("config.gin", "operative.gin", "environment.json", "metrics.jsonl", "train.log")
    assert launch.main(arguments("simclr", run, *TINY)) == 0
    before = {name: (run / name).read_bytes() for name in names}
    for other in (
        ["projector/MLP.widths = (8, 12, 8)"],  # refused by its weights,
        ["cl.train.optimizer = @SGD()", "SGD.lr = 0.1"],  # by its optimizer,
        ["cl.train.hooks = []"],  # and by its hooks
    ):
        assert launch.main([*arguments("simclr", run, *TINY, *other), "--resume"]) == 5
        assert "Use the run's own config.gin" in capsys.readouterr().err
        assert {name: (run / name).read_bytes() for name in names} == before, other
    assert launch.main([*arguments("simclr", run, *TINY, "cl.train.steps = 4"), "--resume"]) == 0
    for name in ("config.gin", "operative.gin"):
        assert "train.steps = 4" in (run / name).read_text() and b"train.steps = 3" in before[name]


def test_a_refused_resume_leaves_nothing_but_its_exit_code(tmp_path):
    run = tmp_path / "run"
    assert launch.main(arguments("simclr", run, *TINY)) == 0

    def files():
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "exit.0.json"}

    before = files()
    for code, other in ((5, "cl.train.hooks = []"), (2, "cl.train.steps = 2.5"), (2, "InfoNCE.temperature = 0.0")):
        (run / "exit.0.json").write_text('{"code": 143}')  # an earlier start's
        assert launch.main([*arguments("simclr", run, *TINY, other), "--resume"]) == code
        assert json.loads((run / "exit.0.json").read_text()) == {"code": code} and files() == before, other


def with_config(checkpoint: Path, text: str | None) -> None:
    """A checkpoint as if it had been written with this configuration; None: as an early one, which has none."""
    about = json.loads((checkpoint / "state.json").read_text())
    del about["sha256"]["state.json"], about["sha256"]["config.gin"]
    (checkpoint / "config.gin").unlink()
    if text is not None:
        (checkpoint / "config.gin").write_text(text)
        about["sha256"]["config.gin"] = hashlib.sha256(text.encode()).hexdigest()
    (checkpoint / "state.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("dcl", r"objective\.terms\['info_nce'\]\.loss was @InfoNCE and is @DecoupledInfoNCE"),
        ("supcon", r"views\.group was @BySample and is @ByLabel"),
    ],
)
def test_a_run_does_not_go_on_as_another_variant_whose_weights_would_fit(other, what, tmp_path, capsys):
    run, copied = tmp_path / "run", tmp_path / "copied"
    assert launch.main(arguments("simclr", run, *TINY)) == 0
    assert launch.main([*arguments(other, run, *TINY), "--resume"]) == 5
    assert re.search(what, capsys.readouterr().err)

    shutil.copytree(run, tmp_path / "early")
    with_config(tmp_path / "early" / "checkpoints" / "step-00000003", None)  # then the run's counts
    assert launch.main([*arguments(other, tmp_path / "early", *TINY), "--resume"]) == 5
    assert re.search(what, capsys.readouterr().err)

    assert launch.main(arguments(other, copied, *TINY)) == 0
    shutil.rmtree(copied / "checkpoints")
    shutil.copytree(run / "checkpoints", copied / "checkpoints")
    assert launch.main(["--out", str(copied), "--resume"]) == 5
    assert re.search(what, capsys.readouterr().err)


def test_a_run_of_components_that_are_not_named_does_not_go_on(tmp_path, capsys):
    run = tmp_path / "run"
    assert launch.main(arguments("simclr", run, *TINY)) == 0
    saved = run / "checkpoints" / "step-00000003"
    with_config(saved, (saved / "config.gin").read_text().replace("@InfoNCE()", "@TheirOwnLoss()"))
    assert launch.main([*arguments("simclr", run, *TINY), "--resume"]) == 5
    said = capsys.readouterr().err
    assert "TheirOwnLoss" in said and "--import" in said


def test_a_default_that_is_written_down_makes_no_other_variant(tmp_path):
    run, more = tmp_path / "run", ["SmallResNet.norm = @BatchNorm", "cl.train.steps = 4"]
    assert launch.main(arguments("simclr", run, *TINY)) == 0
    assert launch.main([*arguments("simclr", run, *TINY, *more), "--resume"]) == 0


@pytest.mark.parametrize(("damage", "step"), [("step-00000003/config.gin", 2), ("last", 3)])
def test_what_is_damaged_is_passed_over_and_no_reason_to_call_it_another_variant(damage, step, tmp_path, capsys):
    run, settings = tmp_path / "run", [*TINY, "cl.train.checkpoint_every = 1"]
    assert launch.main(arguments("simclr", run, *settings)) == 0
    (run / "checkpoints" / damage).write_text("x" * 400)  # longer than a file may be called
    assert launch.main([*arguments("dcl", run, *settings), "--resume"]) == 5
    assert "another variant" in capsys.readouterr().err
    assert launch.main([*arguments("simclr", run, *settings), "--resume"]) == 0
    assert f"goes on after step {step} (checkpoints/step-{step:08d})" in capsys.readouterr().out


def test_what_is_no_run_gets_no_exit_code(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert launch.main(["--out", str(tmp_path), "--resume"]) == 2
    assert launch.main([*arguments("simclr", tmp_path, "cl.train.steps = 2.5"), "--resume"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_to_train_says_what_to_type(capsys):
    assert launch.main([]) == 2
    assert "--gin gin/simclr.gin" in capsys.readouterr().err


def test_the_script_trains_resumes_evaluates_and_embeds(tmp_path):
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def python(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "step" in python(ROOT / "tools" / "train.py", *arguments("simclr", run, *TINY))
    for name in ("config.gin", "operative.gin", "environment.json", "metrics.jsonl", "train.log", "summary.json"):
        assert (run / name).exists(), name
    assert json.loads((run / "summary.json").read_text())["steps"] == 3
    assert json.loads((run / "exit.0.json").read_text()) == {"code": 0}

    python(
        ROOT / "tools" / "train.py",
        "--out",
        run,
        "--resume",
        "--gin",
        run / "config.gin",
        "--param",
        "cl.train.steps = 5",
    )
    assert json.loads((run / "summary.json").read_text())["steps"] == 5
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 5

    python(ROOT / "tools" / "evaluate.py", run)
    python(ROOT / "tools" / "make_shards.py", "digits", tmp_path / "shards")
    said = python(ROOT / "tools" / "embed.py", run, tmp_path / "shards" / "test", "--out", tmp_path / "features.npz")
    assert "2400 pictures, 8 wide" in said


def test_a_signal_before_the_first_step_ends_the_run_before_it_has_a_folder(tmp_path, monkeypatch, capsys):
    check = rules.check
    monkeypatch.setattr(rules, "check", lambda training: [os.kill(os.getpid(), signal.SIGTERM), check(training)])
    assert launch.main(arguments("simclr", tmp_path / "run", *TINY)) == 143
    assert "before the first step" in capsys.readouterr().err and not (tmp_path / "run").exists()

    monkeypatch.setattr(rules, "check", check)
    assert launch.main(arguments("simclr", tmp_path / "run", *TINY)) == 0
    monkeypatch.setattr(rules, "check", lambda training: [os.kill(os.getpid(), signal.SIGTERM), check(training)])
    assert launch.main(["--out", str(tmp_path / "run"), "--resume"]) == 143
    assert "Continue with --resume" in capsys.readouterr().err


@pytest.fixture
def second(monkeypatch):
    """Makes this process the second of a run, as far as the environment says."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RANK", "1")
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("second")
def test_an_error_of_one_process_alone_is_said_by_it(tmp_path, monkeypatch, capsys):
    """As on a host where a file is missing: rank 0 has no error."""
    monkeypatch.setattr(launch, "FIRST", 0.01)
    assert launch.main(["--gin", str(tmp_path / "absent.gin")]) == 2
    assert "absent.gin" in capsys.readouterr().err


@pytest.mark.usefixtures("second")
def test_an_error_of_all_processes_is_left_to_the_first(tmp_path, monkeypatch, capsys):
    """Which ends at once, and then the launcher ends the others."""
    ended = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    told = launch.told_to_end
    monkeypatch.setattr(launch, "told_to_end", lambda seconds: ended.start() or told(seconds))
    monkeypatch.setattr(launch, "FIRST", 60.0)
    assert launch.main(["--gin", str(tmp_path / "absent.gin")]) == 2
    assert capsys.readouterr().err == ""
