"""Activations that are computed twice instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(trunk: nn.Module) -> None:
    """Makes a trunk's blocks keep what goes into them only, and compute the rest again in the backward pass.

    Chen et al. 2016, arXiv:1604.06174. The gradient is the same: random numbers are those of the first time. Running
    statistics move once. A block is an entry of a list of modules that has parts, and no such list within.

    Raises:
        ValueError: there are no blocks.
    """
    blocks = list(_blocks(trunk))
    if not blocks:
        raise ValueError(f"recompute: {type(trunk).__name__} is not made of blocks in a ModuleList or Sequential")
    for block in blocks:
        # An attribute, and not a module around it, which would change the names of the parameters.
        block.forward = partial(_recomputed, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inner = list(_blocks(child))
        yield from inner
        if isinstance(module, nn.ModuleList | nn.Sequential) and not inner and list(child.children()):
            yield child


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    block: nn.Module = forward.__self__  # type: ignore[attr-defined]
    contexts = partial(_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(block: nn.Module):
    return nullcontext(), buffers_kept(block)


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """What is run inside leaves no trace in the buffers."""
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
