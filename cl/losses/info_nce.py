"""InfoNCE, with one positive or many."""

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cl.choices import check_choice
from cl.components import Capability
from cl.losses.rows import Lonely, directions, mean_over_rows
from cl.losses.temperature import LearnedTemperature, inverse, valid
from cl.losses.tiles import Products, check_tiles
from cl.types import Contrast


@gin.register
class InfoNCE(nn.Module):
    """Cross-entropy of each query's positives among all keys it meets.

        loss_i = mean over positives p of i of -[ s_ip - logsumexp_j s_ij ],   s = q . k / temperature

    j runs over the paired key and every key of the pool that is met. With one positive this is NT-Xent (Chen et al.
    2020, equation 1) and MoCo's loss (He et al. 2020, equation 1), with several L_out of SupCon (Khosla et al. 2020,
    equation 2), with `both_ways` CLIP's. All candidates equal, it is log(number of candidates).

    It is the mean over rows. SimCLR's reference adds the two views' means and SupCon's multiplies by
    temperature / 0.07: such factors are weights of the term.

    Args:
        temperature: a positive number, or a `LearnedTemperature`.
        lonely: rows without any positive contribute 0 and are left out of the mean ("skip", the default: the scale
            of the gradient then does not depend on how many there are), or count in it ("count", the reference's).
        smoothing: share of the target that is spread evenly over all candidates, the positives among them, as
            `torch.nn.functional.cross_entropy` has it; in [0, 1).
        tile: rows and keys whose logits are made at a time; 512 suits a CPU, a GPU wants more.
        products: "bfloat16" is faster for thousands of rows where the machine computes with it, about as fast
            elsewhere, and lets a logit of unit rows be off by some 1 / (128 temperature); `logsumexp` says more.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"negatives"})
    spreads = True

    def __init__(
        self,
        temperature: float | LearnedTemperature,
        lonely: Lonely = "skip",
        smoothing: float = 0.0,
        tile: int = 512,
        products: Products = "float32",
    ):
        super().__init__()
        check_choice(lonely, Lonely, "InfoNCE.lonely")
        check_tiles(tile, products, "InfoNCE")
        if not 0 <= smoothing < 1:
            raise ValueError(f"InfoNCE.smoothing must lie in [0, 1), got {smoothing}")
        self.temperature = valid(temperature, "InfoNCE.temperature")
        self.lonely: Lonely = lonely
        self.smoothing = smoothing
        self.tile = tile
        self.products: Products = products

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over the contributing rows; float32 under autocast too. Of many logits some 16 MB are in memory."""
        with torch.autocast(contrast.q.device.type, enabled=False):
            values = []
            for rows in directions(contrast, inverse(self.temperature), self.tile, self.products):
                if rows.contrast.only_paired and not self.smoothing:
                    # log(e^lse + e^paired) - paired, where a small loss is no difference of large numbers.
                    values.append((F.softplus(rows.lse - rows.positive, threshold=40), rows.contrast))
                    continue
                lse = rows.lse if rows.paired is None else torch.logaddexp(rows.lse, rows.paired)
                target = rows.positive
                if self.smoothing:
                    target = (1 - self.smoothing) * target + self.smoothing * rows.candidate
                values.append((lse - target, rows.contrast))
            return mean_over_rows(values, contrast, self.lonely)
