"""Keys of earlier steps."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.choices import check_choice
from cl.components import Capability, NegativeProvider
from cl.contrast import StaleSame
from cl.errors import ConfigError
from cl.negatives.over_ranks import over_ranks
from cl.negatives.ring import Remembering, Ring
from cl.types import Contrast, Embeddings


@gin.register
class Queue(nn.Module):
    """Adds the last `size` keys to the pool of what `inner` provides (MoCo, He et al. 2020, section 3.1).

    `Queue(PositivesOnly())` is MoCo's, `Queue(InBatch(True))` makes SupCon with a queue. Only `Enqueue` writes it.
    It hands on what is filled: where MoCo starts from random vectors, we start from none, and an empty queue gives
    a loss of 0. Any size and any batch work; the reference asks that one divide the other.

    Args:
        inner: the provider whose contrasts get the queue's keys.
        size: K, how many keys are kept.
        dim: d, the embedding's width; fixed here so that a checkpoint always fits.
        stale_same: what a key of the query's own sample from an earlier step is: "positive", "ignored" or
            "negative" (the reference's).
        trained_keys: asks by name for keys that the trained encoder itself made, which age as fast as it learns.
        shorter_than_batch: asks by name for a queue that does not hold a batch's keys of one view.
    """

    def __init__(
        self,
        inner: NegativeProvider,
        size: int,
        dim: int,
        stale_same: StaleSame = "ignored",
        trained_keys: bool = False,
        shorter_than_batch: bool = False,
    ):
        super().__init__()
        if isinstance(inner, Remembering):
            raise ValueError("Queue.inner has a queue itself; one queue holds all keys of a term")
        if size < 1:
            raise ValueError(f"Queue.size must be at least 1, got {size}")
        check_choice(stale_same, StaleSame, "Queue.stale_same")
        self.inner = inner
        self.ring = Ring(size, dim)
        self.dim = dim
        self.stale_same: StaleSame = stale_same
        self.shorter_than_batch = shorter_than_batch
        added: frozenset[Capability] = frozenset({"keys", "queue", "negatives"})
        missing: frozenset[Capability] = frozenset() if trained_keys else frozenset({"momentum"})
        self.provides = (inner.provides - {"negatives of the batch alone"}) | added
        self.needs = inner.needs | missing

    def forward(self, embeddings: Embeddings) -> Sequence[Contrast]:
        """The inner contrasts, each direction one of its own, their pools longer by the filled part of the queue."""
        keys, ids = self.ring()
        contrasts = self.inner(embeddings)
        ways = [(replace(one, both_ways=False), one.turned) if one.both_ways else (one,) for one in contrasts]
        return [self._with(way, keys, ids) for way in chain.from_iterable(ways)]

    def _with(self, contrast: Contrast, keys: Float[Tensor, "f d"], ids: Int64[Tensor, "f 3"]) -> Contrast:
        rows = contrast.q.shape[1]
        if rows != keys.shape[1]:
            raise ConfigError(
                f"Queue.dim is {keys.shape[1]} and the embeddings are {rows} wide. Bind Queue.dim = {rows}."
            )
        pool, pool_ids, stale = keys, ids, torch.ones_like(ids[:, 0], dtype=torch.bool)
        if contrast.pool is not None and contrast.pool_ids is not None:
            pool = torch.cat([contrast.pool, pool])
            pool_ids = torch.cat([contrast.pool_ids, pool_ids])
            stale = F.pad(stale, (len(contrast.pool), 0))
        longer = replace(
            contrast,
            pool=pool,
            pool_ids=pool_ids,
            stale=stale,
            stale_same=self.stale_same,
            pool_is_q=False,
            divisor=None,
        )
        return over_ranks(longer)
