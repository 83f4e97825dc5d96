"""InfoNCE without the positive in its denominator."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.choices import check_choice
from cl.components import Capability
from cl.losses.rows import Lonely, directions, mean_over_rows
from cl.losses.temperature import LearnedTemperature, inverse, valid
from cl.losses.tiles import Products, check_tiles
from cl.types import Contrast


@gin.register
class DecoupledInfoNCE(nn.Module):
    """Decoupled contrastive learning (Yeh et al. 2022, arXiv:2110.06848, equation 6).

        loss_i = mean over positives p of i of -s_ip, + logsumexp over negatives j of s_ij,   s = q . k / temperature

    Pulling does not weaken as the positive comes near, so small batches learn faster. Unlike InfoNCE it has no lower
    bound of 0. It is the mean over rows; a row without a positive or without a negative contributes 0.

    Args:
        temperature: a positive number, or a `LearnedTemperature`.
        lonely: as in `InfoNCE`.
        tile: as in `InfoNCE`.
        products: as in `InfoNCE`.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"negatives"})
    spreads = True

    def __init__(
        self,
        temperature: float | LearnedTemperature,
        lonely: Lonely = "skip",
        tile: int = 512,
        products: Products = "float32",
    ):
        super().__init__()
        check_choice(lonely, Lonely, "DecoupledInfoNCE.lonely")
        check_tiles(tile, products, "DecoupledInfoNCE")
        self.temperature = valid(temperature, "DecoupledInfoNCE.temperature")
        self.lonely: Lonely = lonely
        self.tile = tile
        self.products: Products = products

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over the contributing rows; float32 under autocast too. Of the `m n` logits some 16 MB are in memory."""
        with torch.autocast(contrast.q.device.type, enabled=False):
            values = []
            for rows in directions(contrast, inverse(self.temperature), self.tile, self.products, decoupled=True):
                pushed = rows.lse != -torch.inf
                lse = rows.lse.masked_fill(~pushed, 0)
                values.append(((lse - rows.positive) * pushed, rows.contrast))
            return mean_over_rows(values, contrast, self.lonely)
