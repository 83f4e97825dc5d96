"""What the README shows to copy runs as it is shown."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from cl import launch

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SMALL = ["FusedAugment.size = 32", "cl.train.steps = 2"]
SMALL += [f"{split}/Folder.size = 32" for split in ("bank", "validation", "test")]
SMALL += ["StreamViews.batch = 4", "StreamViews.workers = 0", "cl.train.precision = 'float32'"]


def block(word):
    (only,) = (each for each in BLOCKS if word in each)
    return only


@pytest.fixture
def photos(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "validation", "test"):
        for number in range(8):
            path = tmp_path / "photos" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (40, 50, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path)
    shutil.copytree(ROOT / "gin", tmp_path / "gin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_on_ones_own_photos_leaves_a_trunk_that_timm_loads(photos):
    (photos / "photos.gin").write_text(block("# photos.gin"))
    params = [word for param in SMALL for word in ("--param", param)]
    assert launch.main(["--gin", "photos.gin", *params]) == 0
    program = block("timm.create_model")
    subprocess.run([sys.executable, "-c", program], check=True)
    trunk = timm.create_model("resnet18", num_classes=0)
    trunk.load_state_dict(load_file(photos / "runs" / "photos-1" / "trunk.image.safetensors"))
    assert trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_losses_in_a_loop_of_ones_own():
    program = block("from cl.losses.info_nce") + "assert loss(Contrast.pairs(z0, z1)) > 0\n"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_recipe_that_is_shown_whole_is_the_file():
    shown = block("MemoryViews.group = @ByLabel()")
    lines = (ROOT / "gin" / "supcon.gin").read_text().splitlines()
    assert shown.splitlines() == [line for line in lines if not line.startswith("#")]


def said(value):
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def test_the_race_of_losses_says_what_was_measured():
    """Times and memory of the README's table are those of the rows in docs."""
    measured = {}
    for row in json.loads((ROOT / "docs" / "loss.json").read_text()):
        if row["width"] == 128 and row["threads"] == 2:
            measured[row["case"], row["rows"], row["contender"]] = row
    table = (ROOT / "README.md").read_text().split("| loss | ours |")[1].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(lines) > 4
    for what, ours, plain, other in lines:
        case, _, numbers = what.lower().partition(",")
        number = int(re.search(r"\d[\d,]*\d", numbers)[0].replace(",", ""))
        name = re.match(r"([\w-]+) ", other)[1]
        for cell, contender in ((ours, "cl"), (plain, "PyTorch"), (other.removeprefix(f"{name} "), name)):
            row = measured[case, number, contender]
            if "failed" in row:
                assert cell == "more than 12 GB"
                continue
            memory = f"{row['extra_bytes'] / 1e6:,.0f} MB"
            if contender == "cl":
                seconds = row["seconds"]
                assert cell == (f"{seconds:.2f} s, {memory}" if seconds < 1 else f"{seconds:.0f} s, {memory}")
            else:
                times = " x (".join([said(row["times_ours"]), "-".join(map(said, row["interval_95"]))])
                assert cell == f"{times}), {memory}"
