"""Moves the momentum copy."""

from typing import Literal

import gin
import torch
from torch import Tensor

from cl.choices import check_choice
from cl.components import Capability, Step
from cl.distributed import share, share_changed
from cl.encoders.momentum import Momentum
from cl.hooks.stateless import Stateless
from cl.objective import Objective
from cl.optim.schedules import Constant, Schedule
from cl.types import StepOutput

Buffers = Literal["own", "copy", "average"]


@gin.register
class UpdateMomentum(Stateless):
    """target <- target + (1 - momentum) (online - target), once per applied optimizer step.

    Under ZeRO-3 every rank moves its share of the copy, and nothing is gathered.

    Args:
        momentum: a number in [0, 1], or a schedule of it (BYOL: `Cosine(0.99, 1)`).
        buffers: what becomes of the copy's buffers, BatchNorm's running statistics: "own" leaves them
            to the copy's own batches (MoCo's and BYOL's references), "copy" takes the online network's, "average"
            moves them as the weights.
    """

    needs: frozenset[Capability] = frozenset({"momentum"})

    def __init__(self, momentum: float | Schedule, buffers: Buffers = "own"):
        self.momentum = Constant(momentum) if isinstance(momentum, float | int) else momentum
        for index in (0, 99):
            if not 0 <= self.momentum(Step(index, 100)) <= 1:
                raise ValueError(f"UpdateMomentum.momentum must lie in [0, 1], got {self.momentum(Step(index, 100))}")
        check_choice(buffers, Buffers, "UpdateMomentum.buffers")
        self.buffers = buffers

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Moves the copy; logs the momentum it used."""
        encoder = objective.encoder
        assert isinstance(encoder, Momentum), "UpdateMomentum needs a Momentum encoder"
        momentum = self.momentum(step)
        for mine, theirs in zip(encoder.target.parameters(), encoder.online.parameters(), strict=True):
            share(mine).lerp_(share(theirs).to(mine.dtype), 1 - momentum)
            share_changed(mine)
        target, online = list(encoder.target.buffers()), list(encoder.online.buffers())
        for mine, theirs in zip(target, online, strict=True):
            if self.buffers == "copy":
                mine.copy_(theirs)
            elif self.buffers == "average" and mine.is_floating_point():
                mine.lerp_(theirs.to(mine.dtype), 1 - momentum)
        return {"momentum": torch.tensor(momentum)}
