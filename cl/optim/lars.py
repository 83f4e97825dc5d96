"""Layer-wise adaptive rate scaling."""

from collections.abc import Sequence
from typing import Any

import gin
import torch
from timm.optim.lars import Lars
from torch import nn

from cl.optim.rules import Rule, parameter_groups


@gin.register
class LARS:
    """timm's LARS (You et al. 2017), as SimCLR and BYOL train: groups without decay are not adapted.

    With no decay at all it would be SGD at a rate that is hundreds of times too high for it: that is refused.
    """

    by_layer = True

    def __init__(
        self,
        lr: float,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        trust: float = 1e-3,
        rules: Sequence[Rule] = (),
    ):
        if not trust > 0:
            raise ValueError(f"LARS.trust must be above 0, got {trust}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.trust = trust
        self.rules = rules

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """timm's optimizer over the module's trained parameters."""
        groups = parameter_groups(module, self.lr, self.weight_decay, self.rules)
        if not any(group["weight_decay"] > 0 for group in groups):
            raise ValueError("LARS.weight_decay must be above 0, as it adapts only what it decays")
        momentum: Any = self.momentum  # timm annotates an int
        return Lars(groups, lr=self.lr, momentum=momentum, trust_coeff=self.trust)
