"""What losses over a softmax are made of: of every query a log-sum-exp over keys, and its positives' logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cl.losses.logsumexp import logsumexp, logsumexp_both_ways, logsumexp_itself
from cl.losses.tiles import Products
from cl.precision import wide
from cl.types import Contrast

Lonely = Literal["skip", "count"]
"""What rows without a positive, which contribute 0, are to the mean: left out ("skip"), or counted ("count")."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The queries of a Contrast, in one direction, before logits that are inner products of `q` and `pool`.

    Attributes:
        contrast: whose they are.
        q: queries, scaled.
        pool: keys; where they are the queries, each is scaled by the root.
        lse: log-sum-exp over the keys asked for, without the paired one; -inf where there is none.
    """

    contrast: Contrast
    q: Float[Tensor, "m d"]
    pool: Float[Tensor, "n d"]
    lse: Float[Tensor, "m"]

    @cached_property
    def paired(self) -> Float[Tensor, "m"] | None:
        """Logits of the paired keys."""
        return None if self.contrast.paired is None else paired_logits(self.q, self.contrast.paired)

    @cached_property
    def positive(self) -> Float[Tensor, "m"]:
        """Mean logit of the positives, 0 where there is none."""
        if self.paired is not None and self.contrast.only_paired:
            return self.paired
        total = self.contrast.agreement(self.q, self.pool)
        total = total if self.paired is None else total + self.paired
        return total if self.contrast.one_each else total / self.contrast.positives.clamp(min=1)

    @cached_property
    def candidate(self) -> Float[Tensor, "m"]:
        """Mean logit of all keys that are met, the paired one too."""
        total = (self.q * self.contrast.gathering(self.pool)).sum(dim=1)
        total = total if self.paired is None else total + self.paired
        return total / self.contrast.candidates.clamp(min=1)


def paired_logits(q: Float[Tensor, "m d"], paired: Float[Tensor, "m d"]) -> Float[Tensor, "m"]:
    """Row by row. An infinite one, which would be a perfect match, is no number."""
    logits = (q * paired).sum(dim=1)
    return logits + 0 * logits.detach()


def directions(
    contrast: Contrast,
    scale: Tensor | float,
    tile: int = 512,
    products: Products = "float32",
    decoupled: bool = False,
) -> Sequence[Rows]:
    """The rows of each direction: the queries', and where the Contrast goes both ways the pool's.

    Args:
        contrast: with a pool.
        scale: 1 / temperature.
        tile: as in `logsumexp`.
        products: as in `logsumexp`.
        decoupled: the log-sum-exps are over the negatives only.
    """
    if contrast.pool is None:
        raise ValueError("this loss needs a pool of keys; PositivesOnly alone gives none")
    apart = contrast.apart_or_positive if decoupled else contrast.apart
    if contrast.pool_is_q:
        z = wide(contrast.q) * scale**0.5
        return [Rows(contrast, z, z, logsumexp_itself(z, apart, tile, products))]
    q = wide(contrast.q) * scale
    pool = contrast.pool.to(q)
    if contrast.both_ways:
        lse, lse_of_pool = logsumexp_both_ways(q, pool, apart, tile, products)
        return [Rows(contrast, q, pool, lse), Rows(contrast.turned, pool, q, lse_of_pool)]
    return [Rows(contrast, q, pool, logsumexp(q, pool, apart, tile, products))]


def mean_over_rows(
    values: Sequence[tuple[Float[Tensor, "_"], Contrast]], contrast: Contrast, lonely: Lonely = "skip"
) -> Float[Tensor, ""]:
    """Mean of values over the rows of all directions, each with its Contrast; one without a positive contributes 0."""
    every = contrast.all_contribute
    kept = [value if every else torch.where(way.positives == 0, 0, value) for value, way in values]
    total = reduce(torch.add, [value.sum() for value in kept])
    if lonely == "count" or (every and contrast.divisor is None):
        return total / max(sum(len(value) for value in kept), 1)
    return total / (contrast.contributing if contrast.divisor is None else contrast.divisor).clamp(min=1e-9)
