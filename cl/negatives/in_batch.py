"""The other samples of the batch."""

from collections.abc import Sequence

import gin
from torch import nn

from cl.components import Capability
from cl.distributed import world_size
from cl.errors import ConfigError
from cl.negatives.over_ranks import over_ranks
from cl.types import Contrast, Embeddings


@gin.register
class InBatch(nn.Module):
    """Every query against the batch's keys, those of all ranks.

    Args:
        same_view: True: one Contrast of all rows against all keys, a row itself apart (SimCLR, SupCon). False: one
            Contrast per key view, against the rows of the other views (CLIP's two directions, MoCo v3).
        queries: numbers of the views whose rows are queries, so that (0,) leaves CLIP the direction from picture to
            text; None: all.
    """

    provides: frozenset[Capability] = frozenset({"keys", "negatives", "negatives of the batch alone"})
    needs: frozenset[Capability] = frozenset()

    def __init__(self, same_view: bool, queries: Sequence[int] | None = None):
        super().__init__()
        if queries is not None and (not queries or len(set(queries)) < len(queries)):
            raise ValueError(f"InBatch.queries must name views, each once, or be None for all, got {queries!r}")
        self.same_view = same_view
        self.queries = None if queries is None else tuple(queries)

    def forward(self, embeddings: Embeddings) -> Sequence[Contrast]:
        """Contrasts with a pool and no paired rows."""
        return [over_ranks(contrast) for contrast in self._contrasts(embeddings)]

    def _contrasts(self, embeddings: Embeddings) -> Sequence[Contrast]:
        queries = embeddings.q_views if self.queries is None else self.queries
        if missing := set(queries) - set(embeddings.q_views):
            raise ConfigError(
                f"InBatch.queries names view {min(missing)}, and the encoder makes query rows of the views "
                f"{', '.join(map(str, embeddings.q_views))}. Correct InBatch.queries."
            )
        alone = world_size() == 1 and embeddings.k is None and queries == embeddings.q_views
        if self.same_view:
            pool, pool_ids = embeddings.everywhere
            q, q_ids = embeddings.q_of(*queries)
            return [Contrast(q, q_ids, pool=pool, pool_ids=pool_ids, pool_is_q=alone)]
        if alone and len(embeddings.q_views) == 2:
            first, second = embeddings.q_views
            q, q_ids = embeddings.q_of(first)
            pool, pool_ids = embeddings.key_of(second)
            return [Contrast(q, q_ids, pool=pool, pool_ids=pool_ids, both_ways=True)]
        contrasts = []
        for key_view in embeddings.key_views:
            others = [view for view in queries if view != key_view]
            if others:
                q, q_ids = embeddings.q_of(*others)
                pool, pool_ids = embeddings.key_of_everywhere(key_view)
                contrasts.append(Contrast(q, q_ids, pool=pool, pool_ids=pool_ids))
        return contrasts
