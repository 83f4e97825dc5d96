"""The papers' recipes, in small, train on two ranks under ZeRO as one process with the whole batch.

As the recipes for the built-in data do (`test_deepspeed.py`): in float64, and at one stage in float32 as far as one
process agrees with itself. Where a recipe's batch normalisation is split, one process splits it into the ranks' parts.
"""

import sys
from functools import cache
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
from parity import EXACT, SMALL_STEPS, WORLD, Reordered, compare, itself, train, train_sharded
from ranks import met, processes
from recipes import BATCH, ROOT, params, smooth, toy
from torch import nn

from cl import rules, wiring
from cl.views.write_shards import write_shards

pytestmark = [pytest.mark.alone, pytest.mark.timeout(3600)]

RECIPES = [path.stem for path in sorted((ROOT / "gin" / "paper").glob("*.gin")) if "# Fragment" not in path.read_text()]
RUNS = [(stage, True) for stage in (0, 1, 2, 3)] + [(2, False)]
"""Stages, and whether in float64."""
OWN = {"simclr_imagenet": {"SGD.lr": 5e-4}}
"""Of float32: its gradients are large, and after steps of ten times the size a process does not agree with itself."""
SPLITS = 2
"""Parts that a rank splits the batch of its batch normalisation into, where the recipe splits it."""


def built(recipe, shards, exact, values):
    path = ROOT / "gin" / "paper" / f"{recipe}.gin"
    views = "StreamViews" if "StreamViews" in wiring.read([path], toy(path, shards)).tree() else "MemoryViews"
    values = SMALL_STEPS | {f"{views}.batch": BATCH, "cl.train.precision": "'float32'"} | values
    values |= {} if exact else OWN.get(recipe, {})
    values = {name: value for name, value in values.items() if splits(recipe) or not name.startswith("Split")}
    torch.manual_seed(0)
    training = wiring.read([path], toy(path, shards) + params(values)).build()
    rules.check(training)
    relu = any(isinstance(module, nn.ReLU) for module in training.objective.modules())
    return smooth(training) if relu and not exact else training


def splits(recipe):
    return "SplitBatchNorm" in (ROOT / "gin" / "paper" / f"{recipe}.gin").read_text()


def alone(recipe, shards, exact, reordered):
    local = {"LocalEngine.channels_last": False, "SplitBatchNorm.splits": SPLITS * WORLD}
    training = built(recipe, shards, exact, local)
    if reordered:
        training.views = Reordered(training.views, None)
    return train(training, exact=exact)


def on_ranks(recipe, shards, stage, exact):
    engine = {"cl.train.engine": "@DeepSpeedEngine()", "DeepSpeedEngine.stage": stage}
    engine |= {"DeepSpeedEngine.channels_last": False, "SplitBatchNorm.splits": SPLITS}
    return train_sharded(built(recipe, shards, exact, engine), exact)


def child(number, world, folder, shards):
    with met(number, world, folder, "paper"):
        for recipe in RECIPES:
            for stage, exact in RUNS:
                torch.save(on_ranks(recipe, shards, stage, exact), folder / f"{recipe}-{stage}-{exact}-{number}.pt")


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
    """What one process with the whole batch does, and how many bounds ranks may be away from it."""

    @cache
    def find(recipe, exact):
        # Parts of a batch are the ranks' only where the rows are in the ranks' order.
        wanted = alone(recipe, shards, exact, reordered=splits(recipe))
        if exact:
            return wanted, EXACT
        return wanted, itself(wanted, alone(recipe, shards, exact, reordered=True), variant(recipe))

    return find


def variant(recipe):
    return "split" if splits(recipe) else "plain"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "exact"), RUNS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_are_one_process(ranks, expected, recipe, stage, exact):
    found = [torch.load(ranks / f"{recipe}-{stage}-{exact}-{n}.pt", weights_only=True) for n in range(WORLD)]
    compare(found, *expected(recipe, exact), recipe, variant(recipe), stage)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
