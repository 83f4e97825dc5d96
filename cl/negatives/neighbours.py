"""Neighbours among past keys, in the queries' place."""

from collections.abc import Sequence

import gin
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.components import Capability
from cl.distributed import gather
from cl.negatives.over_ranks import over_ranks
from cl.negatives.ring import Ring
from cl.types import Contrast, Embeddings

AT_ONCE = 4096
"""Past keys that are compared with a batch's at a time."""


@gin.register
class Neighbours(nn.Module):
    """The nearest past key of each key against the predictions of the other views (NNCLR, Dwibedi et al. 2021,
    arXiv:2104.14548, equation 2 and algorithm 1).

    One Contrast per ordered pair of views: of view i's keys the nearest rows of the queue are the queries, and view j's
    predictions, those of all ranks, the pool. A positive is another sample's view then, which varies in more than
    augmentation does. The gradient reaches the predictions alone. Until anything is enqueued a key is its own
    neighbour. Let `Enqueue.views = (0,)` keep one view of each sample, as the paper does.

    Args:
        size: K, how many past keys are kept.
        dim: d, the embedding's width.
        shorter_than_batch: as `Queue`'s.
    """

    provides: frozenset[Capability] = frozenset({"keys", "queue", "negatives", "negatives of the batch alone"})
    needs: frozenset[Capability] = frozenset({"unit norm"})

    def __init__(self, size: int, dim: int, shorter_than_batch: bool = False):
        super().__init__()
        if size < 1:
            raise ValueError(f"Neighbours.size must be at least 1, got {size}")
        self.ring = Ring(size, dim)
        self.dim = dim
        self.shorter_than_batch = shorter_than_batch

    def forward(self, embeddings: Embeddings) -> Sequence[Contrast]:
        """Contrasts with a pool whose rows have the gradient."""
        contrasts = []
        for key_view in embeddings.key_views:
            keys, ids = embeddings.key_of(key_view)
            neighbours = self.nearest(keys)
            for view in embeddings.q_views:
                if view != key_view:
                    pool, pool_ids = (gather(rows) for rows in embeddings.q_of(view))
                    contrast = Contrast(neighbours, ids, pool=pool, pool_ids=pool_ids)
                    contrasts.append(over_ranks(contrast))
        return contrasts

    @torch.no_grad()
    def nearest(self, keys: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Of each unit row the past key of largest cosine; without any, the row itself."""
        past, _ = self.ring()
        if not len(past):
            return keys.detach()
        with torch.autocast(keys.device.type, enabled=False):
            return past[_largest(keys, past)].to(keys)


def _largest(rows: Float[Tensor, "b d"], keys: Float[Tensor, "f d"]) -> Int64[Tensor, "b"]:
    """Of each row the key of largest product; some keys at a time."""
    best, where = rows.new_full((len(rows),), -torch.inf), torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for start in range(0, len(keys), AT_ONCE):
        near, at = (rows @ keys[start : start + AT_ONCE].to(rows).T).max(dim=1)
        where = torch.where(near > best, at + start, where)
        best = torch.maximum(near, best)
    return where
