"""Plain PyTorch on one process."""

from typing import Any

import gin
import torch
from torch import Tensor

from cl.components import Step
from cl.engines.pieces import Pieces
from cl.errors import CheckpointError, NumericError
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.rules import set_rates
from cl.optim.schedules import Schedule
from cl.types import Embeddings, StepOutput, Views


@gin.register
class LocalEngine:
    """No launcher, nothing compiled.

    Args:
        accumulate: batches whose gradients are averaged into one optimizer step. Negatives do not cross batches.
        clip: largest norm of the whole gradient; None: any.
        channels_last: memory format of pictures and convolutions; faster on every machine tried.
        piece: samples that pass the networks at a time; None: all. The gradient is the whole batch's, at the price
            of a second forward pass; batch statistics are each piece's own. See `Pieces`.
    """

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
            views = self._ready(views)
            with self._autocast():
                return self.objective(views)
        self.pieces = Pieces(self.objective.encoder, views, self.piece, self._ready, self._autocast)
        with self._autocast():
            return self.objective.contrast(self.pieces.embeddings)

    def backward(self, output: StepOutput) -> None:
        """Adds this batch's gradients."""
        (output.loss / self.accumulate).backward()
        if self.pieces is not None:
            self.pieces.backward()
            self.pieces = None
        self.outputs.append(_detached(output))

    def _ready(self, views: Views) -> Views:
        return views.made().to(self.device, self.format)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def step(self, step: Step) -> StepOutput | None:
        """Steps the optimizer when `accumulate` batches are in.

        Raises:
            NumericError: the loss or a gradient is not finite; nothing was changed.
        """
        if len(self.outputs) < self.accumulate:
            return None
        output, self.outputs = _joined(self.outputs), []
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if not torch.isfinite(output.loss + norm):
            raise NumericError(
                f"Step {step.index + 1}: the loss is {output.loss.item():g} and the gradient's norm {norm.item():g}. "
                "The weights were not changed. Lower the learning rate or raise the temperature, and look at the input."
            )
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.clip, norm)
        set_rates(self.optimizer.param_groups, self.lr, self.schedule, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return output

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, tensors by parameter name."""
        state = self.optimizer.state
        return {f"optimizer|{type(self.optimizer).__name__}": torch.zeros(1)} | {
            f"{name}|{key}": value
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
            for key, value in state[parameter].items()
            if isinstance(value, Tensor)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""
        kind = f"optimizer|{type(self.optimizer).__name__}"
        if kind not in state:
            have = next((key.split("|")[1] for key in state if key.startswith("optimizer|")), "another optimizer")
            raise CheckpointError(
                f"The checkpoint holds the state of {have}; this run steps with {kind.split('|')[1]}."
            )
        for group in self.optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                prefix = f"{name}|"
                mine = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
                if mine:
                    self.optimizer.state[parameter] = {key: _like(parameter, value) for key, value in mine.items()}


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    # Fused optimizers walk memory, not indices: what has the parameter's shape must have its strides too.
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _detached(output: StepOutput) -> StepOutput:
    return StepOutput(
        loss=output.loss.detach(),
        losses={name: loss.detach() for name, loss in output.losses.items()},
        embeddings={name: each.detached() for name, each in output.embeddings.items()},
    )


def _joined(outputs: list[StepOutput]) -> StepOutput:
    if len(outputs) == 1:
        return outputs[0]
    return StepOutput(
        loss=torch.stack([output.loss for output in outputs]).mean(),
        losses={name: torch.stack([o.losses[name] for o in outputs]).mean() for name in outputs[0].losses},
        embeddings={
            name: Embeddings.joined([output.embeddings[name] for output in outputs]) for name in outputs[0].embeddings
        },
    )
