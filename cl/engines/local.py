"""Plain PyTorch on one process."""

from collections.abc import Callable
from typing import TypeVar

import gin
import torch
from torch import Tensor

from cl.components import Step
from cl.engines import optimizer_state
from cl.engines.pieces import Pieces
from cl.errors import NumericError, Overflow
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.rules import set_rates
from cl.optim.schedules import Schedule
from cl.types import StepOutput, Views

T = TypeVar("T")


@gin.register
class LocalEngine:
    """No launcher, nothing compiled.

    Args:
        accumulate: batches whose gradients are averaged into one optimizer step. Negatives do not cross batches.
        clip: largest norm of the whole gradient; None: any.
        channels_last: memory format of pictures and convolutions; faster on every machine tried.
        piece: samples that pass the networks at a time; None: all. The gradient is the whole batch's but for batch
            statistics, which are each piece's own; the price is a second forward pass. See `Pieces`.
    """

    distributed = False
    sharded = False

    def __init__(
        self,
        accumulate: int = 1,
        clip: float | None = None,
        channels_last: bool = True,
        piece: int | None = None,
    ):
        if accumulate < 1:
            raise ValueError(f"LocalEngine.accumulate must be at least 1, got {accumulate}")
        if piece is not None and piece < 1:
            raise ValueError(f"LocalEngine.piece must be at least 1, got {piece}")
        if clip is not None and not clip > 0:
            raise ValueError(f"LocalEngine.clip is a norm above 0, or None; got {clip}")
        self.accumulate = accumulate
        self.piece = piece
        self.clip = clip
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.outputs: list[StepOutput] = []
        self.pieces: Pieces | None = None

    def start(
        self,
        objective: Objective,
        optimizer: Optimizer,
        schedule: Schedule,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """Moves the objective to the device and builds the optimizer over it."""
        self.device = device
        self.precision = precision
        self.objective = objective.to(device, memory_format=self.format).train()  # type: ignore[call-overload]
        self.lr, self.schedule = optimizer.lr, schedule
        self.optimizer = optimizer.build(self.objective)

    def __call__(self, views: Views) -> StepOutput:
        """The objective under autocast (none at float32)."""
        self.pieces = None
        if self.piece is None or len(views.sample) <= self.piece:
            return self._run(self.objective, views)
        self.pieces = Pieces(self.objective.encoder, views, self.piece, self._run)
        with self._autocast():
            return self.objective.contrast(self.pieces.embeddings)

    def backward(self, output: StepOutput) -> None:
        """Adds this batch's gradients."""
        (output.loss / self.accumulate).backward()
        if self.pieces is not None:
            for views, loss_of in self.pieces.again():
                loss = loss_of(self._run(self.objective.encoder.queries, views))
                if loss.requires_grad:
                    loss.backward()
            self.pieces = None
        self.outputs.append(output.detached())

    def _run(self, network: Callable[[Views], T], views: Views) -> T:
        views = views.made().to(self.device, self.format)
        with self._autocast():
            return network(views)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def step(self, step: Step) -> StepOutput | None:
        """Steps the optimizer when `accumulate` batches are in.

        Raises:
            NumericError: the loss is not finite; nothing was changed.
            Overflow: a gradient is not; the same, and another batch may follow.
        """
        if len(self.outputs) < self.accumulate:
            return None
        output, self.outputs = StepOutput.joined(self.outputs), []
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if not torch.isfinite(output.loss + norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise (Overflow if torch.isfinite(output.loss) else NumericError)(
                f"Step {step.index + 1}: the loss is {output.loss.item():g} and the gradient's norm {norm.item():g}. "
                "The weights were not changed. Lower the learning rate or raise the temperature, and look at the input."
            )
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.clip, norm)
        set_rates(self.optimizer.param_groups, self.lr, self.schedule, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return output

    def weights(self) -> dict[str, Tensor]:
        """The objective's state."""
        return self.objective.state_dict()

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's state, tensors by parameter name."""
        return optimizer_state.collect(self.optimizer, optimizer_state.groups_of(self.optimizer))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The reverse."""
        optimizer_state.distribute(self.optimizer, optimizer_state.groups_of(self.optimizer), state)
