"""A leak of batch statistics is found where there is one, nowhere else, and looking for it changes nothing."""

import itertools
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tiny import Noise, Pictures, pictures, tower, trunk
from torch import nn

from cl import leak, wiring
from cl.components import Place
from cl.distributed import on_first
from cl.encoders.decorrelated import DecorrelatedBatchNorm
from cl.encoders.dual import dual
from cl.encoders.momentum import Momentum
from cl.encoders.norms import BatchNorm, GroupNorm, SplitBatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.sync_batch_norm import synchronise
from cl.encoders.tower import Tower
from cl.engines.deepspeed import DeepSpeedEngine
from cl.engines.local import LocalEngine
from cl.errors import NumericError
from cl.hooks.enqueue import Enqueue
from cl.hooks.update_momentum import UpdateMomentum
from cl.losses.alignment import Alignment
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD
from cl.run_folder import RunFolder
from cl.train import Training
from cl.types import Views
from cl.views.groups import BySample
from cl.views.memory import MemoryViews

ROOT = Path(__file__).parent.parent
B = 24
NORMS = {
    "none": None,
    "group": partial(GroupNorm, groups=2),
    "batch": BatchNorm,
    "split": partial(SplitBatchNorm, splits=4),
    "decorrelated": partial(DecorrelatedBatchNorm, group=4),
}
SAID = "share batch statistics"


def objective(norm, shuffle=False, provider=None, joint=True, seed=0, loss=InfoNCE, **settings):
    """MoCo in small, its queue empty, or another provider's."""
    torch.manual_seed(seed)
    encoder = Momentum(siamese(tower(norm=NORMS[norm], **settings), joint=joint), shuffle_keys=shuffle)
    term = Term(provider or Queue(PositivesOnly(), 2 * B, 4), loss(0.2))
    return Objective(encoder, {"moco": term}).train()


def found(built, views=None, run=None):
    return leak.leaks(built, pictures(B) if views is None else views, run or built)


@given(
    st.sampled_from(sorted(NORMS)), st.booleans(), st.booleans(), st.sampled_from((B, 25, 40)), st.integers(0, 10**6)
)
def test_a_key_is_given_away_by_batch_statistics_unless_they_are_split_and_shuffled(norm, shuffle, joint, b, seed):
    built = objective(norm, shuffle, joint=joint, seed=seed)
    expected = norm in ("batch", "decorrelated") or (norm == "split" and not shuffle)
    assert found(built, pictures(b, seed=seed)) == ["moco"] * expected


@pytest.mark.parametrize(
    ("norm", "shuffle", "expected"), [("batch", False, False), ("split", False, True), ("split", True, False)]
)
def test_keys_of_the_batch_give_nothing_away_where_all_bear_the_same_mark(norm, shuffle, expected):
    assert found(objective(norm, shuffle, InBatch(False))) == ["moco"] * expected


def test_the_sample_exchanged_is_nobodys_second_positive():
    assert found(objective("split", provider=InBatch(False), loss=HardNegativeInfoNCE)) == ["moco"]


def test_it_is_what_norms_do_that_counts():
    assert not found(objective("batch", frozen=True)), "in eval mode there are no batch statistics"
    shut = objective("batch")
    for module in shut.modules():
        if isinstance(module, BatchNorm):
            module.weight.data.zero_()
    assert not found(shut), "nothing of them passes on"


def test_random_numbers_are_not_taken_for_statistics():
    noisy = nn.Sequential(trunk(), nn.Dropout(0.5))
    torch.manual_seed(0)
    encoder = Momentum(siamese(Tower(noisy, {"z": nn.Linear(8, 4)})))
    term = Term(Queue(PositivesOnly(), 2 * B, 4), InfoNCE(0.2))
    assert not found(Objective(encoder, {"moco": term}).train())


def test_only_momentum_keys_that_are_to_be_found_among_others_are_looked_at():
    def refuse(views):
        raise AssertionError("nothing has to be run")

    plain = Objective(siamese(tower(norm=BatchNorm)), {"simclr": Term(InBatch(True), InfoNCE(0.2))})
    byol = Objective(Momentum(siamese(tower(norm=BatchNorm))), {"byol": Term(PositivesOnly(), Alignment())})
    for built in (plain, byol):
        assert not found(built, run=refuse)
    assert not found(objective("batch"), pictures(1), refuse)


@pytest.mark.parametrize(("shuffle", "expected"), [(False, True), (True, False)])
def test_statistics_of_pieces_are_the_pieces(shuffle, expected):
    """Each piece has statistics of its own, and keys are shuffled before they are cut."""
    built, engine = objective("batch", shuffle), LocalEngine(piece=6)
    engine.start(built, SGD(0.1), Constant(), torch.device("cpu"), torch.float32)
    assert found(built, run=engine) == ["moco"] * expected


class Words(nn.Module):
    """Tokens to features, with or without a norm."""

    def __init__(self, norm):
        super().__init__()
        self.token, self.norm = nn.Embedding(50, 8), nn.Identity() if norm is None else norm(8)

    def forward(self, tokens):
        return self.norm(self.token(tokens).mean(dim=1))


@pytest.mark.parametrize(("norm", "expected"), [("split", True), ("batch", False), ("none", False)])
def test_pairs_of_pictures_and_texts(norm, expected):
    torch.manual_seed(0)
    text = Tower(Words(NORMS[norm]), {"z": nn.Linear(8, 4)})
    encoder = Momentum(dual(tower(norm=NORMS[norm]), text))
    built = Objective(encoder, {"pairs": Term(InBatch(False), InfoNCE(0.2))}).train()
    one = pictures(B, views=1)
    views = Views((*one.crops, torch.randint(0, 50, (B, 5))), (0, 1), one.group, one.sample, one.keys)
    assert found(built, views) == ["pairs"] * expected


@given(st.sampled_from(sorted(NORMS)), st.booleans(), st.integers(0, 10**6))
def test_looking_changes_nothing(norm, shuffle, seed):
    built, views = objective(norm, shuffle, seed=seed), pictures(B, seed=seed)
    built(views)  # statistics have moved
    before = {name: value.clone() for name, value in built.state_dict().items()}
    crops, random = [crop.clone() for crop in views.crops], torch.get_rng_state()
    found(built, views)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert all(parameter.grad is None for parameter in built.parameters()) and built.training
    assert all(torch.equal(one, other) for one, other in zip(views.crops, crops, strict=True))


def test_an_error_is_left_to_the_step():
    def fail(views):
        assert not torch.is_grad_enabled()
        next(built.encoder.buffers()).add_(1)
        raise NumericError("of the batch")

    built = objective("batch")
    before = next(built.encoder.buffers()).clone()
    assert not found(built, run=fail) and torch.equal(next(built.encoder.buffers()), before)


def training(engine=None, norm="batch", steps=4, **settings):
    built = objective(norm)
    views = MemoryViews(Pictures(60), B, [Noise(), Noise()], BySample())
    hooks = [UpdateMomentum(0.9), Enqueue()]
    settings = {"precision": "float32", "log_every": 1, **settings}
    return Training(built, views, SGD(0.05), Constant(), engine or LocalEngine(), steps, hooks, **settings)


def unsaid(batches, *_):
    return batches


def state(built):
    return {name: value.detach().clone() for name, value in built.objective.state_dict().items()}


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_says_it_once_and_learns_the_same(tmp_path, monkeypatch):
    told = training(checkpoint_every=2)
    told.run(RunFolder(tmp_path / "told", resume=False))
    assert (tmp_path / "told" / "train.log").read_text().count(SAID) == 1
    said = next(line for line in (tmp_path / "told" / "train.log").read_text().splitlines() if SAID in line)
    assert said.startswith("term 'moco': a query and its own key") and "@SplitBatchNorm" in said
    again = training(steps=6)
    again.run(RunFolder(tmp_path / "told", resume=True), resume=True)
    assert (tmp_path / "told" / "train.log").read_text().count(SAID) == 1, "a run that goes on has said it"

    monkeypatch.setattr(leak, "told", unsaid)
    silent = training(steps=6)
    silent.run(RunFolder(tmp_path / "silent", resume=False))
    assert SAID not in (tmp_path / "silent" / "train.log").read_text()
    assert losses(tmp_path / "told") == losses(tmp_path / "silent")
    one, other = state(again), state(silent)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_batches_come_in_their_order():
    built, said = objective("batch"), []
    plain, looked_at = (MemoryViews(Pictures(60), B, [Noise(), Noise()], BySample()).iterate(Place()) for _ in range(2))
    looked_at = leak.told(looked_at, built, lambda views: built(views.made()), said.append)
    for views, wanted in itertools.islice(zip(looked_at, plain, strict=True), 5):
        assert views.keys == wanted.keys
    assert len(said) == 1


SMALL = ["cl.train.steps = 1", "cl.train.evaluations = []", "cl.train.precision = 'float32'"]
SPLIT = [f"{who} = @SplitBatchNorm" for who in ("SmallResNet.norm", "projector/MLP.norm", "projector/MLP.norm_last")]


@pytest.mark.parametrize(
    ("recipe", "params", "expected"),
    [
        ("moco_v2", [], True),
        ("moco_v2", ["Momentum.shuffle_keys = True", *SPLIT], False),
        pytest.param("moco_v2", ["Momentum.shuffle_keys = True"], True, marks=pytest.mark.slow),
        pytest.param("moco_v2", [each.replace("SplitBatch", "Group") for each in SPLIT], False, marks=pytest.mark.slow),
        pytest.param("moco_v3", ["MemoryViews.batch = 32"], False, marks=pytest.mark.slow),
        pytest.param("byol", [], False, marks=pytest.mark.slow),
    ],
)
def test_of_the_recipes_and_after_what_it_advises(recipe, params, expected, tmp_path):
    torch.manual_seed(0)
    built = wiring.read([ROOT / "gin" / f"{recipe}.gin"], [*SMALL, *params]).build()
    built.run(RunFolder(tmp_path / "run", resume=False))
    assert (SAID in (tmp_path / "run" / "train.log").read_text()) == expected


def child(number, folder, which):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    result = engines(folder) if which == "engines" else norms(number)
    (folder / f"{number}.json").write_text(json.dumps(result))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # ZeRO-3 may abort at the interpreter's exit


def refused(objective):
    def run(views):
        objective(views)
        raise NumericError("of this rank alone")

    return run


def norms(number):
    """Of the two ranks' own norms and of one over both, with keys in order and shuffled."""
    result = {}
    failing = objective("batch")
    result["an error of one rank"] = found(
        failing, pictures(B, seed=number), refused(failing) if number == 0 else failing
    )
    for synchronised in (False, True):
        for shuffle in (False, True):
            for provider in (None, InBatch(False)):
                built = objective("batch", shuffle, provider)
                if synchronised:
                    synchronise(built)
                views = pictures(B // 2, seed=number, first=number * B)
                key = f"{'one' if synchronised else 'own'} {'shuffled' if shuffle else 'straight'}"
                result[f"{key} {'batch' if provider else 'queue'}"] = found(built, views)
    return result


def engines(folder):
    """At every stage, whether a run that says it ends with the weights of one that does not; and how often it did."""
    result, told = {}, leak.told
    for stage in (0, 1, 2, 3):
        for piece in (None, 4):
            weights = []
            for how in (told, unsaid):
                leak.told = how
                run = training(DeepSpeedEngine(stage=stage, piece=piece))
                path = folder / f"{stage}-{piece}-{how.__name__}"
                run.run(on_first(partial(RunFolder, path, False)))
                weights.append({**run.engine.weights(), **dict(run.objective.named_buffers())})
            one, other = weights
            same = one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
            logs = [folder / f"{stage}-{piece}-{how}" / "train.log" for how in ("told", "unsaid")]
            said = [log.read_text().count(SAID) for log in logs]
            result[f"{stage} {piece}"] = [same, said, len(one)]
    return result


def two_ranks(folder, which):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, __file__, str(number), str(folder), which], env=environment)
        for number in (0, 1)
    ]
    try:
        assert [each.wait(timeout=200) for each in started] == [0, 0]
    finally:
        for each in started:
            each.kill()
    return [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]


def test_two_ranks_own_statistics_are_what_splits_are_and_shared_ones_leak(tmp_path):
    one, other = two_ranks(tmp_path, "norms")
    assert one == other
    assert {name for name, terms in one.items() if terms} == {
        "own straight queue",
        "own straight batch",
        "one straight queue",
        "one shuffled queue",
    }


@pytest.mark.slow
@pytest.mark.alone
def test_on_two_ranks_of_any_stage_a_run_says_it_once_and_learns_the_same(tmp_path):
    one, _ = two_ranks(tmp_path, "engines")
    assert len(one) == 8
    for where, (same, said, count) in one.items():
        assert same and said == [1, 0] and count > 10, where


if __name__ == "__main__":
    child(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
