"""The papers' recipes, in small, train on two ranks under ZeRO as one process with the whole batch.

As the recipes for the built-in data do (`test_deepspeed.py`), and by the same bound: steps are SGD's, the memory format
the plain one, and GELU stands in for ReLU. Where a recipe's batch normalisation is split, ranks split theirs further.
"""

import sys
from functools import cache
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
from parity import SMALL_STEPS, WORLD, Reordered, compare, train, train_sharded, worst
from ranks import met, processes
from recipes import BATCH, ROOT, params, smooth, toy
from torch import nn

from cl import rules, wiring
from cl.views.write_shards import write_shards

pytestmark = [pytest.mark.alone, pytest.mark.timeout(3600)]

RECIPES = [path.stem for path in sorted((ROOT / "gin" / "paper").glob("*.gin")) if "# Fragment" not in path.read_text()]
STAGES = (0, 1, 2, 3)
SPLITS = 2
"""Parts that a rank splits the batch of its batch normalisation into, where the recipe splits it."""
OWN = {"simclr_imagenet": {"SGD.lr": 5e-4}}
"""Its gradients are large: after steps of ten times the size a process does not agree with itself."""


def built(recipe, shards, values):
    path = ROOT / "gin" / "paper" / f"{recipe}.gin"
    views = "StreamViews" if "StreamViews" in wiring.read([path], toy(path, shards)).tree() else "MemoryViews"
    values = SMALL_STEPS | OWN.get(recipe, {}) | {f"{views}.batch": BATCH, "cl.train.precision": "'float32'"} | values
    values = {name: value for name, value in values.items() if splits(recipe) or not name.startswith("Split")}
    torch.manual_seed(0)
    training = wiring.read([path], toy(path, shards) + params(values)).build()
    rules.check(training)
    relu = any(isinstance(module, nn.ReLU) for module in training.objective.modules())
    return smooth(training) if relu else training


def splits(recipe):
    return "SplitBatchNorm" in (ROOT / "gin" / "paper" / f"{recipe}.gin").read_text()


def alone(recipe, shards, reordered):
    local = {"LocalEngine.channels_last": False, "SplitBatchNorm.splits": SPLITS * WORLD}
    training = built(recipe, shards, local)
    if reordered:
        training.views = Reordered(training.views, None)
    return train(training)


def on_ranks(recipe, shards, stage):
    engine = {"cl.train.engine": "@DeepSpeedEngine()", "DeepSpeedEngine.stage": stage}
    engine |= {"DeepSpeedEngine.channels_last": False, "SplitBatchNorm.splits": SPLITS}
    return train_sharded(built(recipe, shards, engine))


def child(number, world, folder, shards):
    with met(number, world, folder, "paper"):
        for recipe in RECIPES:
            for stage in STAGES:
                torch.save(on_ranks(recipe, shards, stage), folder / f"{recipe}-{stage}-{number}.pt")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Coarse pictures: networks make nearly the same of noise, and batch statistics of that are all rounding."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 3, 4, 4, generator=generator)
    images = 255 * F.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
    samples = [
        (
            f"{i:03d}",
            {
                "png": cv2.imencode(".png", image)[1].tobytes(),
                "cls": str(i % 4).encode(),
                "txt": f"picture {i}".encode(),
            },
        )
        for i, image in enumerate(images.byte().numpy())
    ]
    folder = tmp_path_factory.mktemp("coarse") / "shards"
    write_shards(folder, "coarse", samples, per_shard=8)
    return folder


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, shards):
    """What the pair of processes found, in a folder."""
    folder = tmp_path_factory.mktemp("paper")
    processes(__file__, WORLD, folder, [str(shards)])
    return folder


@pytest.fixture(scope="module")
def expected(shards):
    """What one process with the whole batch does, and how far it agrees with itself."""

    @cache
    def find(recipe):
        wanted, again = (alone(recipe, shards, reordered) for reordered in (splits(recipe), True))
        return wanted, {what: worst(again, wanted, what, variant(recipe))[1] for what in ("gradients", "weights")}

    return find


def variant(recipe):
    return "split" if splits(recipe) else "plain"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_are_one_process(ranks, expected, recipe, stage):
    found = [torch.load(ranks / f"{recipe}-{stage}-{n}.pt", weights_only=True) for n in range(WORLD)]
    compare(found, *expected(recipe), recipe, variant(recipe), stage)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
