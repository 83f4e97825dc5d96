"""The products of rows and keys, a tile at a time. What the losses that need no `m n` matrix are built on."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cl.choices import check_choice
from cl.losses.matmul import keep_freed, matmul, prefers_onednn
from cl.precision import has_bfloat16

LOG2E = 1 / math.log(2)

BOUND = 73.0
"""Two to the power of a number of at most this size, a sum of 10^6 of them, and a 10^6th of that sum's inverse are
normal float32 numbers. Unit rows stay below it down to a temperature of 0.02."""

KEPT = 2**22
"""Of a product so many numbers, the first tiles, are kept for the backward pass: 16 MB in float32."""

Products = Literal["float32", "bfloat16"]
"""Of rows as they are, or rounded to bfloat16. Where a device has no products of that, float32's stand in."""

Here = tuple[Tensor, Tensor] | Tensor
"""Which of a tile's pairs: their rows and keys within it, or a mask."""

Split = Callable[[slice], Here | None]
"""Of a slice of the keys, which pairs."""

Pairs = Callable[[slice], tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]] | Callable[[slice], Bool[Tensor, "r c"]]]
"""For a slice of the rows: pairs (row, key), each once; of very many, a function from keys to a mask of that tile."""


class Tile(NamedTuple):
    """A tile of logits or, by a bounded plan, of two to their power, and which of its pairs are positive.

    By a plan that is to come again powers may not be changed the first time. Otherwise a tile may be, and may be in a
    buffer that the next one overwrites.
    """

    rows: slice
    keys: slice
    values: Float[Tensor, "r c"]
    positive: Here | None


class Plan:
    """What the tiles of a product are: made in the forward pass, and kept for the backward pass.

    Args:
        q: rows.
        k: keys.
        apart: which pairs never meet: their logits are -inf.
        tile: rows and keys of a tile.
        products: precision of the products; sums are as wide as the rows.
        triangle: only tiles on and above the diagonal.
        positive: pairs that tiles are to name.
        powers: what is wanted is e to the power of the logits. They are then to the base of two, log2(e) q . k, as
            exp2 took a third of the time of exp (AMD EPYC, torch 2.14).
        again: the tiles are wanted a second time.

    Attributes:
        scale: logits are this times the products.
        largest: by the rows' lengths no logit is larger; not finite where a row is not, or is too long to be squared.
        bounded: tiles are powers, which need no shift: `largest` is at most BOUND.
        kept: the first tiles, once they were made, until they come again.
        room: numbers that may still be kept; 0 from the first time on.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        apart: Pairs,
        tile: int,
        products: Products,
        triangle: bool = False,
        positive: Pairs | None = None,
        powers: bool = False,
        again: bool = False,
    ):
        self.m, self.n = len(q), len(k)
        self.scale = LOG2E if powers else 1.0
        longest = _longest(q)
        self.largest = float(self.scale * longest * (longest if k is q else _longest(k)))
        self.bounded = powers and self.largest <= BOUND
        self.low = products == "bfloat16"
        self.native = self.low and has_bfloat16(q.device)
        self.apart = apart
        self.tile = tile
        self.triangle = triangle
        self.positive = positive
        self.kept: list[Tile] = []
        self.room = KEPT if again and self.bounded else 0

    def places(self, first: int = 0) -> Iterator[tuple[slice, slice, Split, Split]]:
        """Rows and keys of the tiles from `first` on, and of slices of the keys which pairs are apart and positive."""
        for start in range(0, self.m, self.tile):
            rows = slice(start, min(start + self.tile, self.m))
            along = range(start if self.triangle else 0, self.n, self.tile)
            if first >= len(along):
                first -= len(along)
                continue
            apart, positive = self._split(self.apart, rows), self._split(self.positive, rows)
            for key in along[first:]:
                yield rows, slice(key, min(key + self.tile, self.n)), apart, positive
            first = 0

    def _split(self, pairs: Pairs | None, rows: slice) -> Split:
        found = None if pairs is None else pairs(rows)
        if callable(found):
            return found
        if found is None or not len(found[0]):
            return lambda keys: None
        i, j = found
        i = i - rows.start
        if self.n <= self.tile:
            return lambda keys: (i, j)
        j, order = j.sort()
        i = i[order]
        ends = torch.searchsorted(j, torch.arange(0, self.n + self.tile, self.tile, device=j.device)).tolist()

        def split(keys: slice) -> Here | None:
            begin, end = ends[keys.start // self.tile :][:2]
            return (i[begin:end], j[begin:end] - keys.start) if begin < end else None

        return split


class Tiles:
    """The tiles of a product of rows and keys, by a plan."""

    def __init__(self, q: Tensor, k: Tensor, plan: Plan):
        self.plan = plan
        self.bounded = plan.bounded
        self.dtype = q.dtype
        self.q = self.cast(q)
        self.k = self.q if k is q else self.cast(k)
        self.onednn = prefers_onednn(self.q)
        self.scaled = (self.q if plan.scale == 1 else plan.scale * self.q) if self.onednn else None
        if self.onednn:
            keep_freed()
        self.buffer: Tensor | None = None

    def cast(self, rows: Tensor) -> Tensor:
        """Rows as products take them."""
        if not self.plan.low:
            return rows
        return rows.bfloat16() if self.plan.native else rows.bfloat16().to(rows.dtype)

    def __iter__(self) -> Iterator[Tile]:
        plan = self.plan
        room, plan.room = plan.room, 0
        kept, plan.kept = plan.kept, []  # given away: they may be changed now
        yield from kept
        for rows, keys, apart, positive in plan.places(len(kept)):
            size = (rows.stop - rows.start) * (keys.stop - keys.start)
            keep = size <= room
            room = room - size if keep else 0
            values = self._product(rows, keys, keep)
            if (here := apart(keys)) is not None:
                values[here] = -torch.inf
            made = Tile(rows, keys, values.exp2_() if self.bounded else values, positive(keys))
            if keep:
                plan.kept.append(made)
            yield made

    def _product(self, rows: slice, keys: slice, keep: bool) -> Tensor:
        if self.scaled is not None:
            return matmul(self.scaled[rows], self.k[keys].T)
        q, k = self.q[rows], self.k[keys]
        if keep:
            out = q.new_empty(len(q), len(k))
        else:
            if self.buffer is None:
                self.buffer = q.new_empty(min(self.plan.m, self.plan.tile) * min(self.plan.n, self.plan.tile))
            out = self.buffer[: len(q) * len(k)].view(len(q), len(k))
        return torch.addmm(out, q, k.T, beta=0, alpha=self.plan.scale, out=out)

    def accumulate(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """total += a b, a sum of the total's width."""
        if self.onednn:
            total += matmul(a, b)
        elif self.plan.native:
            total += a @ b
        else:
            total.addmm_(a, b)


class Across:
    """The sum over tiles of weights w of w^T rows, a row for each key.

    Where oneDNN multiplies it is made transposed, of (rows^T) w, which took three quarters of the time; by MKL and two
    threads that took longer.
    """

    def __init__(self, tiles: Tiles, rows: Float[Tensor, "m d"]):
        n, d = tiles.plan.n, rows.shape[1]
        self.tiles = tiles
        self.rows = rows.T.contiguous() if tiles.onednn else rows
        self.total = rows.new_zeros((d, n) if tiles.onednn else (n, d), dtype=tiles.dtype)

    def add(self, part: Tile, w: Float[Tensor, "r c"]) -> None:
        """A tile's."""
        if self.tiles.onednn:
            self.tiles.accumulate(self.total[:, part.keys], self.rows[:, part.rows], w)
        else:
            self.tiles.accumulate(self.total[part.keys], w.T, self.rows[part.rows])

    def sum(self) -> Float[Tensor, "n d"]:
        """Of all that were added."""
        return self.total.T.contiguous() if self.tiles.onednn else self.total


def _longest(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.detach(), dim=1).amax() if len(rows) else rows.new_zeros(())


def check_tiles(tile: int, products: Products, loss: str) -> None:
    """ValueError naming the loss's parameter if no plan can be made of them."""
    if tile < 1:
        raise ValueError(f"{loss}.tile must be at least 1, got {tile}")
    check_choice(products, Products, f"{loss}.products")


def refuse_second() -> None:
    """To be called in a backward pass: RuntimeError if it is itself to be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "A loss by tiles has first derivatives only, and was asked for its second (create_graph=True). "
            "Differentiate the loss once."
        )
