"""The mathematics once more, slowly: Python loops in float64, written from the papers and not from the code."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from cl.types import Contrast


def relation(query: Sequence[int], key: Sequence[int], stale: bool, stale_same: str) -> str:
    """What one key is to one query: "positive", "negative" or "never met"."""
    (group, sample, view), (key_group, key_sample, key_view) = query, key
    if sample == key_sample and stale:
        like = "positive" if group == key_group else "negative"
        return {"positive": like, "ignored": "never met", "negative": "negative"}[stale_same]
    if sample == key_sample and view == key_view:
        return "never met"
    return "positive" if group == key_group else "negative"


def matrices(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """`relation` of every pair of query and pool row at once: (they meet, they are positives)."""
    group, sample, view = (contrast.q_ids[:, None] == contrast.pool_ids).unbind(-1)
    stale = torch.zeros(len(contrast.pool), dtype=torch.bool) if contrast.stale is None else contrast.stale
    old = sample & stale
    met = ~(sample & view & ~stale) & ~(old & (contrast.stale_same == "ignored"))
    return met, group & met & ~(old & (contrast.stale_same == "negative"))


def row_loss(positives: list[Tensor], negatives: list[Tensor]) -> Tensor | None:
    """Mean over positives of -log(exp(s_p) / sum over all candidates of exp(s)); None without a positive."""
    if not positives:
        return None
    everything = torch.stack([s.exp() for s in positives + negatives]).sum()
    return torch.stack([-(s.exp() / everything).log() for s in positives]).mean()


def over_rows(
    contrast: Contrast,
    temperature: float | Tensor,
    row: Callable[[list[Tensor], list[Tensor]], Tensor | None],
    lonely: str = "skip",
    turned: bool = True,
) -> Tensor:
    """Mean of `row(logits of positives, logits of negatives)`; None is a row that does not contribute."""
    losses = []
    ids = contrast.q_ids.tolist()
    pool, pool_ids = contrast.pool, contrast.pool_ids.tolist()
    stale = [False] * len(pool_ids) if contrast.stale is None else contrast.stale.tolist()
    for i, query in enumerate(ids):
        found = {"positive": [], "negative": [], "never met": []}
        if contrast.paired is not None:
            found["positive"].append((contrast.q[i] * contrast.paired[i]).sum() / temperature)
        for j, key in enumerate(pool_ids):
            found[relation(query, key, stale[j], contrast.stale_same)].append(
                (contrast.q[i] * pool[j]).sum() / temperature
            )
        losses.append(row(found["positive"], found["negative"]))
    if contrast.both_ways and turned:
        for j, query in enumerate(pool_ids):
            found = {"positive": [], "negative": [], "never met": []}
            for i, key in enumerate(ids):
                found[relation(query, key, False, "ignored")].append((pool[j] * contrast.q[i]).sum() / temperature)
            losses.append(row(found["positive"], found["negative"]))
    there = [loss for loss in losses if loss is not None]
    count = len(losses) if lonely == "count" else max(len(there), 1)
    return torch.stack(there).sum().reshape(()) / count if there else 0 * (contrast.q.sum() + temperature)


def info_nce(contrast: Contrast, temperature: float | Tensor, lonely: str = "skip") -> Tensor:
    """`cl.losses.info_nce.InfoNCE`, row by row and key by key."""
    return over_rows(contrast, temperature, row_loss, lonely)


def leaves(contrast: Contrast) -> tuple[Contrast, list[Tensor]]:
    """The same Contrast over leaf tensors, and those."""
    q = contrast.q.detach().requires_grad_()
    if contrast.pool_is_q:
        return replace(contrast, q=q, pool=q), [q]
    pool = contrast.pool.detach().requires_grad_()
    if contrast.paired is None:
        return replace(contrast, q=q, pool=pool), [q, pool]
    paired = contrast.paired.detach().requires_grad_()
    return replace(contrast, q=q, pool=pool, paired=paired), [q, pool, paired]


def gradients(value: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of the value by each input, zeros by those it does not depend on."""
    return torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)


def agree(ours: Tensor, theirs: Tensor, inputs: Sequence[Tensor]) -> None:
    """Two float64 computations of one loss have the same value and the same gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for mine, expected in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-9)


def counts(contrast: Contrast) -> tuple[list[int], list[int]]:
    """Positives of every query, and of every pool row where it is a query too."""
    ids, pool = contrast.q_ids.tolist(), [] if contrast.pool_ids is None else contrast.pool_ids.tolist()
    stale = [False] * len(pool) if contrast.stale is None else contrast.stale.tolist()
    own = 0 if contrast.paired is None else 1
    of_q = [
        own + sum(relation(q, k, s, contrast.stale_same) == "positive" for k, s in zip(pool, stale, strict=True))
        for q in ids
    ]
    return of_q, [sum(relation(k, q, False, "ignored") == "positive" for q in ids) for k in pool]


KINDS = ("pool", "paired", "queue", "paired and queue", "itself", "both ways")


@st.composite
def contrasts(draw: st.DrawFn, kinds: Sequence[str] = KINDS, least: int = 0) -> Contrast:
    """Float64 Contrasts of every shape a provider makes. Ids collide often.

    A sample has one group of its own, one that it shares, or as captions come and go another each time.
    """
    kind = draw(st.sampled_from(kinds))
    m, n, d = draw(st.integers(1, 6)), draw(st.integers(least, 7)), draw(st.integers(1, 4))
    # Ids from a seed and not one by one: drawn numbers would cluster at their simplest, and few rules would be met.
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    own, shared = torch.arange(4), torch.randint(0, 3, (4,), generator=generator)
    groups = draw(st.sampled_from(["own", "shared", "changing"]))

    def ids(count):
        sample, view = (
            torch.randint(0, 4, (count,), generator=generator),
            torch.randint(0, 2, (count,), generator=generator),
        )
        changing = torch.randint(0, 3, (count,), generator=generator)
        group = {"own": own[sample], "shared": shared[sample], "changing": changing}[groups]
        return torch.stack([group, sample, view], dim=1)

    def rows(count):
        return torch.randn(count, d, generator=generator, dtype=torch.float64)

    q, q_ids = rows(m), ids(m)
    if kind == "itself":
        return Contrast(q, q_ids, pool=q, pool_ids=q_ids, pool_is_q=True)
    pool, pool_ids = rows(n), ids(n)
    if kind == "both ways":
        return Contrast(q, q_ids, pool=pool, pool_ids=pool_ids, both_ways=True)
    paired = rows(m) if "paired" in kind else None
    if "queue" not in kind:
        return Contrast(q, q_ids, paired, pool, pool_ids)
    stale = torch.rand(n, generator=generator) < 0.5
    rule = draw(st.sampled_from(["positive", "ignored", "negative"]))
    return Contrast(q, q_ids, paired, pool, pool_ids, stale=stale, stale_same=rule)
