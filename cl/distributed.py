"""The few collective operations the components need. On one process each is the identity.

What is small is gathered and added up by each rank: over gloo a sum takes three times as long to arrive (1.8 and 0.6 ms
between two processes of a host), and the order of its additions would depend on the number of processes of a ring.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from cl.board import SLOT, board
from cl.errors import ClError

T = TypeVar("T")


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(rows: Tensor) -> Tensor:
    """Rows of all ranks, in rank order: `n ... -> (w n) ...`.

    The backward pass, where rows have one, is a call of all ranks too, and sums over them. Together with losses that
    are means over local rows and data parallelism that averages ranks, that is the exact gradient of the mean over all
    rows. Every rank must hold the same number of rows.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        shared = board() if rows.device.type == "cpu" and rows.nbytes <= SLOT else None
        if shared is not None:
            return shared.gather(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[reportIncompatibleMethodOverride]
        own = torch.empty_like(grads[0], memory_format=torch.contiguous_format)
        dist.all_to_all_single(own, grads[0].contiguous())
        return own.unflatten(0, (world_size(), -1)).sum(dim=0)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over the ranks, with gradient: that of the mean of the ranks' losses, once ranks are averaged."""
    return value if world_size() == 1 else _Sum.apply(value)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[reportIncompatibleMethodOverride]
        return _Sum.forward(ctx, grads[0])


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a statistic over the ranks, without gradient."""
    if world_size() == 1:
        return value
    return gather(value.detach()[None]).mean(dim=0)


def largest_over_ranks(number: int) -> int:
    """The largest of the ranks' numbers."""
    if world_size() == 1:
        return number
    return int(gather(torch.tensor([number])).max())


def of_first(value: Tensor) -> Tensor:
    """Rank 0's tensor, on all ranks; all have one of that shape."""
    if world_size() > 1:
        dist.broadcast(value, src=0)
    return value


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order: for what is small."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_first(act: Callable[[], T]) -> T:
    """What `act` gives on rank 0, which alone runs it, for all ranks.

    Raises:
        ClError: on all ranks, what it raised.
    """
    if world_size() == 1:
        return act()
    outcome: list[Any] = [None]
    if rank() == 0:
        try:
            outcome = [act()]
        except ClError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], ClError):
        raise outcome[0]
    return outcome[0]


def share(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter: all of it, or under ZeRO-3 a flat part, cut alike for equal shapes."""
    return getattr(parameter, "ds_tensor", parameter)


def share_changed(parameter: Any) -> None:
    """After `share` was written: drops what ZeRO-3 keeps of a small parameter as a whole, to be gathered anew."""
    if hasattr(parameter, "ds_tensor") and parameter.numel():
        parameter.partition()
