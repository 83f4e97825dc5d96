"""The two views' features, correlated over the batch, are to be the identity."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.choices import check_weight
from cl.components import Capability
from cl.precision import wide
from cl.types import Contrast


@gin.register
class BarlowTwins(nn.Module):
    """Redundancy reduction (Zbontar et al. 2021, arXiv:2103.03230, equation 1).

        sum over i of (1 - c_ii)^2 + redundancy x sum over i != j of c_ij^2

    c is the `d d` correlation of queries with their paired keys, each feature with mean 0 and deviation 1 over all rows
    it is given (variances divide by rows, plus 1e-5, as in batch norm). Both branches want a gradient; the rows' own
    lengths are lost, so normalised rows serve less well. On several processes let `PositivesOnly.everywhere` give it
    all ranks' rows. The reference scales the sum by 0.024 for its optimizer: such a factor is the term's weight.

    Args:
        redundancy: weight of what is off the diagonal; the paper's lambda.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"paired"})
    spreads = True

    def __init__(self, redundancy: float = 0.0051):
        super().__init__()
        check_weight(redundancy, "BarlowTwins.redundancy")
        self.redundancy = redundancy

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """The sum; float32 under autocast too.

        Raises:
            ValueError: no paired keys, or fewer than 2 rows.
        """
        if contrast.paired is None or len(contrast.q) < 2:
            raise ValueError("BarlowTwins needs paired keys, as PositivesOnly gives them, and at least 2 rows")
        with torch.autocast(contrast.q.device.type, enabled=False):
            q = wide(contrast.q)
            q, k = _standardised(q), _standardised(contrast.paired.to(q))
            correlation = q.T @ k / len(q)
            diagonal = correlation.diagonal()
            off = correlation.square().sum() - diagonal.square().sum()
            return (1 - diagonal).square().sum() + self.redundancy * off


def _standardised(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return (rows - mean) * (variance + 1e-5).rsqrt()
