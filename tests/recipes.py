"""Recipes in small: as one process and as several train them in tests."""

import re
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from cl import rules, wiring
from cl.encoders.small_resnet import small_resnet

ROOT = Path(__file__).parents[1]
BATCH = 16
COMMON = {
    "MemoryViews.batch": BATCH,
    "cl.train.precision": "'float32'",
    "cl.train.evaluations": "[]",
    "cl.train.steps": 4,
    "cl.train.log_every": 1,
    "cl.train.checkpoint_every": 2,
    "cl.train.keep": 9,
    "DecorrelatedBatchNorm.group": 4,
    "cl.train.seed": 5,
}


def params(values):
    return [f"{name} = {value}" for name, value in values.items()]


def toy(path: Path, shards: Path, trunk: Path | None = None) -> list[str]:
    """The bindings a recipe's header names for a toy-sized step."""
    found = re.findall(r"^# toy: (.+)$", path.read_text(), re.MULTILINE)
    return [line.replace("{shards}", str(shards)).replace("{trunk}", str(trunk)) for line in found]


OWN = {
    "vicreg": {"SGD.lr": 5e-5},
    "barlow_twins": {"SGD.lr": 5e-5},
    "collapse/vicreg_no_variance": {"SGD.lr": 5e-5},
}
"""What recipes have in place of the common values: their gradients are large."""


def wired(recipe, values):
    path = ROOT / "gin" / f"{recipe}.gin"
    own = OWN.get(recipe, {})
    values = COMMON | {name: value for name, value in own.items() if name in COMMON} | values
    values |= {name: value for name, value in own.items() if name in values and name not in COMMON}
    with tempfile.TemporaryDirectory() as folder:
        needed = {}
        if recipe == "lit":
            torch.manual_seed(1)
            save_file(small_resnet((32, 64, 128, 128), stride=2).state_dict(), Path(folder) / "trunk")
            needed["TRUNK"] = f"'{folder}/trunk'"
        whitened = "DecorrelatedBatchNorm" in wiring.read([path], params(needed)).tree()
        values = {name: value for name, value in values.items() if whitened or not name.startswith("Decorrelated")}
        torch.manual_seed(0)
        training = wiring.read([path], params(needed | values)).build()
    rules.check(training)
    training.views.data = Loaded(training.views.data)
    return training


class Loaded:
    """Training data, decoded once for all runs of a process."""

    samples: ClassVar[dict] = {}

    def __init__(self, data):
        self.data = data

    def load(self):
        kind = type(self.data)
        if kind not in self.samples:
            self.samples[kind] = self.data.load()
        return self.samples[kind]


def smooth(training):
    """The same with GELU in place of every ReLU."""
    replaced = 0
    for module in training.objective.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
                replaced += 1
    assert replaced
    return training


def sharded(recipe, stage, values):
    engine = {"cl.train.engine": "@DeepSpeedEngine()", "DeepSpeedEngine.stage": stage}
    return wired(recipe, values | engine)
