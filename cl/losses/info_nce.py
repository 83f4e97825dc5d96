"""InfoNCE, with one positive or many."""

import math
from typing import Literal

import gin
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cl.components import Capability
from cl.losses.temperature import LearnedTemperature
from cl.types import Contrast


@gin.register
class InfoNCE(nn.Module):
    """Cross-entropy of each query's positives among all keys it meets.

        loss_i = mean over positives p of i of -[ s_ip - logsumexp_j s_ij ],   s = q . k / temperature

    j runs over the paired key and every key of the pool that is met. With one positive this is NT-Xent (Chen et al.
    2020, equation 1) and MoCo's loss (He et al. 2020, equation 1), with several L_out of SupCon (Khosla et al. 2020,
    equation 2), with `both_ways` CLIP's. All candidates equal, it is log(number of candidates) exactly.

    It is the mean over rows. SimCLR's reference adds the two views' means and SupCon's multiplies by
    temperature / 0.07: such factors are weights of the term.

    Args:
        temperature: a positive number, or a `LearnedTemperature`.
        lonely: rows without any positive contribute 0 and are left out of the mean ("skip", the default: the scale
            of the gradient then does not depend on how many there are), or count in it ("count", the reference's).
    """

    needs: frozenset[Capability] = frozenset({"negatives"})

    def __init__(self, temperature: float | LearnedTemperature, lonely: Literal["skip", "count"] = "skip"):
        super().__init__()
        if isinstance(temperature, float | int) and not (0 < temperature < math.inf):
            raise ValueError(f"InfoNCE.temperature must be a positive number, got {temperature}")
        self.temperature = temperature
        self.lonely = lonely

    def scale(self) -> Tensor | float:
        """1 / temperature."""
        return self.temperature() if isinstance(self.temperature, LearnedTemperature) else 1 / self.temperature

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over the contributing rows; float32 under autocast too. Holds the `m n` logits of one Contrast."""
        if contrast.pool is None:
            raise ValueError("InfoNCE needs a pool of keys; PositivesOnly alone gives none")
        with torch.autocast(contrast.q.device.type, enabled=False):
            scale = self.scale()
            q = contrast.q * scale
            met, positive = contrast.relation()
            logits = q @ contrast.pool.T
            paired = None if contrast.paired is None else (q * contrast.paired).sum(dim=1)
            total = _rows(logits, met, positive, contrast.positives, paired).sum()
            rows = len(contrast.q)
            if contrast.both_ways:
                total = total + _rows(logits.T, met.T, positive.T, contrast.positives_of_pool).sum()
                rows += len(contrast.pool)
        if self.lonely == "count":
            return total / rows
        return total / (contrast.contributing if contrast.divisor is None else contrast.divisor).clamp(min=1e-9)


def _rows(
    logits: Float[Tensor, "m n"],
    met: Bool[Tensor, "m n"],
    positive: Bool[Tensor, "m n"],
    positives: Int64[Tensor, "m"],
    paired: Float[Tensor, "m"] | None = None,
) -> Float[Tensor, "m"]:
    lonely = positives == 0
    # -inf, not a large number: that would leak where logits are spread by 100. A lonely row may meet nothing at all,
    # whose logsumexp has no gradient, so it is given finite logits before it is dropped.
    candidates = logits.masked_fill(~met, -torch.inf).masked_fill(lonely[:, None], 0.0)
    attracted = (logits * positive).sum(dim=1)
    if paired is not None:
        candidates = torch.cat([paired[:, None], candidates], dim=1)
        attracted = attracted + paired
    if candidates.shape[1] == 0:
        return logits.sum(dim=1)
    loss = candidates.logsumexp(dim=1) - attracted / positives.clamp(min=1)
    return loss.masked_fill(lonely, 0.0)
