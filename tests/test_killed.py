"""A training on a stream of shards that is killed, and goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent
STEPS = 30
SETTINGS = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}


def command(out, shards, workers, steps=STEPS, **more):
    values = {
        "SHARDS": f"'{shards}'",
        "StreamViews.workers": workers,
        "StreamViews.batch": 4,
        "FusedAugment.size": 32,
        "cl.train.steps": steps,
        "cl.train.precision": "'float32'",
        "cl.train.evaluate_every": 0,
        "cl.train.checkpoint_every": 1,
        "cl.train.log_every": 1,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    params = [word for name, value in values.items() for word in ("--param", f"{name} = {value}")]
    files = ["--gin", "gin/simclr.gin", "--gin", "gin/data/shards.gin"]
    return [sys.executable, "tools/train.py", *files, *params, "--out", str(out)]


def started(out, shards, **settings):
    """A run that has made some steps, and its workers."""
    process = subprocess.Popen(command(out, shards, workers=2, **settings), start_new_session=True, **SETTINGS)
    lines = out / "metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_text().count("\n") > 5):  # of as many steps
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be stopped"
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    return process, workers


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
def test_killed_at_any_step_the_run_is_the_unbroken_one(toy_shards, tmp_path):
    subprocess.run(command(tmp_path / "whole", toy_shards, workers=1), check=True, **SETTINGS)
    whole = losses(tmp_path / "whole")
    assert sorted(whole) == list(range(1, STEPS + 1))

    out = tmp_path / "broken"
    process, _ = started(out, toy_shards)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert max(losses(out), default=0) < STEPS
    last = (out / "checkpoints" / "last").read_text()
    assert last >= "step-00000005"
    subprocess.run([sys.executable, "tools/train.py", "--out", str(out), "--resume"], check=True, **SETTINGS)
    assert f"goes on after step {int(last[5:])} (checkpoints/{last})\n" in (out / "train.log").read_text()
    assert losses(out) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers look for their parent now and then")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_ends_the_run_after_a_checkpoint(number, toy_shards, tmp_path):
    out = tmp_path / "run"
    # A step of more batches than are made in advance.
    process, workers = started(out, toy_shards, steps=100000, LocalEngine__accumulate=16)
    os.killpg(process.pid, number)
    assert process.wait() == 143
    _gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert (out / "checkpoints" / "last").read_text() == f"step-{max(losses(out)):08d}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers look for their parent now and then")
def test_workers_die_with_a_run_that_is_killed(toy_shards, tmp_path):
    process, workers = started(tmp_path / "run", toy_shards, steps=100000)
    for worker in workers:  # as if it hung, and could not look for its parent itself
        worker.suspend()
    process.kill()
    process.wait()
    _gone, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert not alive


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere any process may end a worker")
def test_an_interpreter_that_still_holds_its_workers_ends(toy_shards):
    """Its last act is to send them SIGTERM and to wait for them."""
    program = f"""
import gc, sys
from cl.components import Place
from cl.views.groups import BySample
from cl.views.reference_augment import ReferenceAugment
from cl.views.shards import Shards
from cl.views.stream import StreamViews
gc.disable()
views = StreamViews(Shards({str(toy_shards)!r}), 4, [ReferenceAugment(16)], BySample(), workers=1).iterate(Place())
next(views)
sys.held = [views]
sys.held.append(sys.held)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, **SETTINGS)
