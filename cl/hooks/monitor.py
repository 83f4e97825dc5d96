"""Measures collapse as it happens."""

import math

import gin
import torch
from torch import Tensor

from cl.components import Capability, Step
from cl.distributed import gather
from cl.errors import NumericError
from cl.evaluation.spectrum import effective_rank, feature_std
from cl.objective import Objective
from cl.types import StepOutput


@gin.register
class CollapseMonitor:
    """Feature std and effective rank of the step's queries, those of all ranks, and whether they say "collapsed".

    A healthy feature std is near 1 / sqrt(d). Only these numbers can tell for methods whose loss looks good when
    everything has become one point (BYOL).

    Args:
        every: steps between measurements.
        std_fraction: collapsed below this fraction of 1 / sqrt(d) ...
        min_rank: ... or below this effective rank ...
        patience: ... for this many measurements in a row.
        stop: end the run with exit code 4 then, instead of saying so.
    """

    needs: frozenset[Capability] = frozenset()

    def __init__(
        self, every: int = 20, std_fraction: float = 0.2, min_rank: float = 2.0, patience: int = 5, stop: bool = False
    ):
        self.every = every
        self.std_fraction = std_fraction
        self.min_rank = min_rank
        self.patience = patience
        self.stop = stop
        self.in_a_row = 0

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Every `every` steps: 'feature_std', 'effective_rank', 'collapsed' (0 or 1)."""
        if step.index % self.every and step.index + 1 != step.total:
            return {}
        q = gather(next(iter(output.embeddings.values())).q.detach())
        std, rank = feature_std(q), effective_rank(q, centred=False)
        low = std * math.sqrt(q.shape[1]) < self.std_fraction or rank < self.min_rank
        self.in_a_row = self.in_a_row + 1 if low else 0
        collapsed = self.in_a_row >= self.patience
        if collapsed and self.stop:
            raise NumericError(
                f"The embeddings collapsed at step {step.index + 1}: feature std {std:.2g} (healthy: about "
                f"{1 / math.sqrt(q.shape[1]):.2g}), effective rank {rank:.1f} of {q.shape[1]}, for {self.in_a_row} "
                f"measurements. See what prevents collapse in this recipe; CollapseMonitor.stop = False goes on."
            )
        return {"feature_std": std, "effective_rank": rank, "collapsed": torch.tensor(float(collapsed))}

    def state_dict(self) -> dict[str, int]:
        """How many measurements in a row looked collapsed."""
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues the count."""
        self.in_a_row = state["in_a_row"]
