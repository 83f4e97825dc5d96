"""A training on a stream of shards that is killed, and goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = 30


def command(out, shards, workers):
    values = {
        "SHARDS": f"'{shards}'",
        "StreamViews.workers": workers,
        "StreamViews.batch": 4,
        "FusedAugment.size": 32,
        "cl.train.steps": STEPS,
        "cl.train.precision": "'float32'",
        "cl.train.evaluate_every": 0,
        "cl.train.checkpoint_every": 1,
        "cl.train.log_every": 1,
    }
    params = [word for name, value in values.items() for word in ("--param", f"{name} = {value}")]
    files = ["--gin", "gin/simclr.gin", "--gin", "gin/data/shards.gin"]
    return [sys.executable, "tools/train.py", *files, *params, "--out", str(out)]


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
def test_killed_at_any_step_the_run_is_the_unbroken_one(toy_shards, tmp_path):
    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}
    subprocess.run(command(tmp_path / "whole", toy_shards, workers=1), check=True, **settings)
    whole = losses(tmp_path / "whole")
    assert sorted(whole) == list(range(1, STEPS + 1))

    out = tmp_path / "broken"
    process = subprocess.Popen(command(out, toy_shards, workers=2), start_new_session=True, **settings)
    lines = out / "metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_text().count("\n") > 5):  # of as many steps
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert max(losses(out), default=0) < STEPS
    subprocess.run([sys.executable, "tools/train.py", "--out", str(out), "--resume"], check=True, **settings)
    assert losses(out) == whole
