"""The laboratory's bookkeeping: what is run, when a row is valid, and how rows are kept."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from cl import results
from cl.laboratory import claims, collapse, command
from cl.laboratory.runs import Arm, Rows

pytestmark = pytest.mark.alone


@pytest.fixture
def rows(tmp_path):
    return Rows(tmp_path / "rows.jsonl")


def toy(arm, seed, threads):
    """A run without training."""
    row = {"recipe": arm.recipe, "bindings": arm.bindings, "seed": seed, "fingerprint": arm.fingerprint}
    return row | {"threads": threads}


def test_a_run_is_of_the_bindings_and_its_row_has_what_was_seen_in_its_folder(monkeypatch):
    def train(recipe, seed, out, params, threads):
        assert (recipe, seed, threads) == ("simclr", 3, 1)
        assert params == ["cl.train.steps = 298", "AdamW.lr = 0.5", "cl.train.log_every = 9"]
        out.mkdir()
        (out / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        (out / "summary.json").write_text(json.dumps({"knn": 0.123456, "collapsed": False}))
        (out / "environment.json").write_text(json.dumps({"bfloat16": True, "cores": 2}))

    monkeypatch.setattr(results, "train", train)
    arm = Arm("simclr", ("AdamW.lr = 0.5",), look=lambda folder: {"seen": len(list(folder.iterdir()))})
    row, lines = arm.run(3, 1, ["cl.train.log_every = 9"])
    assert (row["knn"], row["collapsed"], row["seen"], row["seed"], row["bfloat16"]) == (0.1235, False, 3, 3, True)
    assert row["fingerprint"] == arm.fingerprint and [line["step"] for line in lines] == [1, 2]


def test_other_bindings_are_another_fingerprint():
    arms = [Arm("simclr"), Arm("simclr", ("AdamW.lr = 0.5",)), Arm("simclr", steps=7), Arm("moco_v2")]
    arms.append(Arm("simclr", look=claims.false_negatives))
    assert len({arm.fingerprint for arm in arms}) == 5
    assert arms[0].valid({"fingerprint": arms[0].fingerprint}) and not arms[0].valid({"fingerprint": ""})
    assert Arm("simclr").bindings == ["cl.train.steps = 298"]


def test_a_row_takes_the_place_of_that_of_its_recipe_bindings_and_seed(rows):
    for seed, value in ((1, 0), (0, 1), (1, 2)):
        rows.keep({"recipe": "simclr", "bindings": ["x"], "seed": seed, "value": value})
    rows.keep({"recipe": "simclr", "bindings": ["y"], "seed": 1, "value": 3})
    assert [row["value"] for row in rows.all()] == [1, 2, 3]


def test_only_what_has_no_valid_row_is_run_and_each_once(rows, capsys):
    one, other = Arm("simclr"), Arm("moco_v2")
    rows.keep(toy(one, 0, 9))
    rows.keep(toy(other, 0, 9) | {"fingerprint": "of older code"})
    with ThreadPoolExecutor(2) as pool:
        rows.fill([(one, 0), (one, 1), (other, 0), (Arm("simclr"), 1)], toy, pool, threads=1)
    found = {(row["recipe"], row["seed"]): row["threads"] for row in rows.all()}
    assert found[("simclr", 0)] == 9 and found[("moco_v2", 0)] != 9 and ("simclr", 1) in found and len(found) == 3
    assert "2 runs to do" in capsys.readouterr().out
    assert [row["seed"] for row in rows.of(one)] == [0, 1]


def test_what_was_done_is_kept_when_a_run_fails(rows):
    def run(arm, seed, threads):
        if seed == 1:
            raise RuntimeError("out of memory")
        time.sleep(0.1 * seed)  # those after it are still to come when it fails
        return toy(arm, seed, threads)

    with pytest.raises(RuntimeError, match="out of memory"), ThreadPoolExecutor(1) as pool:
        rows.fill([(Arm("simclr"), seed) for seed in range(9)], run, pool, threads=1)
    kept = {row["seed"] for row in rows.all()}
    assert {0, 2} <= kept and len(kept) < 7  # 2 was under way


@pytest.mark.parametrize(
    ("words", "installed", "said"),
    [
        (["--only", "byol", "bhol"], True, "there is no bhol; there are byol"),
        (["claims", "--only", "byol"], True, "there is no byol; there are batch"),
        (["--jobs", "0"], True, "--jobs must be at least 1"),
        ([], False, "need matplotlib: pip install"),
    ],
)
def test_what_cannot_be_run_or_drawn_is_said_before_any_run(words, installed, said, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(Rows, "fill", lambda *rest: pytest.fail("it was run"))
    with pytest.raises(SystemExit) as error:
        command.main(words)
    assert error.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("laboratory", [collapse, claims])
def test_what_is_asked_for_is_run_at_every_seed_and_then_written(laboratory, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    asked, written = [], []
    monkeypatch.setattr(Rows, "fill", lambda rows, wanted, run, pool, threads: asked.append((list(wanted), run)))
    monkeypatch.setattr(laboratory, "write", lambda: written.append(True))
    name, mine = next(iter(laboratory.arms().items()))
    kind = laboratory.__name__.rpartition(".")[2]
    assert command.main([kind, "--only", name, "--seeds", "4", "5", "--jobs", "3"]) == 0
    assert asked == [([(arm, seed) for seed in (4, 5) for arm in mine], laboratory.run)] and written
    assert command.main([kind, "--draw"]) == 0 and len(asked) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked to end them, and Linux's can")
def test_who_runs_it_ends_with_the_laboratory():
    pytest.importorskip("matplotlib")
    command = [sys.executable, "tools/collapse_lab.py", "--only", "byol", "--seeds", "987", "--jobs", "1"]
    laboratory = psutil.Popen(command, cwd=results.ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (runs := [each for each in laboratory.children(recursive=True) if "tools/train.py" in _words(each)]):
            time.sleep(0.1)
            assert laboratory.poll() is None
        (worker,) = (each.parent() for each in runs)
        laboratory.kill()
        laboratory.wait()
        worker.wait(timeout=60)
    finally:
        for each in runs:
            each.kill()


def _words(process):
    return " ".join(process.cmdline())
