"""The last keys, in the order they came."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Ring(nn.Module):
    """The newest `size` rows and their ids. Persistent, alike on all ranks; only `Enqueue` writes it.

    Args:
        size: K, how many rows are kept.
        dim: d, their width; fixed here so that a checkpoint always fits.
    """

    embeddings: Float[Tensor, "k d"]
    ids: Int64[Tensor, "k 3"]
    fill: Int64[Tensor, "1"]
    position: Int64[Tensor, "1"]

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size = size
        self.dim = dim
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("ids", torch.zeros(size, 3, dtype=torch.int64))
        self.register_buffer("fill", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def forward(self) -> tuple[Float[Tensor, "f d"], Int64[Tensor, "f 3"]]:
        """The filled part: rows and ids."""
        filled = int(self.fill)
        return self.embeddings[:filled], self.ids[:filled]

    @torch.no_grad()
    def enqueue(self, rows: Float[Tensor, "n d"], ids: Int64[Tensor, "n 3"]) -> None:
        """Writes rows over the oldest ones; of more than K rows the last K stay."""
        rows, ids = rows[-self.size :], ids[-self.size :]
        slots = (self.position + torch.arange(len(rows), device=rows.device)) % self.size
        self.embeddings[slots] = rows.to(self.embeddings)
        self.ids[slots] = ids
        self.position.add_(len(rows)).remainder_(self.size)
        self.fill.add_(len(rows)).clamp_(max=self.size)


@runtime_checkable
class Remembering(Protocol):
    """A provider that has keys of earlier steps.

    Attributes:
        shorter_than_batch: whether a ring that does not hold a batch's keys of one view was asked for by name.
    """

    ring: Ring
    shorter_than_batch: bool
