"""What each rank has of its own goes through a checkpoint: batch statistics, a hook's state, samples it left out."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from ranks import met, processes
from recipes import sharded, wired

from cl.checkpoint import Rank, read, write
from cl.distributed import on_first, rank
from cl.run_folder import RunFolder
from cl.views.groups import BySample
from cl.views.shards import Shards
from cl.views.stream import StreamViews
from cl.views.write_shards import write_shards

pytestmark = pytest.mark.alone

STAGES, WORLD, HALF, STEPS = (0, 1, 2, 3), 2, 3, 6
ROTTEN = {5, 11, 18}
UNLIKE = {
    "DeepSpeedEngine.sync_batch_norm": False,
    "DeepSpeedEngine.channels_last": False,
    "Siamese.joint": False,
    "Momentum.shuffle_keys": True,
    "cl.train.steps": STEPS,
    "cl.train.checkpoint_every": HALF,
}


class Own:
    """A hook that counts steps, each rank in its own way."""

    def __init__(self):
        self.count = 0

    def __call__(self, objective, output, step):
        self.count += 1 + 10 * rank()
        return {}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def training(stage, shards):
    """MoCo v2 on a stream in which some samples are rotten."""
    built = sharded("moco_v2", stage, UNLIKE)
    source = Shards(str(shards), label=None, caption=None, max_bad_fraction=0.5)
    built.views = StreamViews(source, built.views.batch, built.views.transforms, BySample())
    built.hooks = [*built.hooks, Own()]
    return built


def child(number, world, folder, shards):
    with met(number, world, folder):
        for stage in STAGES:
            whole, broken = (folder / f"{stage}-{what}" for what in ("whole", "broken"))
            built = training(stage, shards)
            torch.manual_seed(number)
            built.run(on_first(lambda out=whole: RunFolder(out, resume=False)))
            if number == 0:
                start = whole / "checkpoints" / f"step-{HALF:08d}"
                shutil.copytree(start, broken / "checkpoints" / start.name)
                (broken / "checkpoints" / "last").write_text(start.name)
            torch.manual_seed(99 + number)
            training(stage, shards).run(on_first(lambda out=broken: RunFolder(out, resume=True)), resume=True)


def test_what_is_each_ranks_own_is_named_where_another_number_of_processes_goes_on(tmp_path):
    built = wired("moco_v2", {"cl.train.steps": 2, "cl.train.checkpoint_every": 1, "Siamese.joint": False})
    built.hooks = [*built.hooks, Own()]
    built.run(RunFolder(tmp_path / "alone", resume=False))
    alone = read(tmp_path / "alone" / "checkpoints" / "step-00000001")
    first = alone.ranks[0]
    hooks = [*first.state["hooks"][:-1], {"count": 11}]
    same = Rank(first.state, {name: value.clone() for name, value in first.tensors.items()})
    other = Rank({**first.state, "hooks": hooks}, {**same.tensors, "encoder.x.running_mean": torch.ones(1)})
    for ranks, said in (
        ([first, same], ""),
        ([first, other], "rank 0's from here on: 1 buffers such as encoder.x.running_mean, the states of hooks\n"),
    ):
        out = tmp_path / str(bool(said))
        write(out / "checkpoints", replace(alone, ranks=ranks))
        again = wired("moco_v2", {"cl.train.steps": 2, "cl.train.checkpoint_every": 1, "Siamese.joint": False})
        again.hooks = [*again.hooks, Own()]
        again.run(RunFolder(out, resume=True), resume=True)
        told = (out / "train.log").read_text()
        assert "step 1 was reached by 2 processes and goes on with 1" in told
        assert ("from here on" in told) == bool(said) and said in told


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks left, in a folder."""
    folder = tmp_path_factory.mktemp("own")
    pictures = torch.randint(0, 256, (24, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    files = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures.numpy()]
    samples = [(f"{n:03d}", {"png": file[: 90 if n in ROTTEN else None]}) for n, file in enumerate(files)]
    write_shards(folder / "shards", "some rotten", samples, per_shard=8)
    processes(__file__, WORLD, folder, [str(folder / "shards")])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_each_ranks_own_goes_on_as_its_own(ranks, stage):
    whole, broken = (ranks / f"{stage}-{what}" / "checkpoints" / f"step-{STEPS:08d}" for what in ("whole", "broken"))
    one, other = (json.loads((path / "state.json").read_text()) for path in (whole, broken))
    assert one["ranks"] == other["ranks"]
    for name in ("model", "optimizer", "ranks"):
        assert one["sha256"][f"{name}.safetensors"] == other["sha256"][f"{name}.safetensors"], name

    first, second = one["ranks"]
    assert [each["hooks"][-1]["count"] for each in (first, second)] == [STEPS, 11 * STEPS]
    lost = [sum(each["views"]["skipped"].values()) for each in (first, second)]
    assert min(lost) > 0 and first["views"]["skipped"] != second["views"]["skipped"]
    own = read(whole).ranks[1].tensors
    assert any(name.endswith("running_mean") for name in own) and not torch.equal(
        own["|rng"], read(whole).ranks[0].tensors["|rng"]
    )


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
