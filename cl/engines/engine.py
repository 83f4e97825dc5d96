"""What the loop asks of an engine."""

from typing import Any, Protocol, runtime_checkable

import torch

from cl.components import Step
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.schedules import Schedule
from cl.types import StepOutput, Views


@runtime_checkable
class Engine(Protocol):
    """Runs the objective, the backward pass and the optimizer. `accumulate` calls make one step.

    At most `piece` samples pass the networks at a time; None: the whole batch.
    """

    accumulate: int
    piece: int | None

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

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
