"""Losses to race: ours, plain PyTorch, other libraries' and the matrix products that none can do without.

A contender is built once from (rows, width) and then called for one forward and backward pass. All of one case get the
same rows and compute the same loss up to a factor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.losses.info_nce import InfoNCE
from cl.losses.matmul import keep_freed, matmul, prefers_onednn
from cl.losses.sigmoid import Sigmoid
from cl.losses.tiles import Products
from cl.types import Contrast

TEMPERATURE = 0.1
BIAS = -10.0
CLASSES = 100
QUERIES = 256

Pass = Callable[[], Sequence[Tensor]]
"""Returns the loss and the rows' gradients; bare products return nothing."""

Contender = Callable[[int, int], Pass]


def _rows(n: int, d: int, seed: int) -> Tensor:
    rows = F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)
    return rows.requires_grad_()


def _passes(loss: Callable[[], Tensor], *leaves: Tensor) -> Pass:
    def run() -> Sequence[Tensor]:
        value = loss()
        return value.detach(), *torch.autograd.grad(value, leaves)

    return run


def _labels(n: int) -> Tensor:
    return torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(1))


def _products(m: int, n: int, d: int, times: int) -> Pass:
    q, k = _rows(m, d, 0).detach(), _rows(n, d, 1).detach()
    # In tiles that stay in the cache: a whole product of many rows is bound by memory and slower.
    tile, onednn = torch.empty(min(m, 512), min(n, 512)), prefers_onednn(q)
    keep_freed()

    def run() -> Sequence[Tensor]:
        for _ in range(times):
            for rows in q.split(512):
                for keys in k.split(512):
                    if onednn:
                        matmul(rows, keys.T)
                    else:
                        torch.mm(rows, keys.T, out=tile[: len(rows), : len(keys)])
        return ()

    return run


# SimCLR: n rows, two views of n / 2 samples.


def _simclr_ours(products: Products) -> Contender:
    def build(n: int, d: int) -> Pass:
        z0, z1, loss = _rows(n // 2, d, 0), _rows(n // 2, d, 1), InfoNCE(TEMPERATURE, products=products)
        return _passes(lambda: loss(Contrast.pairs(z0, z1)), z0, z1)

    return build


def _simclr_plain(n: int, d: int) -> Pass:
    z0, z1 = _rows(n // 2, d, 0), _rows(n // 2, d, 1)
    target = torch.arange(n).roll(n // 2)

    def loss() -> Tensor:
        z = torch.cat([z0, z1])
        return F.cross_entropy((z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf), target)

    return _passes(loss, z0, z1)


def _simclr_lightly(n: int, d: int) -> Pass:
    from lightly.loss import NTXentLoss

    z0, z1, loss = _rows(n // 2, d, 0), _rows(n // 2, d, 1), NTXentLoss(temperature=TEMPERATURE)
    return _passes(lambda: loss(z0, z1), z0, z1)


def _simclr_pml(n: int, d: int) -> Pass:
    from pytorch_metric_learning.losses import NTXentLoss

    z0, z1, loss = _rows(n // 2, d, 0), _rows(n // 2, d, 1), NTXentLoss(temperature=TEMPERATURE)
    label = torch.arange(n // 2).repeat(2)
    return _passes(lambda: loss(torch.cat([z0, z1]), label), z0, z1)


# SupCon: n rows of CLASSES labels.


def _supcon_ours(products: Products) -> Contender:
    def build(n: int, d: int) -> Pass:
        z, label, loss = _rows(n, d, 0), _labels(n), InfoNCE(TEMPERATURE, products=products)
        return _passes(lambda: loss(Contrast.of(z, label)), z)

    return build


def _supcon_plain(n: int, d: int) -> Pass:
    z, label = _rows(n, d, 0), _labels(n)

    def loss() -> Tensor:
        positive = (label[:, None] == label).fill_diagonal_(False)
        log_p = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf).log_softmax(dim=1).masked_fill(~positive, 0)
        return -(log_p.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()

    return _passes(loss, z)


def _supcon_pml(n: int, d: int) -> Pass:
    from pytorch_metric_learning.losses import SupConLoss

    z, label, loss = _rows(n, d, 0), _labels(n), SupConLoss(temperature=TEMPERATURE)
    return _passes(lambda: loss(z, label), z)


# CLIP: n pairs.


def _clip_ours(products: Products) -> Contender:
    def build(n: int, d: int) -> Pass:
        image, text, loss = _rows(n, d, 0), _rows(n, d, 1), InfoNCE(TEMPERATURE, products=products)
        return _passes(lambda: loss(Contrast.pairs(image, text, both_ways=True)), image, text)

    return build


def _clip_plain(n: int, d: int) -> Pass:
    image, text, target = _rows(n, d, 0), _rows(n, d, 1), torch.arange(n)

    def loss() -> Tensor:
        logits = image @ text.T / TEMPERATURE
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return _passes(loss, image, text)


def _clip_open_clip(n: int, d: int) -> Pass:
    from open_clip import ClipLoss

    image, text, loss = _rows(n, d, 0), _rows(n, d, 1), ClipLoss()
    scale = torch.tensor(1 / TEMPERATURE)
    return _passes(lambda: loss(image, text, scale), image, text)


# SigLIP: n pairs.


def _siglip_ours(products: Products) -> Contender:
    def build(n: int, d: int) -> Pass:
        image, text, loss = _rows(n, d, 0), _rows(n, d, 1), Sigmoid(TEMPERATURE, BIAS, products=products)
        return _passes(lambda: loss(Contrast.pairs(image, text, both_ways=True)), image, text)

    return build


def _siglip_plain(n: int, d: int) -> Pass:
    image, text = _rows(n, d, 0), _rows(n, d, 1)

    def loss() -> Tensor:
        sign = 2 * torch.eye(n) - 1
        return -F.logsigmoid(sign * (image @ text.T / TEMPERATURE + BIAS)).sum() / n

    return _passes(loss, image, text)


def _siglip_open_clip(n: int, d: int) -> Pass:
    from open_clip.loss import SigLipLoss

    image, text, loss = _rows(n, d, 0), _rows(n, d, 1), SigLipLoss()
    scale, bias = torch.tensor(1 / TEMPERATURE), torch.tensor(BIAS)
    return _passes(lambda: loss(image, text, scale, bias), image, text)


# MoCo: QUERIES queries, their keys, a queue of n.


def _moco_ours(products: Products) -> Contender:
    def build(n: int, d: int) -> Pass:
        q, k, queue = _rows(QUERIES, d, 0), _rows(QUERIES, d, 1).detach(), _rows(n, d, 2).detach()
        sample = torch.arange(n + QUERIES)
        ids = torch.stack([sample, sample, torch.zeros_like(sample)], dim=1)
        stale, loss = torch.ones(n, dtype=torch.bool), InfoNCE(TEMPERATURE, products=products)
        return _passes(lambda: loss(Contrast(q, ids[:QUERIES], k, queue, ids[QUERIES:], stale)), q)

    return build


def _moco_plain(n: int, d: int) -> Pass:
    q, k, queue = _rows(QUERIES, d, 0), _rows(QUERIES, d, 1).detach(), _rows(n, d, 2).detach()
    target = torch.zeros(QUERIES, dtype=torch.int64)

    def loss() -> Tensor:
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1)
        return F.cross_entropy(logits / TEMPERATURE, target)

    return _passes(loss, q)


def _moco_info_nce(n: int, d: int) -> Pass:
    from info_nce import InfoNCE as Peer

    q, k, queue = _rows(QUERIES, d, 0), _rows(QUERIES, d, 1).detach(), _rows(n, d, 2).detach()
    loss = Peer(temperature=TEMPERATURE)
    return _passes(lambda: loss(q, k, queue), q)


OURS = "cl"
LOW = "cl, bf16 products"
FLOOR = "matrix products"


@dataclass(frozen=True)
class Case:
    """One loss, and who computes it.

    Attributes:
        rows: what is counted along the grid.
        grows: the power of it that a whole matrix of logits grows with.
        contenders: by name; ours and the floor among them.
    """

    rows: str
    grows: int
    contenders: Mapping[str, Contender]


CASES: Mapping[str, Case] = {
    "simclr": Case(
        "rows of both views",
        2,
        {
            OURS: _simclr_ours("float32"),
            LOW: _simclr_ours("bfloat16"),
            "PyTorch": _simclr_plain,
            "lightly": _simclr_lightly,
            "pytorch-metric-learning": _simclr_pml,
            # Half the product, twice, and one of the whole with the rows.
            FLOOR: lambda n, d: _products(n, n, d, 2),
        },
    ),
    "supcon": Case(
        f"rows of {CLASSES} labels",
        2,
        {
            OURS: _supcon_ours("float32"),
            LOW: _supcon_ours("bfloat16"),
            "PyTorch": _supcon_plain,
            "pytorch-metric-learning": _supcon_pml,
            FLOOR: lambda n, d: _products(n, n, d, 2),
        },
    ),
    "clip": Case(
        "pairs",
        2,
        {
            OURS: _clip_ours("float32"),
            LOW: _clip_ours("bfloat16"),
            "PyTorch": _clip_plain,
            "open_clip": _clip_open_clip,
            # The product twice, and one for the gradient of each side.
            FLOOR: lambda n, d: _products(n, n, d, 4),
        },
    ),
    "siglip": Case(
        "pairs",
        2,
        {
            OURS: _siglip_ours("float32"),
            LOW: _siglip_ours("bfloat16"),
            "PyTorch": _siglip_plain,
            "open_clip": _siglip_open_clip,
            # The product once, and one for the gradient of each side.
            FLOOR: lambda n, d: _products(n, n, d, 3),
        },
    ),
    "moco": Case(
        f"keys of the queue, {QUERIES} queries",
        1,
        {
            OURS: _moco_ours("float32"),
            LOW: _moco_ours("bfloat16"),
            "PyTorch": _moco_plain,
            "info-nce-pytorch": _moco_info_nce,
            # The product once, and the queries' gradient.
            FLOOR: lambda n, d: _products(QUERIES, n, d, 2),
        },
    ),
}
