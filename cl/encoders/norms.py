"""Normalisation layers by width, for trunks (`n c h w`) and heads (`n c`) alike.

Pass one by reference: `MLP.norm = @BatchNorm`, `SmallResNet.norm = @SplitBatchNorm` and `SplitBatchNorm.splits = 8`.
"""

from collections.abc import Callable

import gin
import torch
from torch import Tensor, nn

from cl.errors import ConfigError


def placed_norm(norm: Callable[[int], nn.Module]) -> Callable[..., nn.Module]:
    """As timm calls a `norm_layer`: with a device and a dtype, which modules get later."""

    def layer(width: int, *, device: object = None, dtype: object = None) -> nn.Module:
        return norm(width)

    return layer


@gin.register
class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of whatever rank the input has."""

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__(width, eps=eps, momentum=momentum, affine=affine)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"BatchNorm expects 'n c ...', got shape {tuple(input.shape)}")


@gin.register
class SplitBatchNorm(BatchNorm):
    """Batch normalisation over `splits` parts of the batch, each on its own: several devices' BN on one.

    With shuffled keys it keeps batch statistics from telling a query which key is its own (He et al. 2020, MoCo,
    section 3.3). A batch that does not divide gets parts of unequal size. The running statistics move as far a step
    as those of one BN would.
    """

    def __init__(self, width: int, splits: int = 8, eps: float = 1e-5, momentum: float = 0.1):
        if splits < 1:
            raise ValueError(f"splits must be at least 1, got {splits}")
        super().__init__(width, eps=eps, momentum=1 - (1 - momentum) ** (1 / splits))
        self.splits = splits

    def forward(self, input: Tensor) -> Tensor:
        """`n c ...` to the same shape."""
        if not self.training:
            return super().forward(input)
        if len(input) < 2 * self.splits:
            raise ConfigError(
                f"A batch of {len(input)} in {self.splits} parts leaves fewer than two rows a part, which have no "
                "statistics. Lower SplitBatchNorm.splits, or give a larger batch."
            )
        return torch.cat([super(SplitBatchNorm, self).forward(part) for part in input.tensor_split(self.splits)])


@gin.register
class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018): no statistics cross samples, so nothing leaks between them."""

    def __init__(self, width: int, groups: int = 8, eps: float = 1e-5):
        if width % groups:
            raise ValueError(f"GroupNorm: width {width} is not a multiple of groups {groups}")
        super().__init__(groups, width, eps=eps)
