"""Which parameter gets which rate, decay and adaptation: ordered rules on parameter names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gin
from torch import nn

from cl.components import Step
from cl.errors import ConfigError
from cl.optim.schedules import Schedule


@gin.register
@dataclass(frozen=True)
class Rule:
    """What is different for parameters whose name matches. The first rule that matches wins.

    Attributes:
        pattern: regular expression, searched for in the parameter's name.
        rate: factor on the learning rate; 0 keeps the parameter as it is.
        schedule: of its own, instead of the run's.
        weight_decay: of its own; None: the optimizer's, also for tensors of one dimension.
    """

    pattern: str
    rate: float = 1.0
    schedule: Schedule | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        """ValueError: a rate or a decay that is negative or no number."""
        if not self.rate >= 0 or (self.weight_decay is not None and not self.weight_decay >= 0):
            raise ValueError(
                f"Rule.rate and .weight_decay must be at least 0, got {self.rate} and {self.weight_decay} for "
                f"{self.pattern!r}"
            )


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """torch's parameter groups. Without a matching rule tensors of one dimension or fewer are not decayed.

    Groups without decay are the ones that layer-wise optimizers do not adapt.

    Raises:
        ConfigError: a rule that matches nothing.
        ValueError: a rate or a decay that is negative or no number.
    """
    if not (lr >= 0 and weight_decay >= 0):
        raise ValueError(f"lr and weight_decay must be at least 0, got {lr} and {weight_decay}")
    default, plain = Rule(".*"), Rule(".*", weight_decay=0.0)
    groups: dict[int, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = next((rule for rule in rules if re.search(rule.pattern, name)), default if parameter.ndim > 1 else plain)
        decay = weight_decay if rule.weight_decay is None else rule.weight_decay
        group = {"params": [], "names": [], "lr": lr, "rule": rule, "weight_decay": decay}
        group = groups.setdefault(id(rule), group)
        group["params"].append(parameter)
        group["names"].append(name)
    idle = [rule.pattern for rule in rules if id(rule) not in groups]
    if idle:
        example = next(name for name, _ in module.named_parameters())
        raise ConfigError(
            f"Rule.pattern {idle[0]!r} decides over no trained parameter: it matches none, or earlier rules took them. "
            f"Names look like {example!r}; print the wiring with tools/check_gin.py."
        )
    return list(groups.values())


def set_rates(groups: Sequence[dict[str, Any]], lr: float, schedule: Schedule, step: Step) -> None:
    """Writes each group's learning rate for a step."""
    for group in groups:
        rule: Rule = group["rule"]
        group["lr"] = lr * step.rate * rule.rate * (rule.schedule or schedule)(step)
