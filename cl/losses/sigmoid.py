"""Every pair by itself: positive or not."""

import math

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cl.components import Capability
from cl.losses.rows import paired_logits
from cl.losses.softplus import softplus_sum
from cl.losses.temperature import LearnedTemperature, inverse, valid
from cl.losses.tiles import Products, check_tiles
from cl.precision import wide
from cl.types import Contrast


@gin.register
class Sigmoid(nn.Module):
    """SigLIP's loss (Zhai et al. 2023, arXiv:2303.15343, equation 1): logistic regression on all pairs that are met.

        loss_i = sum over keys j of -log sigmoid(y_ij (s_ij + bias)),   s = q . k / temperature, y = 1 or -1

    It is the mean over the queries, so it grows with the pool. No normalisation couples the pairs, so both directions
    are the same, and a Contrast that goes both ways counts once. All logits equal to the bias, it is
    candidates x softplus(bias) - positives x bias.

    Args:
        temperature: a positive number, or a `LearnedTemperature`; the paper's starts at 0.1.
        bias: where the learned bias starts: -10 (the paper), -2.71 to tune a locked tower. -log(negatives a positive)
            tells the share of positives right; an adaptive optimizer moves it by no more than its rate a step.
        tile: as in `InfoNCE`.
        products: as in `InfoNCE`; of fewer rows than some thousand bfloat16 is slower.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"negatives"})
    spreads = True

    def __init__(
        self,
        temperature: float | LearnedTemperature,
        bias: float = -10.0,
        tile: int = 512,
        products: Products = "float32",
    ):
        super().__init__()
        check_tiles(tile, products, "Sigmoid")
        self.temperature = valid(temperature, "Sigmoid.temperature")
        if not math.isfinite(bias):
            raise ValueError(f"Sigmoid.bias must be a number, got {bias}")
        self.bias = nn.Parameter(torch.full((1,), float(bias)))
        self.tile = tile
        self.products: Products = products

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over the queries; float32 under autocast too. Of the `m n` logits three tiles are in memory."""
        if contrast.pool is None:
            raise ValueError("Sigmoid needs a pool of keys; PositivesOnly alone gives none")
        with torch.autocast(contrast.q.device.type, enabled=False):
            q = wide(contrast.q) * inverse(self.temperature)
            pool, bias = contrast.pool.to(q), self.bias.to(q)
            total = softplus_sum(q, pool, bias, contrast.apart, contrast.apart_or_positive, self.tile, self.products)
            if contrast.paired is not None:
                total = total + F.softplus(-paired_logits(q, contrast.paired) - bias).sum()
            return total / max(len(q), 1)
