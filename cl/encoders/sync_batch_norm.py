"""Batch normalisation whose batch is that of all processes."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from cl.distributed import gather, world_size
from cl.encoders.norms import BatchNorm, SplitBatchNorm
from cl.errors import ConfigError
from cl.precision import wide


class SyncBatchNorm(BatchNorm):
    """Batch normalisation over the rows of all ranks, on any backend: torch's own refuses CPU tensors.

    The gradient is that of one process with all rows, once ranks are averaged. Every rank must hold as many rows. One
    collective each way; sums over rows are torch's kernels', which add up in float64 on a CPU. Modules it is given (as
    timm's norms with an activation have them) follow it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`n c ...` to the same shape."""
        found = super().forward(input) if world_size() == 1 or not self.training else self._over_ranks(input)
        for follower in self.children():
            found = follower(found)
        return found

    def _over_ranks(self, input: Tensor) -> Tensor:
        mean, variance = _statistics(input)
        if self.track_running_stats:
            rows = input.numel() // input.shape[1] * world_size()
            self._remember(mean, variance * (rows / max(rows - 1, 1)))
        return _Normalise.apply(input, self.weight, self.bias, mean, variance, self.eps)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronise(module: nn.Module) -> None:
    """Puts `SyncBatchNorm` in the place of every batch normalisation in a module, parameters and buffers and all.

    `SplitBatchNorm`, whose point is that statistics are not shared, stays.

    Raises:
        ConfigError: a batch normalisation that does something else too.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SplitBatchNorm | SyncBatchNorm):
                parent.add_module(name, _synchronised(child))


def _synchronised(norm: _BatchNorm) -> SyncBatchNorm:
    if type(norm) not in (BatchNorm, BatchNormAct2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        raise ConfigError(
            f"What {type(norm).__name__} does beside batch normalisation is not known, so processes cannot share its "
            "statistics. Bind DeepSpeedEngine.sync_batch_norm = False, or another norm."
        )
    new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum or 0.1, norm.affine)
    new.momentum, new.track_running_stats = norm.momentum, norm.track_running_stats
    for held in ("_parameters", "_buffers", "_modules"):
        new.__dict__[held] = norm.__dict__[held]
    return new.train(norm.training)


@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    # Means of means and of variances, not of squares: no cancellation where the mean is large.
    # Running statistics that are wide, and do not move, keep those of bfloat16 rows from being rounded to bfloat16.
    unmoved = wide(x.new_zeros(x.shape[1]))
    local = torch.stack(torch.batch_norm_update_stats(x, unmoved, unmoved.clone(), 0.0)).double()
    means, variances = gather(local[None]).unbind(dim=1)
    variance, mean = torch.var_mean(means, dim=0, correction=0)
    return mean.to(unmoved), (variances.mean(dim=0) + variance).to(unmoved)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[reportIncompatibleMethodOverride]
        # With y = (x - mean) / std:  dx = weight / std (g - mean(g) - y mean(g y)), means over the rows of all ranks.
        (gradient,), (x, weight, mean, variance) = gradients, ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, torch.ones_like(mean), None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        sums = gather(torch.stack([of_weight, of_bias])[None]).double().sum(dim=0)
        rows = x.numel() // x.shape[1] * world_size()
        scale = inverse if weight is None else weight * inverse
        with_y, alone = (-(sums / rows) * scale).to(mean).unbind()
        # Wide: what is nearly one constant a channel would be rounded alike in all rows, and not average out.
        rest = F.batch_norm(wide(x), mean, variance, with_y, alone, training=False, eps=ctx.eps)
        of_x = rest.addcmul_(wide(gradient), scale.to(mean).view(1, -1, *(1 for _ in range(x.ndim - 2)))).to(x.dtype)
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, None, None, None
