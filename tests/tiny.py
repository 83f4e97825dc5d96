"""Batches, rows and networks small enough to follow by hand."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.encoders.tower import Tower
from cl.types import Contrast, Embeddings, StepOutput, Views
from cl.views.random import uniforms
from cl.views.samples import Samples

SIDE = 4


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    """Random float32 rows on the unit sphere."""
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    """Random float64 rows, not normalised."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paired(q: Tensor, k: Tensor) -> Contrast:
    """Each query with its own key, and nothing else."""
    return Contrast(q, block(range(len(q)), 0), paired=k)


def block(group: Sequence[int], view: int, first: int = 0) -> Tensor:
    """Ids of one view; samples are numbered from `first`."""
    return torch.tensor([(g, first + sample, view) for sample, g in enumerate(group)], dtype=torch.int64).view(-1, 3)


def embeddings(
    b: int,
    q_views: Sequence[int],
    k_views: Sequence[int] | None = None,
    d: int = 4,
    group: Sequence[int] | None = None,
    first: int = 0,
    seed: int = 0,
    make: Callable[[int, int, int], Tensor] = rows,
) -> Embeddings:
    """Embeddings of b samples; without `k_views` the keys are the queries."""
    group = range(first, first + b) if group is None else group

    def ids(views):
        return torch.cat([block(list(group), view, first) for view in views])

    q, q_ids = make(len(q_views) * b, d, 2 * seed), ids(q_views)
    if k_views is None:
        return Embeddings(q, q_ids, tuple(q_views))
    k = make(len(k_views) * b, d, 2 * seed + 1)
    return Embeddings(q, q_ids, tuple(q_views), k, ids(k_views), tuple(k_views))


def output(**found: Embeddings) -> StepOutput:
    """A step that came to these embeddings."""
    return StepOutput(torch.zeros(()), {}, dict(found))


def pictures(b: int, views: int = 2, seed: int = 0, first: int = 0) -> Views:
    """A batch of random pictures, every sample a group of its own."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.arange(first, first + b)
    return Views(
        crops=tuple(torch.rand(b, 3, SIDE, SIDE, generator=generator) for _ in range(views)),
        numbers=tuple(range(views)),
        group=sample,
        sample=sample,
        keys=tuple(f"shard/{number}" for number in sample.tolist()),
    )


def trunk(f: int = 8, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Pictures to f features; with `norm` the features depend on what it does."""
    layers = [nn.Flatten(), nn.Linear(3 * SIDE * SIDE, f)]
    return nn.Sequential(*layers, *([] if norm is None else [norm(f)]))


def tower(d: int = 4, f: int = 8, norm: Callable[[int], nn.Module] | None = None, **settings) -> Tower:
    """A linear trunk and a linear head called z."""
    return Tower(trunk(f, norm), {"z": nn.Linear(f, d)}, **settings)


class Pictures:
    """A data set of random pictures, two labels and as many captions."""

    provides = frozenset({"labels", "captions"})

    def __init__(self, n: int, labels: int = 2):
        self.n, self.labels = n, labels

    def load(self) -> Samples:
        generator = torch.Generator().manual_seed(self.n)
        label = torch.arange(self.n) % self.labels
        return Samples(
            images=torch.randint(0, 256, (self.n, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
            label=label,
            captions=tuple((f"a picture of kind {number}",) for number in label.tolist()),
            keys=tuple(f"shard/{number}" for number in range(self.n)),
            sample=torch.arange(self.n) + 10**12,
        )

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        yield self.load()


class Noise:
    """The picture, and noise that is a function of (seed, epoch, sample, view)."""

    needs = frozenset()

    def __init__(self, strength: float = 0.3):
        self.strength = strength

    def prepare(self, samples: Samples) -> Tensor:
        return samples.images

    def __call__(self, rows: Tensor, sample: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        noise = uniforms(seed, epoch, sample, view, rows[0].numel()).view(rows.shape)
        return (rows.float() / 255 + self.strength * noise).clamp(max=1)
