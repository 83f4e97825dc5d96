"""The few collective operations the components need. On one process each is the identity."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import Tensor


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(rows: Tensor) -> Tensor:
    """Rows of all ranks, in rank order: `n ... -> (w n) ...`.

    The backward pass sums over ranks. Together with losses that are means over local rows and data
    parallelism that averages ranks, that is the exact gradient of the mean over all rows. Every rank must
    hold the same number of rows.
    """
    if world_size() == 1:
        return rows
    if rows.requires_grad:
        return torch.cat(torch.distributed.nn.functional.all_gather(rows))
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a statistic over the ranks, without gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
