"""Log-sum-exps of inner products, a tile of the `m n` logits at a time.

A tile is multiplied, exponentiated, summed and forgotten, and multiplied again in the backward pass: memory is
O((m + n) d) for any number of rows. Only the first tiles, some 16 MB, are kept for it, which spares small batches the
second product. Where the keys need no gradient nothing is computed twice, because the queries' gradient, the
softmax-weighted mean of the keys, is gathered along with the sums.

These are functions of plain rows. Scale the queries before (rows that meet themselves by the root of the scale), and
autograd gives a learned temperature its exact gradient. Within, logits, logarithms and powers are to the base of two.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cl.losses.tiles import Across, Pairs, Plan, Products, Tile, Tiles, refuse_second

LN2 = math.log(2)

ROWS = 32
"""Columns of a tile are summed within groups of so many rows first: each thread then reads the rows that it wrote, and
not what lies in another core's cache."""


def logsumexp(
    q: Float[Tensor, "m d"], k: Float[Tensor, "n d"], apart: Pairs, tile: int = 512, products: Products = "float32"
) -> Float[Tensor, "m"]:
    """log sum_j exp(q_i . k_j) of every row i over the keys it meets; -inf where it meets none.

    Args:
        q: query rows.
        k: key rows.
        apart: which pairs never meet.
        tile: rows and keys of a tile. 512, a float32 MB, suits a CPU's cache; a GPU wants more.
        products: precision of the matrix products; sums are float32 either way. Rows are rounded to bfloat16, to 8
            bits, so that a logit is off by up to |q| |k| / 128, the other way for other keys unless they are alike.
            Where the device has such products, logits and what is multiplied in the backward pass are rounded too;
            where it has none, the rounded rows are multiplied as float32.
    """
    return _Rows.apply(q, k, apart, tile, products)  # type: ignore[return-value]


def logsumexp_both_ways(
    q: Float[Tensor, "m d"], k: Float[Tensor, "n d"], apart: Pairs, tile: int = 512, products: Products = "float32"
) -> tuple[Float[Tensor, "m"], Float[Tensor, "n"]]:
    """Of every row over the keys, and of every key over the rows, from one product."""
    return _BothWays.apply(q, k, apart, tile, products)  # type: ignore[return-value]


def logsumexp_itself(
    z: Float[Tensor, "m d"], apart: Pairs, tile: int = 512, products: Products = "float32"
) -> Float[Tensor, "m"]:
    """Of rows that are their own keys, from the upper triangle of the product. Pairs must be apart both ways."""
    return _Itself.apply(z, apart, tile, products)  # type: ignore[return-value]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, apart: Pairs, tile: int, products: Products) -> Tensor:
        ctx.frozen = not ctx.needs_input_grad[1]
        plan = Plan(q, k, apart, tile, products, powers=True, again=not ctx.frozen)
        tiles = Tiles(q, k, plan)
        sums = _Sums(len(q), tiles, weigh=ctx.frozen and ctx.needs_input_grad[0])
        for part in tiles:
            sums.add(part)
        lse = sums.log2()
        ctx.plan = plan
        if ctx.frozen:
            ctx.save_for_backward(sums.weighted, sums.total)
        else:
            ctx.save_for_backward(q, k, lse)
        return LN2 * lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second()
        (g,) = grads
        if ctx.frozen:
            weighted, total = ctx.saved_tensors
            share = g / total.masked_fill(total == 0, torch.inf)
            return weighted * share[:, None], None, None, None, None
        q, k, lse = ctx.saved_tensors
        tiles = Tiles(q, k, ctx.plan)
        shift, u = _weights(tiles, lse, g)
        dq = torch.zeros_like(q) if ctx.needs_input_grad[0] else None
        dk = Across(tiles, tiles.cast(u[:, None] * q))
        for part in tiles:
            e = part.values if shift is None else part.values.sub_(shift[part.rows, None]).exp2_()
            if dq is not None:
                tiles.accumulate(dq[part.rows], e, tiles.k[part.keys])
            dk.add(part, e)
        return None if dq is None else dq.mul_(u[:, None]), dk.sum(), None, None, None


class _BothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, apart: Pairs, tile: int, products: Products) -> tuple[Tensor, Tensor]:
        plan = Plan(q, k, apart, tile, products, powers=True, again=any(ctx.needs_input_grad))
        tiles = Tiles(q, k, plan)
        sums = _Sums(len(q), tiles), _Sums(len(k), tiles)
        for part in tiles:
            sums[1].add_across(part)
            sums[0].add(part)
        lse = sums[0].log2(), sums[1].log2()
        ctx.plan = plan
        ctx.save_for_backward(q, k, *lse)
        return LN2 * lse[0], LN2 * lse[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second()
        q, k, *lse = ctx.saved_tensors
        tiles = Tiles(q, k, ctx.plan)
        of_rows, of_keys = (_weights(tiles, each, g) for each, g in zip(lse, grads, strict=True))
        dq, dk = torch.zeros_like(q), Across(tiles, tiles.q)
        for part in tiles:
            w = _weighted(tiles, part, of_rows, of_keys)
            tiles.accumulate(dq[part.rows], w, tiles.k[part.keys])
            dk.add(part, w)
        return dq, dk.sum(), None, None, None


class _Itself(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, apart: Pairs, tile: int, products: Products) -> Tensor:
        again = ctx.needs_input_grad[0]
        plan = Plan(z, z, apart, tile, products, triangle=True, powers=True, again=again)
        tiles = Tiles(z, z, plan)
        sums = _Sums(len(z), tiles)
        for part in tiles:
            if part.rows != part.keys:
                sums.add_across(part)
            sums.add(part)
        lse = sums.log2()
        ctx.plan = plan
        ctx.save_for_backward(z, lse)
        return LN2 * lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second()
        z, lse = ctx.saved_tensors
        tiles = Tiles(z, z, ctx.plan)
        weights = _weights(tiles, lse, grads[0])
        as_rows, as_keys = torch.zeros_like(z), Across(tiles, tiles.q)
        for part in tiles:
            w = _weighted(tiles, part, weights, weights)
            tiles.accumulate(as_rows[part.rows], w, tiles.k[part.keys])
            if part.rows != part.keys:
                as_keys.add(part, w)
        return as_rows.add_(as_keys.sum()), None, None, None


class _Sums:
    """Sums of two to the power of the rows' logits, relative to the largest so far where logits are not bounded.

    With `weigh` also the keys' sums, each by its power.
    """

    def __init__(self, n: int, tiles: Tiles, weigh: bool = False):
        self.tiles = tiles
        self.total = torch.zeros(n, dtype=tiles.dtype, device=tiles.q.device)
        self.top = None if tiles.bounded else torch.full_like(self.total, -torch.inf)
        self.weighted = self.total.new_zeros(n, tiles.q.shape[1]) if weigh else None

    def add(self, part: Tile) -> None:
        """To a tile's rows; overwrites logits."""
        if self.top is not None:
            part.values.sub_(self._raised(self.top, part.rows, part.values.amax(dim=1))[:, None]).exp2_()
        self.total[part.rows].add_(part.values.sum(dim=1, dtype=self.total.dtype))
        if self.weighted is not None:
            self.tiles.accumulate(self.weighted[part.rows], part.values, self.tiles.k[part.keys])

    def add_across(self, part: Tile) -> None:
        """To a tile's keys; without `weigh`."""
        values = part.values
        if self.top is not None:
            values = (values - self._raised(self.top, part.keys, values.amax(dim=0))).exp2_()
        self.total[part.keys].add_(_down(values, self.total.dtype))

    def _raised(self, tops: Tensor, at: slice, top: Tensor) -> Tensor:
        # What logits are relative to from now on.
        top = torch.maximum(tops[at], top)
        finite = top.clamp(min=torch.finfo(top.dtype).min)
        shrink = (tops[at] - finite).exp2()
        tops[at] = top
        self.total[at] *= shrink
        if self.weighted is not None:
            self.weighted[at] *= shrink[:, None]
        return finite

    def log2(self) -> Tensor:
        if not math.isfinite(self.tiles.plan.largest):  # such a row may look like one that never meets the others
            return self.total.fill_(torch.nan)
        return self.total.log2() if self.top is None else self.top + self.total.log2()


def _weighted(
    tiles: Tiles, part: Tile, of_rows: tuple[Tensor | None, Tensor], of_keys: tuple[Tensor | None, Tensor]
) -> Tensor:
    """Derivative of both directions' log-sum-exps by the tile's logits; overwrites it."""
    (row_shift, u), (key_shift, v) = of_rows, of_keys
    u, v = tiles.cast(u[part.rows, None]), tiles.cast(v[part.keys])
    if row_shift is None or key_shift is None:
        return part.values.mul_(u + v)
    other = (part.values - key_shift[part.keys]).exp2_().mul_(v)
    return part.values.sub_(row_shift[part.rows, None]).exp2_().mul_(u).add_(other)


def _down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The columns' sums."""
    whole = len(values) - len(values) % ROWS
    if whole <= ROWS:
        return values.sum(dim=0, dtype=dtype)
    total = values[:whole].unflatten(0, (-1, ROWS)).sum(dim=1, dtype=dtype).sum(dim=0)
    return total if whole == len(values) else total.add_(values[whole:].sum(dim=0, dtype=dtype))


def _weights(tiles: Tiles, lse: Tensor, g: Tensor) -> tuple[Tensor | None, Tensor]:
    """What turns logits into g softmax: (a shift or none, factors); 0 for rows that meet nothing."""
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    return (None, g * (-lse).exp2()) if tiles.bounded else (lse, g)
