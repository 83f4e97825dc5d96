"""Whether batch statistics tell a query which key is its own (MoCo, He et al. 2020, arXiv:1911.05722, section 3.3).

A normalisation over samples marks a row with the company it was in. Where a query and its own key were in the same
company and other keys that it meets were not, the mark gives the key away, and less has to be read from the pictures.
It is found by what networks do, whatever they are made of: one sample is exchanged, and its company is whose rows move.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cl.distributed import gather, largest_over_ranks, rank, world_size
from cl.encoders.recomputed import buffers_kept
from cl.errors import ClError
from cl.objective import Objective
from cl.types import Embeddings, StepOutput, Views

Run = Callable[[Views], StepOutput]

MOVED = 1e-5
"""Of its length, how far a row moves at least that depends on the sample exchanged. Rounding moves it less."""


def told(batches: Iterator[Views], objective: Objective, run: Run, say: Callable[[str], None]) -> Iterator[Views]:
    """The batches. What `leaks` finds in the first is said before it is handed on: a call of all ranks."""
    first = [next(batches)]
    parts = "@SplitBatchNorm for every norm" if world_size() == 1 else "DeepSpeedEngine.sync_batch_norm = False"
    for name in leaks(objective, first[0], run):
        say(
            f"term {name!r}: a query and its own key share batch statistics that other keys do not, which may give the "
            "key away (MoCo, section 3.3). Short runs learn all the same. For long ones bind Momentum.shuffle_keys = "
            f"True and {parts}, or norms without batch statistics, such as @GroupNorm."
        )
    yield first.pop()  # not to be kept
    yield from batches


def leaks(objective: Objective, views: Views, run: Run) -> list[str]:
    """Names of the terms in which a query's own key may be known by its company. A call of all ranks.

    An encoder with a momentum copy, and terms with negatives, are looked at: where there is no key to find, or queries
    and keys are one batch, nothing is given away. Nor is it by a mark that all keys bear, as those of the batch do
    under one batch normalisation (MoCo v3). Parameters, gradients, buffers and random numbers stay as they are.

    Args:
        objective: in train mode.
        views: a batch of at least two samples a rank that differ, its views made or not.
        run: the objective as it is trained, in pieces, say. It is called twice, without gradient.
    """
    encoder = objective.encoder
    terms = {name: term for name, term in objective.terms.items() if "negatives" in term.loss.needs}
    if "momentum" not in encoder.provides or not terms or len(views.sample) < 2:
        return []
    places = torch.arange(len(views.sample), device=views.sample.device)
    if rank() == 0:  # the second sample in the place of the first of all ranks'
        places[0] = 1
    exchanged = replace(views.part(places), group=views.group, sample=views.sample)  # not a sample that is there twice
    runs = []
    for each in (views, exchanged):
        with suppress(ClError):  # a step of this batch will say it, and keeps the batch's keys
            runs.append(_without_a_trace(encoder, run, each))
        if largest_over_ranks(int(not runs)):  # it may be one rank's alone
            return []
    before, after = runs
    found = []
    for name, term in terms.items():
        one, other = before[term.embedding], after[term.embedding]
        queries = _company(one.q, other.q, len(one.q_views))
        keys = _company(one.keys, other.keys, len(one.key_views))
        alike = "negatives of the batch alone" in term.provider.provides and keys.all()
        if keys.any() and torch.equal(queries, keys) and not alike:
            found.append(name)
    return found


@torch.no_grad()
def _without_a_trace(encoder: object, run: Run, views: Views) -> Mapping[str, Embeddings]:
    """The batch's embeddings; the next call starts from the same random state, and so draws the same numbers."""
    assert isinstance(encoder, nn.Module)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), buffers_kept(encoder):
        return run(views).embeddings


def _company(before: Float[Tensor, "m d"], after: Float[Tensor, "m d"], views: int) -> Bool[Tensor, "s"]:
    """Of all ranks' samples but the exchanged one, which have a row that moved."""
    moved = (after - before).norm(dim=1) > MOVED * before.norm(dim=1)
    return gather(rearrange(moved, "(v b) -> v b", v=views).any(dim=0).long())[1:] > 0
