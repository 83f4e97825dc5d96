"""Moves the centre of self-distillation."""

import gin
import torch
from torch import Tensor

from cl.components import Capability, Step
from cl.hooks.stateless import Stateless
from cl.losses.self_distillation import SelfDistillation
from cl.objective import Objective
from cl.types import StepOutput


@gin.register
class UpdateCentre(Stateless):
    """centre <- momentum centre + (1 - momentum) mean of the step's keys on all ranks (Caron et al. 2021, equation 4).

    Args:
        momentum: in [0, 1].
    """

    needs: frozenset[Capability] = frozenset({"centre"})

    def __init__(self, momentum: float = 0.9):
        if not 0 <= momentum <= 1:
            raise ValueError(f"UpdateCentre.momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Moves every term's centre; logs its length."""
        lengths = {}
        for name, term in objective.terms.items():
            if isinstance(term.loss, SelfDistillation):
                keys, _ = output.embeddings[term.embedding].everywhere
                term.loss.centre.lerp_(keys.mean(dim=0).to(term.loss.centre), 1 - self.momentum)
                lengths[f"centre/{name}"] = torch.linalg.vector_norm(term.loss.centre)
        return lengths
