"""Two processes are one: losses and gradients of bare embeddings, on gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange

from cl.board import SLOT
from cl.distributed import gather, mean_over_ranks, rank, sum_over_ranks, world_size
from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.negatives.class_vectors import ClassVectors
from cl.negatives.in_batch import InBatch
from cl.negatives.neighbours import Neighbours
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.types import Embeddings
from cl.views.groups import stable_hash

WIDE = SLOT
"""Columns of rows too large for the memory that processes share."""
B, D = 6, 5
"""Samples over all ranks, and their width."""


def embeddings(which, share):
    """The rows of the samples in `share`, as leaves, and what they become."""
    generator = torch.Generator().manual_seed(0)
    z0, z1, k0, k1 = torch.randn(4, B, D, generator=generator, dtype=torch.float64)[:, share]
    group = torch.tensor([0, 1, 0, 2, 3, 3] if "supcon" in which else range(B))[share] + 100
    if "classes" in which:
        group = torch.tensor([stable_hash("label", str(label)) for label in (0, 1, 0, 2, 3, 3)])[share]
    sample = torch.arange(B)[share]
    ids = [torch.stack([group, sample, torch.full_like(sample, view)], dim=1) for view in (0, 1)]
    leaves = [z0.clone().requires_grad_(), z1.clone().requires_grad_()]
    q = F.normalize(torch.cat(leaves), dim=1)
    if "one view" in which:  # rows 1 and 3 have no positive, and are of the second rank
        return leaves[:1], Embeddings(q[: len(z0)], ids[0], (0,))
    if "momentum" not in which:
        return leaves, Embeddings(q, torch.cat(ids), (0, 1))
    return leaves, Embeddings(
        q, torch.cat(ids), (0, 1), F.normalize(torch.cat([k0, k1]), dim=1), torch.cat(ids), (0, 1)
    )


def provider(which):
    if "paired" in which:
        return PositivesOnly(everywhere="statistics" in which)
    if "classes" in which:
        torch.manual_seed(0)
        return ClassVectors(4, D).double()
    if "queue" not in which:
        return InBatch("sim" in which or "supcon" in which)
    if "neighbours" in which:
        queue = Neighbours(size=8, dim=D).double()
    else:
        queue = Queue(PositivesOnly() if "moco" in which else InBatch(True), size=8, dim=D).double()
    stale = torch.arange(7)
    keys = F.normalize(torch.randn(7, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    group = 200 + stale if "others" in which else 100 + stale % 5  # none of the batch's, or some
    queue.ring.enqueue(keys, torch.stack([group, stale + 2, stale * 0], dim=1))
    return queue


LOSSES = {
    "info_nce": lambda t: InfoNCE(t),
    "info_nce, counting": lambda t: InfoNCE(t, lonely="count"),
    "info_nce, smoothed": lambda t: InfoNCE(t, smoothing=0.2),
    "decoupled": lambda t: DecoupledInfoNCE(t),
    "hard": lambda t: HardNegativeInfoNCE(t),
    "sigmoid": lambda t: Sigmoid(t, bias=-1.0),
    "alignment": lambda t: Alignment(),
    "vicreg": lambda t: VICReg(),
    "barlow": lambda t: BarlowTwins(),
    "distillation": lambda t: SelfDistillation(D),
}
POOLS = ("simclr", "supcon", "supcon of one view", "clip", "momentum", "supcon momentum queue", "moco momentum queue")
CASES = (
    *((which, loss) for which in POOLS for loss in LOSSES if loss.startswith("info_nce") or loss == "decoupled"),
    *((which, loss) for which in ("simclr", "clip", "momentum") for loss in ("hard", "sigmoid")),
    ("supcon momentum queue", "sigmoid"),
    ("moco momentum queue", "sigmoid"),
    ("moco momentum queue of others", "hard"),
    ("neighbours momentum queue", "info_nce"),
    ("classes", "info_nce"),
    ("classes", "info_nce, smoothed"),
    ("paired momentum", "distillation"),
    ("paired", "alignment"),
    ("paired momentum", "alignment"),
    ("paired statistics", "vicreg"),
    ("paired statistics", "barlow"),
)


def in_order(rows):
    """Of all ranks, as the batch has them."""
    return rearrange(rows, "(w b) d -> (b w) d", w=world_size())


def measure(which, share, name):
    """Loss and gradients of this process's share, as data parallelism averages them."""
    leaves, found = embeddings(which, share)
    temperature = LearnedTemperature(0.3)
    term = Term(provider(which), LOSSES[name](temperature).double())
    loss = Objective._loss(term, found)
    loss.backward()
    own = [leaf.grad / world_size() for leaf in leaves]  # bare embeddings are not averaged, only divided
    trained = [parameter.grad.flatten() for parameter in term.parameters()]
    gradient = mean_over_ranks(torch.cat(trained)) if trained else torch.ones(1)
    keys, ids = found.everywhere
    last = found.key_views[-1]
    return {
        "loss": mean_over_ranks(loss.detach()).item(),
        "embeddings": torch.stack([in_order(gather(each)) for each in own]).tolist(),
        "parameters": gradient.tolist(),
        "samples": found.key_of_everywhere(last)[1][:, 1].tolist(),
        "keys": [len(keys) // len(found.key_views), len(ids) // len(found.key_views)],
    }


def results(share):
    return {f"{which}/{loss}": measure(which, share, loss) for which, loss in CASES}


def gather_gradient(rows):
    """Of sum over ranks of sum_i (rank + 1) i^2 x_i over everybody's rows."""
    x = rows.clone().requires_grad_()
    everywhere = gather(x)
    ((rank() + 1) * torch.arange(len(everywhere))[:, None] ** 2 * everywhere).sum().backward()
    return x.grad[:, 0].tolist()


def summed():
    """The sum of what is 1 on the first rank and 2 on the second, and the gradient of rank + 1 times it."""
    x = torch.full((2, 3), 1.0 + rank(), requires_grad=True)
    total = sum_over_ranks(x)
    ((rank() + 1) * total).sum().backward()
    return [total.unique().tolist(), x.grad.unique().tolist()]


def child(number, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=world)
    share = slice(number, B, world)
    assert (rank(), world_size()) == (number, world)
    rows = [torch.ones(3, 2), torch.ones(3, WIDE), torch.ones(WIDE, 3).T]
    found = {"measured": results(share), "gather": [gather_gradient(each) for each in rows], "sum": summed()}
    (Path(folder) / f"{number}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    ranks = [subprocess.Popen([*command, str(n), "2", str(folder)], env=environment) for n in (0, 1)]
    try:
        assert [each.wait(timeout=300) for each in ranks] == [0, 0]
    finally:
        for each in ranks:
            each.kill()
    return [json.loads((folder / f"{n}.json").read_text()) for n in (0, 1)]


@pytest.mark.parametrize(("which", "loss"), CASES)
def test_two_ranks_are_one(two_ranks, which, loss):
    expected = measure(which, slice(0, B), loss)
    for each in two_ranks:
        found = each["measured"][f"{which}/{loss}"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        for name in ("embeddings", "parameters"):
            wanted = torch.tensor(expected[name])
            torch.testing.assert_close(torch.tensor(found[name]), wanted, rtol=1e-5, atol=1e-7)
            assert wanted.abs().max() > 1e-3
        assert found["samples"] == list(range(B)) and found["keys"] == [B, B]


def test_gather_sums_gradients_over_ranks(two_ranks):
    # Ranks weigh row i by i^2 and 2 i^2; together 3 i^2, each rank for its own three rows.
    assert [each["gather"] for each in two_ranks] == [[[0, 3, 12]] * 3, [[27, 48, 75]] * 3]


def test_sums_over_ranks_have_the_gradients_of_all(two_ranks):
    assert [each["sum"] for each in two_ranks] == [[[3.0], [3.0]]] * 2


def test_one_process_gathers_nothing():
    x = torch.ones(2, 3)
    assert gather(x) is x and mean_over_ranks(x) is x and (rank(), world_size()) == (0, 1)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
