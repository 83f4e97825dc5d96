"""What the loop asks of an engine."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cl.components import Step
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.schedules import Schedule
from cl.types import StepOutput, Views


@runtime_checkable
class Engine(Protocol):
    """Runs the objective, the backward pass and the optimizer.

    Attributes:
        accumulate: calls that make one step.
        piece: most samples that pass the networks at a time; None: the whole batch.
        distributed: whether it trains with other processes.
        sharded: whether the optimizer steps flat shares of the parameters.
    """

    accumulate: int
    piece: int | None
    distributed: bool
    sharded: bool

    def start(
        self,
        objective: Objective,
        optimizer: Optimizer,
        schedule: Schedule,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """Takes over the objective's parameters. Before any step."""
        ...

    def __call__(self, views: Views) -> StepOutput: ...

    def backward(self, output: StepOutput) -> None: ...

    def step(self, step: Step) -> StepOutput | None:
        """Steps the optimizer once its micro-batches are complete; the whole step's output, or None if not applied."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The objective's state, every tensor whole. A call of all ranks; rank 0 alone gets it."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's, likewise."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The reverse. Every rank is given all of it."""
        ...
