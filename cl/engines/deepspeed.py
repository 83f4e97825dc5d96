"""DeepSpeed's ZeRO on any number of processes."""

import copy
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import gin
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[reportPrivateImportUsage]

from cl.components import Step
from cl.distributed import gather_objects, mean_over_ranks, rank
from cl.encoders.sync_batch_norm import synchronise
from cl.engines import deepspeed_settings, optimizer_state
from cl.engines.pieces import Pieces
from cl.errors import ConfigError, NumericError, Overflow
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.rules import set_rates
from cl.optim.schedules import Schedule
from cl.types import StepOutput, Views

T = TypeVar("T")


@gin.register
class DeepSpeedEngine:
    """ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): what every process holds of the training.

    The gradient is that of one process with the whole batch: batch normalisation is made to share its statistics.

    Args:
        stage: 0: every rank holds everything; 1: a share of the optimizer's state; 2: of the gradients too; 3: of the
            parameters too.
        accumulate: batches whose gradients are averaged into one optimizer step. Negatives do not cross batches.
        clip: largest norm of the whole gradient; None: any.
        channels_last: memory format of pictures.
        piece: samples of a rank that pass the networks at a time; None: all. As `LocalEngine`'s.
        sync_batch_norm: batch normalisation over the rows of all ranks; False: each rank's own.
        offload: the optimizer's state in host memory, and at stage 3 the parameters too.
        settings: DeepSpeed's own, merged over those made here, such as
            `{'zero_optimization': {'reduce_bucket_size': 1000000}}`, or the path of a JSON file of
            them, alike on all hosts.
    """

    distributed = True

    def __init__(
        self,
        stage: Literal[0, 1, 2, 3] = 1,
        accumulate: int = 1,
        clip: float | None = None,
        channels_last: bool = True,
        piece: int | None = None,
        sync_batch_norm: bool = True,
        offload: bool = False,
        settings: dict[str, Any] | str | None = None,
    ):
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {accumulate}")
        if piece is not None and piece < 1:
            raise ValueError(f"piece must be at least 1, got {piece}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip is a norm above 0, or None; got {clip}")
        if offload and stage == 0:
            raise ValueError("offload needs a stage from 1 on: at stage 0 nothing is sharded")
        self.stage = stage
        self.sharded = stage > 0
        self.accumulate = accumulate
        self.piece = piece
        self.pieces: Pieces | None = None
        self.clip = clip
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.sync_batch_norm = sync_batch_norm
        self.offload = offload
        self.settings = deepspeed_settings.loaded({} if settings is None else settings)
        self.config = deepspeed_settings.merged(self._config(), self.settings)
        self.outputs: list[StepOutput] = []

    def start(
        self,
        objective: Objective,
        optimizer: Optimizer,
        schedule: Schedule,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """Gives the objective to DeepSpeed; rank 0's parameters are everybody's."""
        deepspeed = deepspeed_settings.deepspeed()
        from deepspeed.utils import groups

        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        if groups._WORLD_GROUP is None:  # DeepSpeed's would wait half an hour for a lost rank
            ours = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
            groups._WORLD_GROUP = dist.new_group(timeout=ours.options._timeout)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        self.device = device
        if any(each != self.config for each in gather_objects(self.config)):
            raise ConfigError("DeepSpeedEngine.settings differ between processes: the file must be alike on all hosts.")
        if self.sync_batch_norm:
            synchronise(objective)
        self.objective = objective.to(device).train()  # weights as they are: DeepSpeed broadcasts them as bytes
        built = optimizer.build(objective)
        self.groups = optimizer_state.groups_of(built)
        self.lr, self.schedule = optimizer.lr, schedule
        self.precision = precision
        try:
            self.engine: Any = deepspeed.initialize(
                model=_Around(objective), optimizer=built, config=copy.deepcopy(self.config), dist_init_required=False
            )[0]
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
            if not self.settings:
                raise
            raise ConfigError(
                f"DeepSpeed does not start with DeepSpeedEngine.settings {self.settings}: {error}"
            ) from error
        self.optimizer = self.engine.optimizer

    def _config(self) -> dict[str, Any]:
        host = {"device": "cpu"}
        zero: dict[str, Any] = {"stage": self.stage}
        if self.stage == 3:
            # Small parameters are gathered with the next ones. Kept whole, each would be gathered alone after a step.
            zero["stage3_param_persistence_threshold"] = 0
        if self.offload:
            zero |= {"offload_optimizer": host} | ({"offload_param": host} if self.stage == 3 else {})
        return {
            "zero_optimization": zero,
            "train_micro_batch_size_per_gpu": 1,  # only ever printed
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": self.clip or 0.0,  # 1.0 if it were left out
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
        }

    def __call__(self, views: Views) -> StepOutput:
        """The objective under autocast (none at float32)."""
        self.pieces = None
        if self.piece is None or len(views.sample) <= self.piece:
            return self._run(self.objective, views)
        pieces = self.pieces = Pieces(self.objective.encoder, views, self.piece, self._run)
        return self._within(lambda: self.objective.contrast(pieces.embeddings))

    def backward(self, output: StepOutput) -> None:
        """Adds this batch's gradients, averaged over ranks."""
        last = len(self.outputs) + 1 == self.accumulate
        every = self.objective.named_parameters()
        trained = any(parameter.requires_grad for name, parameter in every if name.startswith("encoder."))
        pieces, self.pieces = self.pieces, None
        if pieces is None or not trained:  # a temperature over frozen networks, say, needs none of them again
            self._backward(output.loss, boundary=last)
        else:
            self._in_pieces(pieces, output, last)
        self.outputs.append(output.detached())

    def _in_pieces(self, pieces: Pieces, output: StepOutput, last: bool) -> None:
        leaves = [each.q for each in pieces.embeddings.values()]
        gradients = torch.autograd.grad(output.loss, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        # The loss's own gradients (a temperature's) go with a piece: the loss is computed once more, of embeddings that
        # pass nothing on. Stages 2 and 3 take a parameter's gradient from a step's first backward pass on, and bring it
        # to the host in the last one; stage 1 with overlapped exchanges takes it in the last.
        last_piece = len(pieces.slices)
        own = {last_piece} if self.stage < 2 else {1, last_piece} if self.offload else {1}
        fixed = {name: each.detached() for name, each in pieces.embeddings.items()}
        learned = any(p.requires_grad for term in self.objective.terms.values() for p in term.parameters())
        for number, (views, loss_of) in enumerate(pieces.again(), start=1):
            loss = loss_of(self._run(self.objective.encoder.queries, views))
            if number in own and learned:
                loss = loss + self._within(lambda: self.objective.contrast(fixed)).loss / len(own)
            self._backward(loss, boundary=last and number == last_piece)

    def _backward(self, loss: Tensor, boundary: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(boundary)
        self.engine.backward(loss)

    def _run(self, network: Callable[[Views], T], views: Views) -> T:
        views = views.made().to(self.device, self.format)
        return self._within(lambda: network(views))

    def _within(self, act: Callable[[], T]) -> T:
        """`act` inside DeepSpeed's forward pass, which gathers parameters where they are wanted."""

        def under_autocast() -> T:  # DeepSpeed turns one around it off, and its own reduces gradients in bfloat16
            with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
                return act()

        return self.engine(under_autocast)

    def step(self, step: Step) -> StepOutput | None:
        """Steps the optimizer when `accumulate` batches are in.

        Raises:
            NumericError: on all ranks, where the loss of any is not finite; nothing was changed.
            Overflow: on all ranks, where a gradient is not; the same, and another batch may follow.
        """
        if len(self.outputs) < self.accumulate:
            self.engine.step()
            return None
        output, self.outputs = StepOutput.joined(self.outputs), []
        loss = mean_over_ranks(output.loss)
        if self.stage == 0:  # which would step
            grads = [p.grad for group in self.groups for _, p in group if p.grad is not None]
            finite = torch.isfinite(loss + torch.nn.utils.get_total_norm(grads))
        else:
            finite = torch.isfinite(loss)
        if finite:
            set_rates(self.optimizer.param_groups, self.lr, self.schedule, step)
            self.engine.step()
        elif self.stage == 0:  # from stage 1 on DeepSpeed drops what it does not apply
            self.engine.zero_grad()
        if not finite or not self.engine.was_step_applied():
            raise (Overflow if torch.isfinite(loss) else NumericError)(
                f"Step {step.index + 1}: the loss ({output.loss.item():g} on rank {rank()}) or a gradient is not "
                "finite on some rank. The weights were not changed. Lower the learning rate or raise the temperature, "
                "and look at the input."
            )
        return output

    def weights(self) -> dict[str, Tensor]:
        """The objective's state, whole tensors; empty on all ranks but 0. One at a time is gathered."""
        deepspeed = deepspeed_settings.deepspeed()
        state = {}
        for name, value in self.objective.state_dict(keep_vars=True).items():
            with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
                if rank() == 0:
                    state[name] = value.detach().cpu().clone()
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's state, whole tensors by parameter name, as `LocalEngine`'s; empty on all ranks but 0."""
        return optimizer_state.collect(self.optimizer, self.groups)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The reverse; every rank is given all of it, and keeps its share."""
        optimizer_state.distribute(self.optimizer, self.groups, state)


class _Around(nn.Module):
    """What DeepSpeed runs: the objective, however it is to be called."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def forward(self, act: Callable[[], T]) -> T:
        return act()
