"""Scores of learned prototypes."""

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cl.encoders.mlp import MLP
from cl.precision import wide


@gin.register
class Prototypes(nn.Module):
    """Cosines of a projection with unit vectors that are learned: `n f` to `n count` (DINO's head, Caron et al. 2021,
    appendix C: an MLP, L2 normalisation and a weight-normalised layer whose lengths are fixed at 1).

    The encoder leaves their lengths alone: `Siamese.unit_norm = False`.

    Args:
        projector: `n f` to `n d`.
        count: prototypes.
    """

    def __init__(self, projector: MLP, count: int):
        super().__init__()
        self.projector = projector
        self.vectors = nn.Parameter(torch.randn(count, projector.out_features))
        self.in_features, self.out_features = projector.in_features, count

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n count"]:
        """In [-1, 1], before a loss's temperature."""
        rows = self.projector(features)
        with torch.autocast(rows.device.type, enabled=False):  # a loss divides them by as little as 0.04
            rows = F.normalize(wide(rows), dim=1, eps=1e-6)
            return rows @ F.normalize(wide(self.vectors), dim=1).T
