"""What the training asks of an optimizer's description."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class Optimizer(Protocol):
    """Describes an optimizer; `build` makes torch's, with the groups of `cl.optim.rules.parameter_groups`.

    Attributes:
        lr: the rate that schedules and rules scale.
        by_layer: whether a step depends on the norms of whole tensors (LARS, LAMB).
    """

    lr: float
    by_layer: bool

    def build(self, module: nn.Module) -> torch.optim.Optimizer: ...
