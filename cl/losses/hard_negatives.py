"""InfoNCE that looks longest at the negatives that lie nearest."""

import math
from dataclasses import replace

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.choices import check_weight
from cl.components import Capability
from cl.errors import ConfigError
from cl.losses.rows import directions, mean_over_rows
from cl.losses.temperature import LearnedTemperature, inverse, valid
from cl.losses.tiles import Products, check_tiles
from cl.types import Contrast


@gin.register
class HardNegativeInfoNCE(nn.Module):
    """Contrastive learning with hard negative samples (Robinson et al. 2021, arXiv:2010.04592, equation 4).

        loss_i = -log( e^s_ip / (e^s_ip + N) ),   s = q . k / temperature
        N = n max( (sum_j w_j e^s_ij / sum_j w_j - debias e^s_ip) / (1 - debias), e^(-1 / temperature) )
        w_j = e^(hardness s_ij)

    j runs over the n negatives of row i. `hardness` 0 and `debias` 0 give InfoNCE; hardness 0 alone the debiased loss
    of Chuang et al. 2020. As in the authors' code: the mean weight is taken over the row's own negatives. Rows must be
    unit-norm. It is the mean over rows that have a positive; a row has at most one, a view of a sample that is there
    twice being one. A row without a negative contributes 0.

    Args:
        temperature: a positive number, or a `LearnedTemperature`.
        hardness: how much more a near negative counts; the paper's beta, 0.5 to 2.
        debias: share of negatives that are thought to be of the row's own class; the paper's tau+, 0.01 to 0.1.
        tile: as in `InfoNCE`.
        products: as in `InfoNCE`.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"negatives", "unit norm"})
    spreads = True

    def __init__(
        self,
        temperature: float | LearnedTemperature,
        hardness: float = 1.0,
        debias: float = 0.1,
        tile: int = 512,
        products: Products = "float32",
    ):
        super().__init__()
        check_tiles(tile, products, "HardNegativeInfoNCE")
        check_weight(hardness, "HardNegativeInfoNCE.hardness")
        if not 0 <= debias < 1:
            raise ValueError(f"HardNegativeInfoNCE.debias must lie in [0, 1), got {debias}")
        self.temperature = valid(temperature, "HardNegativeInfoNCE.temperature")
        self.hardness = hardness
        self.debias = debias
        self.tile = tile
        self.products: Products = products

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over the contributing rows; float32 under autocast too. Of the `m n` logits some 32 MB are in memory.

        Raises:
            ConfigError: a row with several positives.
        """
        ways = (contrast, contrast.turned) if contrast.both_ways else (contrast,)
        most = max(_most_positives(way) for way in ways)
        if most > 1:
            error = ConfigError(
                f"HardNegativeInfoNCE takes one positive a row and was given {most}. Group by sample, @BySample(), "
                "with two views, each sample once a batch, and with a queue Queue.stale_same = 'ignored'; or bind "
                "Term.loss = @InfoNCE(), which takes several."
            )
            error.shared = False  # other ranks' rows may have one
            raise error
        with torch.autocast(contrast.q.device.type, enabled=False):
            scale = inverse(self.temperature)
            settings = (self.tile, self.products, True)
            hard = directions(contrast, scale * (1 + self.hardness), *settings)
            # The root of a learned scale times 0 has no gradient.
            weights = directions(contrast, scale * self.hardness if self.hardness else 0.0, *settings)
            values = []
            for rows, weight in zip(hard, weights, strict=True):
                negatives = rows.contrast.candidates - rows.contrast.positives
                alone = negatives == 0
                positive = rows.positive / (1 + self.hardness)
                count = negatives.clamp(min=1).to(positive.dtype).log()
                drawn = count + rows.lse.masked_fill(alone, 0) - weight.lse.masked_fill(alone, 0)
                # 60: far beyond where the lower bound takes over, and within float32.
                own = self.debias * (count + (positive - drawn).clamp(max=60)).exp()
                debiased = drawn + (1 - own).clamp(min=torch.finfo(own.dtype).tiny).log() - math.log1p(-self.debias)
                pushed = torch.maximum(debiased, count - scale)
                values.append((F.softplus(pushed - positive) * ~alone, rows.contrast))
            return mean_over_rows(values, contrast)


def _most_positives(way: Contrast) -> int:
    """Of any query. Views hand on a sample twice where another cannot be used; its positives are then there twice."""
    most = int(way.positives.max()) if len(way.q) else 0
    if most < 2 or way.pool is None or way.pool_ids is None:
        return most
    queries, keys = _firsts(way.q_ids), _firsts(way.pool_ids)
    if way.stale is not None:
        keys = _firsts(torch.cat([way.pool_ids, way.stale[:, None].long()], dim=1))
    once = replace(
        way,
        q=way.q[queries],
        q_ids=way.q_ids[queries],
        paired=None if way.paired is None else way.paired[queries],
        pool=way.pool[keys],
        pool_ids=way.pool_ids[keys],
        stale=None if way.stale is None else way.stale[keys],
    )
    return int(once.positives.max())


def _firsts(ids: Int64[Tensor, "n _"]) -> Int64[Tensor, "_"]:
    """Where each of the different rows is first."""
    different, which = ids.unique(dim=0, return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    return places.new_zeros(len(different)).scatter_reduce(0, which, places, "amin", include_self=False)
