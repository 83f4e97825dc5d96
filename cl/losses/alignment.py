"""Pull positives together, and nothing else."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.components import Capability
from cl.precision import wide
from cl.types import Contrast


@gin.register
class Alignment(nn.Module):
    """Mean squared distance of each query and its paired key: 2 - 2 cos on unit rows (BYOL, Grill et al. 2020, eq. 2).

    Its minimum is one point, so it needs a partner against collapse. BYOL's reference adds both directions and we
    take the mean over all rows: the term's weight there is 2.
    """

    provides: frozenset[Capability] = frozenset()
    needs: frozenset[Capability] = frozenset({"paired"})
    spreads = False

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over rows; float32 under autocast too."""
        if contrast.paired is None:
            raise ValueError("Alignment needs paired keys; PositivesOnly gives them")
        with torch.autocast(contrast.q.device.type, enabled=False):
            return (wide(contrast.q) - contrast.paired).square().sum() / max(len(contrast.q), 1)
