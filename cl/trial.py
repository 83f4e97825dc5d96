"""What a term makes of a few made-up samples, before any data is opened."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.components import Capability, OfWidth, is_ours
from cl.distributed import largest_over_ranks, rank
from cl.errors import ConfigError
from cl.negatives.ring import Remembering, Ring
from cl.objective import Term
from cl.processes import of_a_peer
from cl.train import Training
from cl.types import Embeddings
from cl.views.groups import BySample, stable_hash

FEW, MANY = 3, 64
"""Samples that are made up, and how many where a loss cannot compute with so few."""
AFAR = 10**9
"""Added to ids, it makes them others."""
SEVERAL: frozenset[Capability] = frozenset({"groups of a label", "groups of a caption"})
"""Groupings that make more than a sample's own views positives of it."""


@dataclass(frozen=True)
class Rows:
    """What an encoder would give a term.

    Attributes:
        queries: view numbers of the query rows.
        keys: of the key rows; None: the keys are the queries.
        width: d.
        trained_keys: the keys have a gradient.
        grouped: samples share groups.
        alone: every sample is its own group, for sure.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...] | None
    width: int
    trained_keys: bool
    grouped: bool
    alone: bool

    @property
    def views(self) -> frozenset[int]:
        """All of them."""
        return frozenset((*self.queries, *(self.keys or ())))


def reached(training: Training, term: Term) -> frozenset[int] | None:
    """The views whose rows a term's loss has a gradient for; None: the provider makes no Contrast.

    All views, where that is not to be known: of a loss that wants more rows than are made up, that cannot be copied, or
    whose gradient is 0 at first. Copies of provider and loss are tried; nothing of the run changes. A call of all
    processes.

    Raises:
        ValueError, ConfigError: provider or loss refuses what it is given.
        RuntimeError: it cannot compute, or another process was lost.
    """
    encoder = training.objective.encoder
    queries, keys = encoder.layout(term.embedding)
    sizes = (part.dim for part in (term.provider, term.loss) if isinstance(part, OfWidth))
    rows = Rows(
        queries,
        keys,
        width=encoder.width(term.embedding) or next(sizes, 2),
        trained_keys="keys without gradient" not in encoder.provides,
        grouped=bool(training.views.provides & SEVERAL),
        alone=isinstance(getattr(training.views, "group", None), BySample),
    )
    share = training.views.batch // training.place.world
    failed, found = False, None
    try:
        found = _tried(term, rows, min(share, FEW))
    except RuntimeError as error:
        if of_a_peer(error):
            raise
        failed = True
    if not largest_over_ranks(int(failed)):
        return found
    try:
        return _tried(term, rows, min(share, MANY))
    except RuntimeError as error:
        if of_a_peer(error) or share <= MANY:
            raise
        return rows.views


def _tried(term: Term, rows: Rows, samples: int) -> frozenset[int] | None:
    found, leaves = _made_up(rows, samples)
    rings: dict[int, Any] = {}  # what the copy has in place of a long queue: one as it is after a step
    if isinstance(term.provider, Remembering):
        ring = Ring(2 * len(found.keys), found.keys.shape[1])
        kept = found.keys.detach()
        ring.enqueue(kept, found.key_ids + torch.tensor([0 if rows.grouped else AFAR, AFAR, 0]))
        ring.enqueue(kept, found.key_ids)  # an epoch later they come again
        rings[id(term.provider.ring)] = ring
    try:
        provider, loss_of = copy.deepcopy(term.provider, rings), copy.deepcopy(term.loss)
    except (RuntimeError, TypeError):
        return rows.views
    with torch.random.fork_rng(devices=[]):
        contrasts = provider(found)
        if not contrasts:
            return None
        loss = torch.stack([copy.deepcopy(loss_of)(contrast) for contrast in contrasts]).sum()
    every = [leaf for leaf, _ in leaves]
    gradients = torch.autograd.grad(loss, every, allow_unused=True) if loss.requires_grad else [None] * len(every)
    views = set()
    for gradient, (_, numbers) in zip(gradients, leaves, strict=True):
        if gradient is not None:
            views |= {view for view, part in zip(numbers, gradient.chunk(len(numbers)), strict=True) if part.any()}
    known = rows.alone and is_ours(type(term.loss))
    if not views and known and not any(contrast.positives.any() for contrast in contrasts):
        raise ConfigError(
            "no query has a positive, and nothing would be learned. Give the encoder two views of a sample, such as "
            "Siamese.views = 2, or group samples: @ByLabel()"
        )
    return frozenset(views) or rows.views


def _made_up(rows: Rows, samples: int) -> tuple[Embeddings, list[tuple[Tensor, tuple[int, ...]]]]:
    """Samples of this rank, where grouped the first two of one label; and the rows that have a gradient, by view."""
    generator = torch.Generator().manual_seed(0)

    def unit(views: tuple[int, ...]) -> Tensor:
        return F.normalize(torch.randn(samples * len(views), rows.width, generator=generator), dim=1)

    def ids(views: tuple[int, ...]) -> Tensor:
        own = [samples * rank() + sample for sample in range(samples)]
        labels = [stable_hash("label", str(max(sample - 1, 0))) for sample in range(samples)]
        groups = labels if rows.grouped else own
        each = [ids for view in views for ids in zip(groups, own, [view] * samples, strict=True)]
        return torch.tensor(each, dtype=torch.int64).view(-1, 3)

    q = unit(rows.queries).requires_grad_()
    if rows.keys is None:
        return Embeddings(q.clone(), ids(rows.queries), rows.queries), [(q, rows.queries)]
    k = unit(rows.keys).requires_grad_(rows.trained_keys)
    trained = [(q, rows.queries), *([(k, rows.keys)] if rows.trained_keys else [])]
    made = Embeddings(q.clone(), ids(rows.queries), rows.queries, k.clone(), ids(rows.keys), rows.keys)
    return made, trained
