"""Moves the momentum copy."""

from typing import Literal

import gin
import torch
from torch import Tensor

from cl.components import Capability, Step
from cl.encoders.momentum import Momentum
from cl.hooks.stateless import Stateless
from cl.objective import Objective
from cl.optim.schedules import Constant, Schedule
from cl.types import StepOutput


@gin.register
class UpdateMomentum(Stateless):
    """target <- target + (1 - momentum) (online - target), once per applied optimizer step.

    Args:
        momentum: a number in [0, 1], or a schedule of it (BYOL: `Cosine(0.99, 1)`).
        buffers: what becomes of the copy's buffers, BatchNorm's running statistics: "own" leaves them
            to the copy's own batches (MoCo's and BYOL's references), "copy" takes the online network's, "average"
            moves them as the weights.
    """

    needs: frozenset[Capability] = frozenset({"momentum"})

    def __init__(self, momentum: float | Schedule, buffers: Literal["own", "copy", "average"] = "own"):
        self.momentum = Constant(momentum) if isinstance(momentum, float | int) else momentum
        for index in (0, 99):
            if not 0 <= self.momentum(Step(index, 100)) <= 1:
                raise ValueError(f"UpdateMomentum.momentum must lie in [0, 1], got {self.momentum(Step(index, 100))}")
        self.buffers = buffers

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Moves the copy; logs the momentum it used."""
        encoder = objective.encoder
        assert isinstance(encoder, Momentum), "UpdateMomentum needs a Momentum encoder"
        momentum = self.momentum(step)
        target, online = list(encoder.target.parameters()), list(encoder.online.parameters())
        if self.buffers == "average":
            target += [buffer for buffer in encoder.target.buffers() if buffer.is_floating_point()]
            online += [buffer for buffer in encoder.online.buffers() if buffer.is_floating_point()]
        for mine, theirs in zip(target, online, strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1 - momentum)
        if self.buffers == "copy":
            for mine, theirs in zip(encoder.target.buffers(), encoder.online.buffers(), strict=True):
                mine.copy_(theirs)
        return {"momentum": torch.tensor(momentum)}
