"""Runs of two real processes, from their launchers: started, stopped, killed and gone on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from cl import wiring
from cl.components import Place
from cl.run_folder import RunFolder

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node"],
    "deepspeed": [str(BIN / "deepspeed"), "--master_port", "29517", "--num_accelerators"],
}
"""To which the number of processes is added."""
SMALL = {
    "MemoryViews.batch": 16,
    "cl.train.precision": "'float32'",
    "cl.train.evaluations": "[]",
    "cl.train.log_every": 1,
    "cl.train.timeout": 60.0,
}


def words(stage=1, recipe="simclr", **values):
    """Of the command line: a recipe in small, and bindings with `__` for a dot."""
    files = [f"gin/{recipe}.gin", *([] if stage is None else [f"gin/scale/zero{stage}.gin"])]
    params = [f"{name.replace('__', '.')} = {value}" for name, value in (SMALL | values).items()]
    given = [word for file in files for word in ("--gin", file)]
    return given + [word for param in params for word in ("--param", param)]


def start(launcher, out, arguments, path=ROOT, world=2):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(path), str(ROOT), *sys.path]),
    }
    log = out.with_suffix(".log").open("w")
    command = [*LAUNCHERS[launcher], str(world), "tools/train.py", *arguments, "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def finished(launcher, out, arguments):
    """The codes of all ranks, once they ended; the launcher's is what docs/scale.md says."""
    process = start(launcher, out, arguments)
    try:
        own = process.wait(timeout=200)
    finally:
        kill(process)
    found = codes(out)
    assert found, said(out)
    if found.keys() == {0, 1} and found[0] == found[1]:
        assert own == (min(found[0], 1) if launcher == "torchrun" else found[0])
    return found


def kill(process):
    """The launcher and all it started: first the ranks, which torchrun gives sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(started, timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def steps(out):
    lines = out / "metrics.jsonl"
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return [line["step"] for line in found]


def ranks(out):
    """The processes of a run, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "tools/train.py" in words and str(out) in words and "RANK" in process.environ() and "-u" in words:
                found[int(process.environ()["RANK"])] = process
        except psutil.Error:
            continue
    return found


def until(condition, process, seconds=120):
    for _ in range(seconds * 20):
        if condition():
            return
        assert process.poll() is None, "the launcher ended"
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def codes(out):
    return {int(path.suffixes[0][1:]): json.loads(path.read_text())["code"] for path in out.glob("exit.*.json")}


def running(launcher, out, stage=1, world=2, **values):
    process = start(launcher, out, words(stage, cl__train__steps=100000, **values), world=world)
    try:
        until(lambda: len(steps(out)) >= 3, process)
        found = ranks(out)
        assert sorted(found) == list(range(world))
    except BaseException:
        kill(process)
        raise
    return process, found


def said(out):
    return out.with_suffix(".log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "whom", "number", "code"),
    [
        ("torchrun", "rank", signal.SIGTERM, 1),
        ("torchrun", "launcher", signal.SIGTERM, 1),
        ("torchrun", "launcher", signal.SIGINT, 1),
        ("torchrun", "first rank", signal.SIGINT, 1),
        ("deepspeed", "first rank", signal.SIGTERM, 143),
        ("deepspeed", "rank", signal.SIGINT, 143),
        ("deepspeed", "launcher", signal.SIGTERM, -signal.SIGTERM),
        ("deepspeed", "launcher", signal.SIGINT, -signal.SIGINT),
        ("deepspeed", "parent", signal.SIGTERM, 1),
        # What is killed can tell nobody: the ranks see that it is gone.
        ("torchrun", "launcher", signal.SIGKILL, -signal.SIGKILL),
        ("deepspeed", "launcher", signal.SIGKILL, -signal.SIGKILL),
        ("deepspeed", "parent", signal.SIGKILL, 0),  # as which DeepSpeed counts it
    ],
)
def test_a_stopped_run_leaves_a_checkpoint_and_no_process(launcher, whom, number, code, tmp_path):
    out = tmp_path / "run"
    process, found = running(launcher, out)
    parent = found[1].ppid()  # of DeepSpeed's launchers the one of this host
    whose = {"first rank": found[0].pid, "rank": found[1].pid, "parent": parent, "launcher": process.pid}
    os.kill(whose[whom], number)
    assert process.wait(timeout=60) == code
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    assert not alive and codes(out) == {0: 143, 1: 143}
    last = (out / "checkpoints" / "last").read_text()
    assert re.search(r"Stopped by SIG(TERM|INT) after step", said(out)) and last == f"step-{steps(out)[-1]:08d}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "lost", "how", "own"),
    [
        ("torchrun", 0, signal.SIGKILL, {1}),
        ("torchrun", 1, signal.SIGKILL, {1}),
        ("deepspeed", 0, signal.SIGKILL, {247, 6}),  # it looks once a second, and by then both may have ended
        ("deepspeed", 1, signal.SIGKILL, {247, 6}),
        ("torchrun", 1, signal.SIGSTOP, {1}),  # it neither ends nor answers; its launcher kills it in the end
    ],
)
def test_a_lost_rank_is_named_and_ends_the_others(launcher, lost, how, own, tmp_path):
    out = tmp_path / "run"
    process, found = running(launcher, out, cl__train__timeout=10.0)
    os.kill(found[lost].pid, how)
    assert process.wait(timeout=90) in own
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    assert not alive and codes(out) == {1 - lost: 6}
    assert f"PeerError: Rank {1 - lost}: rank {lost} was lost" in said(out)
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
def test_all_that_are_left_name_the_lost_rank(tmp_path):
    out = tmp_path / "run"
    process, found = running("torchrun", out, stage=3, world=3, MemoryViews__batch=18, cl__train__timeout=10.0)
    os.kill(found[1].pid, signal.SIGKILL)
    assert process.wait(timeout=90) == 1
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    assert not alive and codes(out) == {0: 6, 2: 6}
    assert {f"PeerError: Rank {n}: rank 1 was lost" in said(out) for n in (0, 2)} == {True}


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "launcher"), [(0, "torchrun"), (1, "deepspeed"), (2, "torchrun"), (3, "deepspeed")])
def test_killed_at_any_moment_a_run_goes_on_as_the_unbroken_one(stage, launcher, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = words(stage, cl__train__steps=30, cl__train__checkpoint_every=1)
    assert finished(launcher, whole, settings) == {0: 0, 1: 0}
    process = start(launcher, broken, settings)
    try:
        until(lambda: len(steps(broken)) > 4, process)
    finally:
        kill(process)
    assert not codes(broken) and max(losses(broken)) < 30
    last = (broken / "checkpoints" / "last").read_text()
    assert last >= "step-00000004"
    assert finished(launcher, broken, ["--resume"]) == {0: 0, 1: 0}
    assert f"goes on after step {int(last[5:])} (checkpoints/{last})\n" in said(broken)
    assert losses(broken) == losses(whole) and len(losses(whole)) == 30


REFUSED = {
    "one engine a process": (
        words(stage=None, cl__train__steps=2),
        r"2 processes were started, and LocalEngine is for one.*zero1\.gin",
    ),
    "too few": (
        words(cl__train__steps=2, cl__train__processes=3),
        r"cl\.train\.processes is 3, and the launcher started 2",
    ),
    "a batch that does not divide": (words(cl__train__steps=2, MemoryViews__batch=17), r"not a multiple of 2"),
    "layers in flat shares": (
        [*words(cl__train__steps=2), "--param", "cl.train.optimizer = @LARS()", "--param", "LARS.lr = 1.0"],
        r"LARS scales every layer's step",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_opened(why, tmp_path):
    arguments, message = REFUSED[why]
    process = start("torchrun", tmp_path / "run", arguments)
    assert process.wait(timeout=120) == 1  # torchrun's own
    assert len(re.findall(f"ConfigError: .*{message}", said(tmp_path / "run"))) == 1, "one process says it"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_is_refused_is_said_though_rank_0_is_late(tmp_path):
    late = tmp_path / "sitecustomize.py"
    late.write_text("import os, time\nif os.environ.get('RANK') == '0': time.sleep(3)\n")
    arguments, message = REFUSED["too few"]
    process = start("torchrun", tmp_path / "run", arguments, path=tmp_path)
    assert process.wait(timeout=120) == 1
    assert len(re.findall(f"ConfigError: .*{message}", said(tmp_path / "run"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_keeps_the_batch(launcher, tmp_path):
    out = tmp_path / "run"
    poison = ["--import", "poison", "--param", "MemoryViews.transforms = [@BatchAugment(), @Poisoned()]"]
    poison += ["--param", "Poisoned.size = 32"]
    arguments = [*words(cl__train__steps=9, cl__train__checkpoint_every=1), *poison]
    assert finished(launcher, out, arguments) == {0: 4, 1: 4}
    batch = json.loads((out / "bad_batch.json").read_text())
    params = [f"{name} = {value}" for name, value in SMALL.items()]
    alone = wiring.read([ROOT / "gin" / "simclr.gin"], params).build()
    third = next(islice(alone.views.iterate(Place()), 2, None))
    assert batch["step"] == 3 and sorted(batch["keys"]) == sorted(third.keys) and len(third.keys) == 16
    assert (out / "checkpoints" / "last").read_text() == "step-00000002" and "NumericError: Step 3" in said(out)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_batch_that_overflows_on_one_rank_is_left_out_by_all(stage, tmp_path):
    """No hook runs for it: nothing of it is in the queue."""
    out = tmp_path / "run"
    settings = {"Term__loss": "@Overflowing()", "Overflowing__temperature": 0.25, "cl__train__overflows": 1}
    arguments = [*words(stage, "moco_v2", cl__train__steps=4, **settings), "--import", "poison"]
    assert finished("torchrun", out, arguments) == {0: 0, 1: 0}
    assert json.loads((out / "summary.json").read_text())["overflows"] == 1 and sorted(losses(out)) == [1, 2, 3, 4]
    # The look for leaks before the first step is one of the three.
    assert said(out).count("step 2 was tried anew, as gradients were not finite; times: 1") == 1
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    fills = [value for line in lines for name, value in line.items() if name.startswith("queue_fill")]
    assert fills == [32, 64, 96, 128]  # keys of both views


@pytest.mark.slow
def test_more_overflows_in_a_row_than_allowed_end_all(tmp_path):
    out = tmp_path / "run"
    settings = {"Term__loss": "@Overflowing()", "Overflowing__temperature": 0.25, "Overflowing__times": 3}
    arguments = [*words(3, cl__train__steps=9, cl__train__overflows=2, **settings), "--import", "poison"]
    assert finished("torchrun", out, arguments) == {0: 4, 1: 4}
    assert json.loads((out / "bad_batch.json").read_text())["step"] == 3 and max(losses(out)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_all_processes_go_back_from_a_collapse(stage, tmp_path):
    out, again = tmp_path / "run", tmp_path / "again"
    small = {"cl__train__steps": 10, "cl__train__checkpoint_every": 2, "cl__train__keep": 9}
    arguments = [*words(stage, **small), "--import", "collapsing", "--param", "cl.train.hooks = [@Collapsing()]"]
    assert finished("torchrun", out, arguments) == {0: 0, 1: 0}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["rate"] for line in lines if "rate" in line] == [1.0] * 4 + [0.5] * 6
    assert said(out).count("rolled back: It all fell together.") == 1

    # As new processes do that go on from there.
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoints" / "step-00000010")
    (again / "checkpoints" / "last").write_text("step-00000004")
    assert finished("torchrun", again, [*arguments, "--resume"]) == {0: 0, 1: 0}
    end = Path("checkpoints") / "step-00000010" / "model.safetensors"
    assert (out / end).read_bytes() == (again / end).read_bytes()


@pytest.mark.slow
def test_shared_out_evaluations_are_those_of_one_process(tmp_path):
    small = {"cl__train__steps": 1, "cl__train__evaluations": "[@KNN()]", "SGD__lr": 1e-12, "SGD__weight_decay": 0.0}
    arguments = [*words(3, **small), "--param", "cl.train.optimizer = @SGD()"]  # the weights stay, statistics move
    assert finished("torchrun", tmp_path / "two", arguments) == {0: 0, 1: 0}
    params = [f"{name.replace('__', '.')} = {value}" for name, value in (SMALL | small).items()]
    torch.manual_seed(0)
    one = wiring.read([ROOT / "gin" / "simclr.gin"], [*params, "cl.train.optimizer = @SGD()"]).build()
    alone = one.run(RunFolder(tmp_path / "one", resume=False))
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    for name in ("knn_raw_pixels", "knn_random_init", "knn"):
        assert two[name] == pytest.approx(alone[name], abs=2e-3), name
    trunks = [load_file(tmp_path / each / "trunk.image.safetensors") for each in ("one", "two")]
    assert trunks[0].keys() == trunks[1].keys()
    for name, value in trunks[0].items():
        torch.testing.assert_close(trunks[1][name], value, rtol=1e-4, atol=1e-5)
