"""Two ranks under ZeRO train as one process with the whole batch, and go on after a stop as if there had been none.

One pair of processes runs all recipes at all stages. For the parity rule steps are SGD's: AdamW would turn the rounding
of a zero gradient into a visible step. Networks and losses compute in float64, of parameters and to gradients of
float32: gradients are exchanged and steps taken as ever, and what is left of a difference is theirs. In float32 one
process does not agree with itself as well as the rule asks, when the same rows come in another order: 16 pictures alike
but for a digit leave batch normalisation little, and a unit on ReLU's kink falls to either side. The variant "float32"
computes in it all the same, with GELU in ReLU's place and the plain memory format, in which torch's batch normalisation
adds up in float64; it may be as far from one process as four times what that one is from itself.
"""

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import extras
import pytest
import torch
from parity import EXACT, SMALL_STEPS, WORLD, Reordered, compare, itself, train, train_sharded
from ranks import met, processes
from recipes import BATCH, ROOT, sharded, smooth, wired

from cl.checkpoint import read
from cl.distributed import on_first, rank
from cl.engines.deepspeed import DeepSpeedEngine
from cl.run_folder import RunFolder

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(3600),
]  # the first test waits for all pairs, a quarter of an hour here

RECIPES = [
    path.stem for path in sorted((ROOT / "gin").glob("*.gin")) if "\n#   python tools/train.py" in path.read_text()
]
ABLATIONS = [f"collapse/{path.stem}" for path in sorted((ROOT / "gin" / "collapse").glob("*.gin"))]
"""Of which the first steps are compared, and nothing is stopped."""
RUNNABLE = [recipe for recipe in RECIPES if not recipe.startswith("openmoji") or extras.draws_openmoji()]
STAGES = (0, 1, 2, 3)
AT_ONCE = 8
"""Recipes of one pair of processes: an engine that was used leaves some 10 MB behind."""
SPLIT = {
    "SmallResNet.norm": "@SplitBatchNorm",
    "projector/MLP.norm": "@SplitBatchNorm",
    "projector/MLP.norm_last": "@SplitBatchNorm",
    "SplitBatchNorm.splits": WORLD,
}
SHUFFLED = {"Momentum.shuffle_keys": True, "Siamese.joint": False}
PAIRED = {
    "Term.provider": "@PositivesOnly()",
    "PositivesOnly.everywhere": True,
    "Siamese.unit_norm": False,
    "SGD.lr": 5e-5,  # their gradients are large
}
VICREG = PAIRED | {"Term.loss": "@VICReg()"}
BARLOW = PAIRED | {"Term.loss": "@BarlowTwins()"}
RECOMPUTED = {"Tower.recompute": True}
BUCKETS = {"zero_optimization": {"reduce_bucket_size": 100_000, "overlap_comm": True}}
WHOLE = {"zero_optimization": {"stage3_param_persistence_threshold": 100_000}}
FORMAT = {"LocalEngine.channels_last": False}, {"DeepSpeedEngine.channels_last": False}
VARIANTS = {  # bindings of one process with all samples, and of ranks
    "plain": ({}, {}),
    "float32": FORMAT,
    "pieces": (
        {"LocalEngine.piece": BATCH // 2},
        {"DeepSpeedEngine.piece": BATCH // 2 // WORLD},
    ),
    "accumulated": ({"LocalEngine.accumulate": 2}, {"DeepSpeedEngine.accumulate": 2}),
    "accumulated pieces": (
        {"LocalEngine.accumulate": 2, "LocalEngine.piece": BATCH // 2},
        {"DeepSpeedEngine.accumulate": 2, "DeepSpeedEngine.piece": BATCH // 2 // WORLD},
    ),
    "clipped": ({"LocalEngine.clip": 0.1}, {"DeepSpeedEngine.clip": 0.1}),
    "vicreg": (VICREG, VICREG),
    "barlow": (BARLOW, BARLOW),
    "recomputed": ({}, RECOMPUTED),
    "recomputed pieces": (
        {"LocalEngine.piece": BATCH // 2},
        RECOMPUTED | {"DeepSpeedEngine.piece": BATCH // 2 // WORLD},
    ),
    "overlapped pieces": (
        {"LocalEngine.piece": BATCH // 2},
        {"DeepSpeedEngine.piece": BATCH // 2 // WORLD, "DeepSpeedEngine.settings": BUCKETS},
    ),
    "offloaded pieces": (
        {"LocalEngine.piece": BATCH // 2},
        {"DeepSpeedEngine.piece": BATCH // 2 // WORLD, "DeepSpeedEngine.offload": True},
    ),
    "settings": ({}, {"DeepSpeedEngine.settings": BUCKETS}),
    "kept whole": ({}, {"DeepSpeedEngine.settings": WHOLE}),
    "offloaded": ({}, {"DeepSpeedEngine.offload": True}),
    "shuffled": (SHUFFLED | SPLIT, SHUFFLED | {"DeepSpeedEngine.sync_batch_norm": False}),
}
RUNS = dict.fromkeys(RECIPES, ("plain", "float32", "accumulated pieces"))
RUNS["moco_v2"] += ("shuffled", "offloaded", "kept whole")
RUNS |= dict.fromkeys(("byol", "clip", "supcon_queue"), ("plain", "float32", "pieces", "accumulated", "clipped"))
RUNS["simclr"] += ("vicreg", "barlow", "settings", "offloaded")
RUNS["clip"] += ("recomputed", "overlapped pieces", "offloaded pieces")
RUNS["byol"] += ("recomputed", "recomputed pieces")
"""Recipes' variants; ablations run the first two."""
AT_FOUR = "moco_v2"
"""The recipe that four ranks run too."""


def runs(recipe, stage):
    """Which variants of a recipe run at a stage: not those that it has not, or that are the same at all."""
    at = {"offloaded": (1, 2, 3), "offloaded pieces": (1, 2, 3), "float32": (2,), "kept whole": (3,)}
    return [each for each in RUNS.get(recipe, ("plain", "float32")) if stage in at.get(each, STAGES)]


def alone(recipe, variant, reordered=False):
    training = wired(recipe, SMALL_STEPS | VARIANTS[variant][0])
    if reordered:
        training.views = Reordered(training.views, training.engine.piece)
    return train(smooth(training), exact=False) if variant == "float32" else train(training)


def on_ranks(recipe, variant, stage):
    training = sharded(recipe, stage, SMALL_STEPS | VARIANTS[variant][1])
    return train_sharded(smooth(training), exact=False) if variant == "float32" else train_sharded(training)


def run(training, folder, start=None):
    """The run in `folder`; after the checkpoint `start` of another, with other random numbers at hand."""
    if start is not None and rank() == 0:
        shutil.copytree(start, folder / "checkpoints" / start.name)
        (folder / "checkpoints" / "last").write_text(start.name)
    torch.manual_seed(100 * rank() + (start is not None))
    training.run(on_first(lambda: RunFolder(folder, resume=start is not None)), resume=start is not None)


def shared_out(training, start):
    """The optimizer's state of a checkpoint, after the ranks took their shares of it."""
    checkpoint = on_first(lambda: read(start))
    training.start()
    training.engine.load_state_dict(dict(checkpoint.optimizer))
    return training.engine.state_dict()


def child(number, world, folder, recipes):
    with met(number, world, folder, "-".join(recipes).replace("/", ".")):
        if world == WORLD:
            run_all(number, folder, recipes)
        else:
            for stage in STAGES:
                torch.save(on_ranks(AT_FOUR, "plain", stage), folder / f"four-{stage}-{number}.pt")


def left(recipe, variant, stage, number):
    """The file of what a rank found."""
    return f"{recipe.replace('/', '.')}-{variant}-{stage}-{number}.pt"


def run_all(number, folder, recipes):
    for recipe in recipes:
        for stage in STAGES:
            for variant in runs(recipe, stage):
                torch.save(on_ranks(recipe, variant, stage), folder / left(recipe, variant, stage, number))
            if recipe in ABLATIONS:
                continue
            whole, broken, longer = (folder / f"{recipe}-{stage}-{what}" for what in ("whole", "broken", "longer"))
            run(sharded(recipe, stage, FORMAT[1]), whole)
            run(sharded(recipe, stage, FORMAT[1]), broken, start=whole / "checkpoints" / "step-00000002")
            alone = folder / recipe / "checkpoints" / "step-00000002"
            run(sharded(recipe, stage, FORMAT[1]), longer, start=alone)
            if rank() == 0:  # of which the checksums stay: all recipes' arrays are 15 GB
                for arrays in (whole / "checkpoints" / "step-00000004", broken, longer):
                    for file in arrays.rglob("*.safetensors"):
                        file.unlink()
            torch.save(shared_out(sharded(recipe, stage, {}), alone), folder / f"{recipe}-state-{stage}-{number}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the pair of processes found, in a folder."""
    folder = tmp_path_factory.mktemp("ranks")
    for recipe in RUNNABLE:
        run(wired(recipe, FORMAT[0]), folder / recipe)
    every = [*RUNNABLE, *ABLATIONS]
    for start in range(0, len(every), AT_ONCE):
        processes(__file__, WORLD, folder, every[start : start + AT_ONCE])
    return folder


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """What four processes found."""
    folder = tmp_path_factory.mktemp("four")
    processes(__file__, 4, folder)
    return folder


@pytest.fixture(params=RECIPES)
def recipe(request):
    if request.param in RECIPES and request.param not in RUNNABLE:
        extras.openmoji()
    return request.param


@pytest.fixture(scope="module")
def expected():
    """What one process with the whole batch does, and how many bounds ranks may be away from it."""

    @cache
    def find(recipe, variant):
        # Batch statistics of half a batch are those of a rank's rows only where the rows are in the ranks' order.
        wanted = alone(recipe, variant, reordered=variant == "shuffled")
        return wanted, itself(wanted, alone(recipe, variant, reordered=True)) if variant == "float32" else EXACT

    return find


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_norm_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="clip is a norm above 0"):
        DeepSpeedEngine(clip=clip)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "variant", "stage"),
    [
        (recipe, variant, stage)
        for recipe in [*RECIPES, *ABLATIONS]
        for stage in STAGES
        for variant in runs(recipe, stage)
    ],
    indirect=["recipe"],
)
def test_two_ranks_are_one_process(ranks, expected, recipe, variant, stage):
    found = [torch.load(ranks / left(recipe, variant, stage, n), weights_only=True) for n in range(WORLD)]
    compare(found, *expected(recipe, variant), recipe, variant, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_four_ranks_are_one_process(four, expected, stage):
    found = [torch.load(four / f"four-{stage}-{n}.pt", weights_only=True) for n in range(4)]
    compare(found, *expected(AT_FOUR, "plain"), AT_FOUR, "plain", stage)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_goes_on_bit_for_bit(ranks, recipe, stage):
    whole, broken = (
        ranks / f"{recipe}-{stage}-{what}" / "checkpoints" / "step-00000004" for what in ("whole", "broken")
    )
    before, one, other = (
        json.loads((folder / "state.json").read_text()) for folder in (whole.with_name("step-00000002"), whole, broken)
    )
    for name in ("model", "optimizer", "ranks"):
        assert one["sha256"][f"{name}.safetensors"] == other["sha256"][f"{name}.safetensors"], name
    assert len(one["ranks"]) == WORLD and one["ranks"] == other["ranks"]
    assert before["sha256"]["model.safetensors"] != one["sha256"]["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_with_fewer_or_more_processes(ranks, tmp_path, recipe, stage):
    """From the same weights they agree to rounding. From the start AdamW's steps are as long for a zero gradient's
    rounding as for any other, and its losses part after the first."""
    wanted, whole = losses(ranks / recipe), losses(ranks / f"{recipe}-{stage}-whole")
    assert whole[1] == pytest.approx(wanted[1], rel=1e-5)
    assert whole == pytest.approx(wanted, rel=3e-2)
    longer = losses(ranks / f"{recipe}-{stage}-longer")
    assert longer == pytest.approx({n: wanted[n] for n in (3, 4)}, rel=1e-4)
    alone = read(ranks / recipe / "checkpoints" / "step-00000002").optimizer
    shared = torch.load(ranks / f"{recipe}-state-{stage}-0.pt", weights_only=True)
    assert shared.keys() == alone.keys() and all(torch.equal(shared[name], alone[name]) for name in alone)
    start = ranks / f"{recipe}-{stage}-whole" / "checkpoints" / "step-00000002"
    run(wired(recipe, FORMAT[0]), tmp_path / "fewer", start)
    assert losses(tmp_path / "fewer") == pytest.approx({n: whole[n] for n in (3, 4)}, rel=1e-4)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
