"""An optimizer's state by parameter name, whole tensors, whatever shares it lies in.

So a checkpoint knows neither the engine nor how many processes wrote it. Under ZeRO torch's optimizer steps one flat
tensor a group, this rank's share of it; its state is flat alike, and a parameter is a stretch of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cl.distributed import rank
from cl.errors import CheckpointError

Groups = Sequence[Sequence[tuple[str, nn.Parameter]]]
"""Parameters by name, in the optimizer's groups."""


def groups_of(optimizer: torch.optim.Optimizer) -> Groups:
    """Those of `cl.optim.rules.parameter_groups`, before DeepSpeed takes the parameters out."""
    return [list(zip(group["names"], group["params"], strict=True)) for group in optimizer.param_groups]


def collect(optimizer: Any, groups: Groups) -> dict[str, Tensor]:
    """The state of torch's optimizer, or of DeepSpeed's around it. A call of all ranks; empty on all but rank 0."""
    torch_optimizer = _innermost(optimizer)
    state = {f"optimizer|{type(torch_optimizer).__name__}": torch.zeros(1)}
    for held in _held(optimizer, groups):
        for key, value in torch_optimizer.state[held.by].items():
            if isinstance(value, Tensor):
                whole = held.gathered(value) if value.ndim else value.clone()
                state |= {f"{held.name}|{key}": whole} if rank() == 0 else {}
    return state if rank() == 0 else {}


def distribute(optimizer: Any, groups: Groups, state: dict[str, Tensor]) -> None:
    """The reverse: every rank is given all of it, and keeps its share.

    Raises:
        CheckpointError: the state is another optimizer's.
    """
    torch_optimizer = _innermost(optimizer)
    kind = type(torch_optimizer).__name__
    if f"optimizer|{kind}" not in state:
        have = next((key.split("|")[1] for key in state if key.startswith("optimizer|")), "another optimizer")
        raise CheckpointError(
            f"The checkpoint holds the state of {have}; this run steps with {kind}. Use the run's own config.gin."
        )
    found: dict[str, dict[str, Tensor]] = {}
    for name_and_key, value in state.items():
        name, key = name_and_key.split("|")
        found.setdefault(name, {})[key] = value
    for held in _held(optimizer, groups):
        mine = torch_optimizer.state[held.by]
        for key, value in found.get(held.name, {}).items():
            if not value.ndim:
                mine[key] = value.to(held.by.device, copy=True)
                continue
            if key not in mine:  # with the strides of what is stepped, which fused optimizers rely on
                mine[key] = torch.zeros_like(held.by, requires_grad=False, dtype=value.dtype)
            held.put(mine[key], value)


class _Held(NamedTuple):
    """A parameter, and what torch's optimizer steps in its stead: itself, or a flat tensor it has a stretch in.

    `stretch` is (start in the parameter, start in the flat tensor, elements).
    """

    name: str
    parameter: Any
    by: Tensor
    stretch: tuple[int, int, int] | None

    def gathered(self, value: Tensor) -> Tensor:
        """A state of all ranks, as long as the parameter, on rank 0."""
        if self.stretch is None:
            return value
        start, flat, count = self.stretch
        shape = getattr(self.parameter, "ds_shape", self.parameter.shape)
        whole = value.new_zeros(shape.numel())
        whole[start : start + count] = value[flat : flat + count]
        dist.reduce(whole, dst=0)
        return whole.view(shape)

    def put(self, value: Tensor, whole: Tensor) -> None:
        """Writes this rank's share of a state."""
        if self.stretch is None:
            value.copy_(whole)
        else:
            start, flat, count = self.stretch
            value[flat : flat + count] = whole.flatten()[start : start + count]


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _held(optimizer: Any, groups: Groups) -> Iterator[_Held]:
    parameter: Any  # DeepSpeed gives it attributes
    for number, group in enumerate(groups):
        for name, parameter in group:
            if hasattr(parameter, "ds_id"):
                place, flat, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start = min(rank() * count, parameter.ds_numel)  # the last share may be longer than what is left
                stretch = start, flat, min(count, parameter.ds_numel - start)
                yield _Held(name, parameter, optimizer.fp32_partitioned_groups_flat[place], stretch)
            elif hasattr(parameter, "_hp_mapping"):
                by, stretch = optimizer.single_partition_of_fp32_groups[number], (0, 0, 0)
                if parameter._hp_mapping is not None:
                    here, there = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
                    stretch = here.start, there.start, here.numel
                yield _Held(name, parameter, by, stretch)
            else:
                yield _Held(name, parameter, parameter, None)
