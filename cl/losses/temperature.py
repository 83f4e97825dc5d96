"""Temperatures: a number, or learned."""

import math
from typing import Any

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn


@gin.register
class LearnedTemperature(nn.Module):
    """CLIP's logit scale: its logarithm is a parameter (Radford et al. 2021, section 2.5).

    The parameter has shape (1,) and is never edited; the scale is clamped where it is read. The clamp's gradient
    passes whenever a descent step would bring the parameter back inside, so it cannot get stuck beyond a bound.

    Args:
        initial: temperature at the start.
        max_scale: largest 1 / temperature.
        min_scale: smallest 1 / temperature.
    """

    def __init__(self, initial: float = 0.07, max_scale: float = 100.0, min_scale: float = 1.0):
        super().__init__()
        if not (initial > 0 and 0 < min_scale <= 1 / initial <= max_scale < math.inf):
            raise ValueError(
                f"LearnedTemperature.initial = {initial}: 1 / initial must lie in [min_scale, max_scale], here "
                f"[{min_scale}, {max_scale}], of which both are numbers above 0"
            )
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(initial)))
        self.bounds = (math.log(min_scale), math.log(max_scale))

    def forward(self) -> Float[Tensor, "1"]:
        """1 / temperature."""
        return _Clamp.apply(self.log_scale, *self.bounds).exp()  # type: ignore[union-attr]


Temperature = float | LearnedTemperature


def valid(temperature: Temperature, parameter: str) -> Temperature:
    """The temperature, if it is one; ValueError naming the parameter if not."""
    if isinstance(temperature, float | int) and not (1e-18 <= temperature <= 1e18):  # what float32 can square
        raise ValueError(f"{parameter} must be a positive number, from 1e-18 to 1e18, got {temperature}")
    return temperature


def inverse(temperature: Temperature) -> Tensor | float:
    """1 / temperature: what inner products are multiplied by."""
    return temperature() if isinstance(temperature, LearnedTemperature) else 1 / temperature


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high), (grad,) = ctx.saved_tensors, ctx.bounds, grads
        outward = ((x >= high) & (grad < 0)) | ((x <= low) & (grad > 0))
        return grad.masked_fill(outward, 0), None, None
