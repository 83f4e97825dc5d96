"""Batch normalisation that leaves no two features correlated."""

import gin
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cl.distributed import sum_over_ranks, world_size
from cl.errors import ConfigError, NumericError


@gin.register
class DecorrelatedBatchNorm(nn.Module):
    """Whitens groups of features over the batch: mean 0, variance 1, no correlation inside a group.

    At a projector's end it keeps embeddings from lying in a few directions, which batch normalisation of every feature
    by itself allows (Hua et al. 2021, arXiv:2105.00470; Ermolov et al. 2021, arXiv:2007.06346). It whitens by the
    Cholesky factor of the covariance, as the latter; Huang et al. (2018, arXiv:1804.08450), who introduced it, use
    ZCA. There are no affine parameters. Statistics are those of all ranks' rows. With hardly more rows than a group has
    features, whitened rows are nearly orthogonal whatever came in; a batch has to have twice as many.

    Args:
        width: of the input.
        group: features that are whitened together; must divide `width`.
        eps: added to the variances.
        momentum: of the running mean and covariance, which eval mode uses.
    """

    running_mean: Float[Tensor, "c"]
    running_covariance: Float[Tensor, "parts g g"]

    def __init__(self, width: int, group: int = 64, eps: float = 1e-3, momentum: float = 0.1):
        super().__init__()
        if group < 1 or width % group:
            raise ValueError(f"group must divide the width {width}, got {group}")
        self.group = group
        self.eps = eps
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("running_covariance", torch.eye(group, dtype=torch.float64).repeat(width // group, 1, 1))

    def forward(self, input: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The rows, whitened; at least float32 whatever autocast says. Inside it computes in float64: in float32 a
        covariance of one strong direction has no factor.

        Raises:
            ConfigError: in train mode, of a batch of fewer than `2 group` rows.
            NumericError: the covariance is not finite, or too close to singular for float64 too.
        """
        rows = len(input) * world_size()
        if self.training and rows < 2 * self.group:
            raise ConfigError(
                f"A batch of {rows} rows is too small to decorrelate groups of {self.group} features: it needs "
                "twice as many. Lower DecorrelatedBatchNorm.group, or give a larger batch."
            )
        with torch.autocast(input.device.type, enabled=False):
            x = input.double()
            mean = sum_over_ranks(x.sum(dim=0)) / rows if self.training else self.running_mean.double()
            parts = rearrange(x - mean, "n (p g) -> p n g", g=self.group)
            covariance = sum_over_ranks(parts.mT @ parts) / rows if self.training else self.running_covariance.double()
            noise = self.eps * torch.eye(self.group, dtype=covariance.dtype, device=covariance.device)
            factor, failed = torch.linalg.cholesky_ex(covariance + noise)
            if failed.any():
                raise NumericError("DecorrelatedBatchNorm: the features' covariance is not finite, or is singular.")
            if self.training:
                self._remember(mean.detach(), covariance.detach())
            white = rearrange(torch.linalg.solve_triangular(factor, parts.mT, upper=False), "p g n -> n (p g)")
            return white.to(torch.promote_types(input.dtype, torch.float32))

    def _remember(self, mean: Tensor, covariance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_covariance.lerp_(covariance.to(self.running_covariance), self.momentum)
