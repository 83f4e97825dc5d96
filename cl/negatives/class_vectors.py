"""A learned vector for every class, as the keys."""

from collections.abc import Sequence

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.components import Capability
from cl.negatives.over_ranks import over_ranks
from cl.precision import wide
from cl.types import Contrast, Embeddings
from cl.views.groups import stable_hash


@gin.register
class ClassVectors(nn.Module):
    """Every query against one learned vector a class; its own label's is its positive.

    With `InfoNCE` it is the softmax cross-entropy of a linear classifier without bias, on unit rows the normalised
    softmax (Wang et al. 2017, arXiv:1704.06369): the supervised yardstick. A row whose label is none of the classes has
    no positive.

    Args:
        classes: how many; labels count from 0.
        dim: d, the embedding's width.
        unit_norm: whether the vectors are put on the unit sphere, as the rows are.
    """

    provides: frozenset[Capability] = frozenset({"negatives"})
    needs: frozenset[Capability] = frozenset({"groups of a label"})

    pool_ids: Int64[Tensor, "n 3"]

    def __init__(self, classes: int, dim: int, unit_norm: bool = True):
        super().__init__()
        if classes < 2:
            raise ValueError(f"ClassVectors.classes must be at least 2, got {classes}")
        self.dim = dim
        self.vectors = _Vectors(classes, dim, unit_norm)
        ids = [(stable_hash("label", str(label)), stable_hash("class", str(label)), -1) for label in range(classes)]
        self.register_buffer("pool_ids", torch.tensor(ids), persistent=False)

    def forward(self, embeddings: Embeddings) -> Sequence[Contrast]:
        """One Contrast of all rows, whose pool is the vectors."""
        pool = self.vectors(embeddings.q)
        return [over_ranks(Contrast(embeddings.q, embeddings.q_ids, pool=pool, pool_ids=self.pool_ids))]


class _Vectors(nn.Module):
    # Tensors in and out: ZeRO-3 has a parameter whole only while its own module runs.
    def __init__(self, classes: int, dim: int, unit_norm: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) / dim**0.5)
        self.unit_norm = unit_norm

    def forward(self, like: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        weight = wide(self.weight)
        return F.normalize(weight, dim=1) if self.unit_norm else weight * 1
