"""Fills the queues."""

from collections.abc import Sequence

import gin
import torch
from torch import Tensor

from cl.components import Capability, Step
from cl.hooks.stateless import Stateless
from cl.negatives.ring import Remembering
from cl.objective import Objective
from cl.types import StepOutput


@gin.register
class Enqueue(Stateless):
    """Writes the step's keys of all ranks into the queue of every term that has one, after they were contrasted.

    Args:
        views: key views that are kept; None: all.
    """

    needs: frozenset[Capability] = frozenset({"queue"})

    def __init__(self, views: Sequence[int] | None = None):
        self.views = views

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Enqueues; logs how many slots are filled."""
        fills = {}
        for name, term in objective.terms.items():
            if isinstance(term.provider, Remembering):
                embeddings = output.embeddings[term.embedding]
                for view in embeddings.key_views if self.views is None else self.views:
                    term.provider.ring.enqueue(*embeddings.key_of_everywhere(view))
                fills[f"queue_fill/{name}"] = term.provider.ring.fill.clone()
        return fills
