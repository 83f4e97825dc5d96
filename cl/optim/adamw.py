"""AdamW."""

from collections.abc import Sequence

import gin
import torch
from torch import nn

from cl.optim.rules import Rule, parameter_groups


@gin.register
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); torch's, fused."""

    by_layer = False

    def __init__(
        self,
        lr: float,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        rules: Sequence[Rule] = (),
    ):
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = betas
        self.eps = eps
        self.rules = rules

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """torch's optimizer over the module's trained parameters."""
        groups = parameter_groups(module, self.lr, self.weight_decay, self.rules)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
