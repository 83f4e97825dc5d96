"""What the training asks of an optimizer's description."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class Optimizer(Protocol):
    """Describes an optimizer; `build` makes torch's, with the groups of `cl.optim.rules.parameter_groups`.

    Attributes:
        lr: the rate that schedules and rules scale.
    """

    lr: float

    def build(self, module: nn.Module) -> torch.optim.Optimizer: ...
