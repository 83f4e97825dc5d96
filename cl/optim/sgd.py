"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence

import gin
import torch
from torch import nn

from cl.optim.rules import Rule, parameter_groups


@gin.register
class SGD:
    """torch's SGD, fused."""

    by_layer = False

    def __init__(
        self,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        rules: Sequence[Rule] = (),
    ):
        self.lr = lr
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.nesterov = nesterov
        self.rules = rules

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """torch's optimizer over the module's trained parameters."""
        groups = parameter_groups(module, self.lr, self.weight_decay, self.rules)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
