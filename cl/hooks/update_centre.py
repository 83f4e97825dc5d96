"""Moves the centre of self-distillation."""

from typing import Protocol, runtime_checkable

import gin
import torch
from jaxtyping import Float
from torch import Tensor

from cl.components import Capability, Step
from cl.hooks.stateless import Stateless
from cl.objective import Objective
from cl.types import StepOutput


@runtime_checkable
class Centred(Protocol):
    """A loss that subtracts a moving mean of the keys.

    Attributes:
        centre: a buffer.
    """

    centre: Float[Tensor, "d"]


@gin.register
class UpdateCentre(Stateless):
    """centre <- momentum centre + (1 - momentum) mean of the step's keys on all ranks (Caron et al. 2021, equation 4).

    Args:
        momentum: in [0, 1).
    """

    needs: frozenset[Capability] = frozenset({"centre"})

    def __init__(self, momentum: float = 0.9):
        if not 0 <= momentum < 1:
            raise ValueError(f"UpdateCentre.momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Moves every term's centre; logs its length."""
        lengths = {}
        for name, term in objective.terms.items():
            if isinstance(term.loss, Centred):
                keys, _ = output.embeddings[term.embedding].everywhere
                term.loss.centre.lerp_(keys.mean(dim=0).to(term.loss.centre), 1 - self.momentum)
                lengths[f"centre/{name}"] = torch.linalg.vector_norm(term.loss.centre)
        return lengths
