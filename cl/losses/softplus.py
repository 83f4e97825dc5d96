"""The sum of softplus over all pairs of rows, a tile of the logits at a time."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cl.losses.tiles import Across, Pairs, Plan, Products, Tiles, refuse_second


def softplus_sum(
    q: Float[Tensor, "m d"],
    k: Float[Tensor, "n d"],
    bias: Float[Tensor, "1"],
    apart: Pairs,
    positive: Pairs,
    tile: int = 512,
    products: Products = "float32",
) -> Float[Tensor, ""]:
    """Sum over pairs that meet of softplus(s), of positives softplus(-s), where s = q . k + bias.

    Gradients are gathered in the forward pass, those that are wanted: nothing is multiplied twice.

    Args:
        q: query rows.
        k: key rows.
        bias: added to every logit.
        apart: which pairs never meet.
        positive: which pairs are positives, and maybe pairs that never meet.
        tile: as in `logsumexp`.
        products: as in `logsumexp`.
    """
    return _Sum.apply(q, k, bias, apart, positive, tile, products)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, bias: Tensor, apart: Pairs, positive: Pairs, tile: int, products: Products
    ) -> Tensor:
        plan = Plan(q, k, apart, tile, products, positive=positive)
        tiles = Tiles(q, k, plan)
        wanted = ctx.needs_input_grad[:3]
        dq = torch.zeros_like(q) if wanted[0] else None
        dk = Across(tiles, tiles.q) if wanted[1] else None
        dbias = torch.zeros_like(bias) if wanted[2] else None
        total = bias.new_zeros((), dtype=torch.float64)
        beside = q.new_empty(min(len(q), tile) * min(len(k), tile))
        for part in tiles:
            s = part.values.add_(bias)
            if part.positive is not None:
                turned = -s[part.positive]
                s[part.positive] = turned.masked_fill(turned == torch.inf, -torch.inf)  # those never meet
            total += _softplus(s, beside[: s.numel()].view(s.shape))
            if any(wanted):
                w = s.sigmoid_()
                if part.positive is not None:
                    w[part.positive] = -w[part.positive]
                if dq is not None:
                    tiles.accumulate(dq[part.rows], w, tiles.k[part.keys])
                if dk is not None:
                    dk.add(part, w)
                if dbias is not None:
                    dbias += w.sum(dtype=tiles.dtype)
        found = dq, None if dk is None else dk.sum(), dbias
        if not math.isfinite(plan.largest):  # such a row may look like a perfect match
            for each in (total, *found):
                if each is not None:
                    each.fill_(torch.nan)
        ctx.save_for_backward(*found)
        return total.to(tiles.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second()
        (g,) = grads
        found = (None if gathered is None else g * gathered for gathered in ctx.saved_tensors)
        return *found, None, None, None, None


def _softplus(s: Tensor, beside: Tensor) -> Tensor:
    """Sum of softplus(s) = relu(s) + log(1 + e), where e = exp(-|s|), with one logarithm for up to 64 pairs.

    The logarithm is what takes the time. Of factors 1 + a and 1 + b the product is 1 + (a + b + a b), where nothing
    cancels; of 64, each at most 2, it is at most 2^64. `beside` is as large as s, and overwritten.
    """
    s = s.to(beside.dtype)
    total = torch.clamp(s, min=0, out=beside).sum()
    e = torch.abs(s, out=beside).neg_().exp_()
    for _ in range(6):
        half = (e.shape[1] + 1) // 2
        e, b = e[:, :half], e[:, half:]
        a = e[:, : b.shape[1]]
        a += b.addcmul_(a, b)
    return total + e.log1p_().sum(dtype=torch.float64)
