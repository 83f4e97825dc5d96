"""Nothing but each row's own positive."""

from collections.abc import Sequence

import gin
from torch import nn

from cl.components import Capability
from cl.distributed import gather
from cl.types import Contrast, Embeddings


@gin.register
class PositivesOnly(nn.Module):
    """One Contrast `[q / k / -]` per key view: its keys against the rows of every other view.

    Without negatives something else must keep rows apart: a predictor and a slow target (BYOL), or a queue around
    this provider (MoCo). Where the keys are the queries, only later views are keys of earlier ones, so that a pair
    counts once.

    Args:
        everywhere: rows of all ranks, with gradient, for losses over the batch's statistics (VICReg, Barlow Twins):
            every rank then computes the same number.
    """

    provides: frozenset[Capability] = frozenset({"keys", "paired"})
    needs: frozenset[Capability] = frozenset()

    def __init__(self, everywhere: bool = False):
        super().__init__()
        self.everywhere = everywhere

    def forward(self, embeddings: Embeddings) -> Sequence[Contrast]:
        """Contrasts with paired rows and no pool."""
        contrasts = []
        for key_view in embeddings.key_views:
            if embeddings.k is None:
                others = [view for view in embeddings.q_views if view < key_view]
            else:
                others = [view for view in embeddings.q_views if view != key_view]
            key, _ = embeddings.key_of(key_view)
            for view in others:
                q, q_ids = embeddings.q_of(view)
                rows, row_ids, keys = (gather(each) if self.everywhere else each for each in (q, q_ids, key))
                contrasts.append(Contrast(q=rows, q_ids=row_ids, paired=keys))
        return contrasts
