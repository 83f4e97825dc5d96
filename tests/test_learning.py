"""Every built-in recipe, trained for a short while as a user would, is better on test data than its random start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import extras
import pytest

ROOT = Path(__file__).parent.parent
STEPS = {"simclr": 200, "supcon": 250, "moco_v2": 250, "supcon_queue": 800, "byol": 150, "clip": 400}
STEPS |= {"openmoji_moco_v2": 300, "openmoji_clip": 200, "dino": 200}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", STEPS)
def test_a_short_run_beats_the_random_start(recipe: str, tmp_path: Path):
    command = [sys.executable, ROOT / "tools" / "train.py", "--gin", ROOT / "gin" / f"{recipe}.gin"]
    if recipe.startswith("openmoji"):
        extras.openmoji()
    params = [f"cl.train.steps = {STEPS[recipe]}", "cl.train.evaluate_every = 0"]
    for param in params:
        command += ["--param", param]
    subprocess.run([*command, "--out", tmp_path / "run"], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["knn"] > summary["knn_random_init"] + 0.03
    assert not summary["collapsed"]
    assert summary["knn_raw_pixels"] <= 0.60
    assert summary["knn_random_init"] <= 0.35
