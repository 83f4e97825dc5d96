"""Variance, invariance, covariance: collapse is ruled out by the batch's own statistics."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.choices import check_weight
from cl.components import Capability
from cl.precision import wide
from cl.types import Contrast


@gin.register
class VICReg(nn.Module):
    """Variance-invariance-covariance regularisation (Bardes et al. 2022, arXiv:2105.04906, equation 6).

        invariance x mean (q - k)^2
        + variance x half the sum over both branches of mean over dimensions of max(0, 1 - sqrt(var + 1e-4))
        + covariance x sum over both branches of sum over i != j of cov_ij^2 / d

    Queries and paired keys are its two branches; both want a gradient, and rows that are not normalised: unit rows
    never reach a deviation of 1. Statistics are over all rows it is given; on several processes let
    `PositivesOnly.everywhere` give it all ranks' rows. Variances divide by rows - 1.

    Args:
        invariance: weight.
        variance: weight; 0 lets it collapse.
        covariance: weight.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"paired", "free length"})

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0):
        super().__init__()
        for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            check_weight(weight, f"VICReg.{name}")
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.spreads = variance > 0

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """The weighted sum; float32 under autocast too.

        Raises:
            ValueError: no paired keys, or fewer than 2 rows.
        """
        if contrast.paired is None or len(contrast.q) < 2:
            raise ValueError("VICReg needs paired keys, as PositivesOnly gives them, and at least 2 rows")
        with torch.autocast(contrast.q.device.type, enabled=False):
            q = wide(contrast.q)
            k = contrast.paired.to(q)
            spread = [_hinge(rows) for rows in (q, k)]
            mixed = [_off_diagonal(rows) for rows in (q, k)]
            return (
                self.invariance * (q - k).square().mean()
                + self.variance * (spread[0] + spread[1]) / 2
                + self.covariance * (mixed[0] + mixed[1])
            )


def _hinge(rows: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    return (1 - (rows.var(dim=0) + 1e-4).sqrt()).clamp(min=0).mean()


def _off_diagonal(rows: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / rows.shape[1]
