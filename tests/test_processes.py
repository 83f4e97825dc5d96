"""Runs of two real processes, from their launchers: started, stopped, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"],
    "deepspeed": [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", "29517"],
}
SMALL = {
    "MemoryViews.batch": 16,
    "cl.train.precision": "'float32'",
    "cl.train.evaluations": "[]",
    "cl.train.log_every": 1,
    "cl.train.timeout": 60.0,
}


def start(launcher, out, stage=1, files=(), resume=False, **values):
    params = [f"{name.replace('__', '.')} = {value}" for name, value in (SMALL | values).items()]
    files = ["gin/simclr.gin", f"gin/scale/zero{stage}.gin", *files]
    words = [word for file in files for word in ("--gin", file)]
    words += [word for param in params for word in ("--param", param)]
    words = words if not resume else ["--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    log = out.with_suffix(".log").open("w")
    command = [*LAUNCHERS[launcher], "tools/train.py", *words, "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


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


def running(launcher, out, **values):
    process = start(launcher, out, cl__train__steps=100000, **values)
    try:
        until(lambda: len(steps(out)) >= 3, process)
        found = ranks(out)
        assert sorted(found) == [0, 1]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process, found


def said(out):
    return out.with_suffix(".log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "whom"),
    [("torchrun", "rank"), ("torchrun", "launcher"), ("deepspeed", "rank"), ("deepspeed", "launcher")],
)
def test_a_stopped_run_leaves_a_checkpoint_and_no_process(launcher, whom, tmp_path):
    out = tmp_path / "run"
    process, found = running(launcher, out)
    os.kill(found[1].pid if whom == "rank" else process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    assert not alive and codes(out) == {0: 143, 1: 143}
    last = (out / "checkpoints" / "last").read_text()
    assert "Stopped by SIGTERM after step" in said(out) and last == f"step-{steps(out)[-1]:08d}"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_is_named_and_ends_the_others(launcher, lost, tmp_path):
    out = tmp_path / "run"
    process, found = running(launcher, out)
    os.kill(found[lost].pid, signal.SIGKILL)
    process.wait(timeout=90)
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    assert not alive and codes(out) == {1 - lost: 6}
    assert f"PeerError: Rank {1 - lost}: rank {lost} was lost" in said(out)
    assert not (out / "checkpoints").exists()
