"""What a term makes of a few made-up samples, before any data is opened."""

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cl.distributed import rank
from cl.negatives.ring import Remembering, Ring
from cl.objective import Term
from cl.types import Embeddings
from cl.views.groups import stable_hash

P = TypeVar("P")
AFAR = 10**9
"""Added to ids, it makes them others."""


@dataclass(frozen=True)
class Rows:
    """What an encoder would give a term.

    Attributes:
        queries: view numbers of the query rows.
        keys: of the key rows; None: the keys are the queries.
        width: d.
        trained_keys: the keys have a gradient.
        grouped: samples share groups.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...] | None
    width: int
    trained_keys: bool
    grouped: bool

    @property
    def views(self) -> frozenset[int]:
        """All of them."""
        return frozenset((*self.queries, *(self.keys or ())))


def reached(term: Term, rows: Rows, samples: int) -> frozenset[int] | None:
    """The views whose rows the loss has a gradient for; None: the provider makes no Contrast.

    All views, where that is not to be known: of a loss that cannot be copied, or whose gradient is 0 at first.
    Copies of provider and loss are tried; nothing of the run changes. A call of all processes.

    Raises:
        ValueError, ConfigError: provider or loss refuses what it is given.
        RuntimeError: it cannot compute with so few samples, or at all.
    """
    found, leaves = _made_up(rows, samples)
    rings: dict[int, Any] = {}  # what the copy has in place of a long queue: one as it is after a step
    if isinstance(term.provider, Remembering):
        ring = Ring(2 * len(found.keys), found.keys.shape[1])
        kept = found.keys.detach()
        ring.enqueue(kept, found.key_ids + torch.tensor([0 if rows.grouped else AFAR, AFAR, 0]))
        ring.enqueue(kept, found.key_ids)  # an epoch later they come again
        rings[id(term.provider.ring)] = ring
    try:
        provider, loss_of = _moved(copy.deepcopy(term.provider, rings)), _moved(copy.deepcopy(term.loss))
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
    return frozenset(views) or rows.views


def _moved(part: P) -> P:
    """Vectors that start at zero pass no gradient on before the first step; as they may be after it."""
    for parameter in part.parameters() if isinstance(part, nn.Module) else ():
        if parameter.requires_grad and not is_lazy(parameter) and not parameter.any():
            nn.init.normal_(parameter)
    return part


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
