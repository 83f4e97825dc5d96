"""Linear towers and made-up data, for mixes that take milliseconds."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cl.components import Capability
from cl.encoders.tower import Tower
from cl.views.random import uniforms
from cl.views.samples import Samples

WIDTH, FEATURES, SIDE, BATCH, LABELS = 6, 8, 4, 8, 3
TOKENS = 5


def picture_tower() -> Tower:
    """Pictures to rows, linear."""
    return Tower(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, FEATURES)), {"z": nn.Linear(FEATURES, WIDTH)})


def text_tower() -> Tower:
    """Tokens to rows, linear."""
    return Tower(nn.Sequential(nn.Embedding(2**TOKENS, FEATURES), _Mean()), {"z": nn.Linear(FEATURES, WIDTH)})


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class Toys:
    """Made-up pictures with labels and captions."""

    provides: frozenset[Capability] = frozenset({"labels", "captions"})

    def load(self) -> Samples:
        """Twice a batch."""
        n = 2 * BATCH
        generator = torch.Generator().manual_seed(0)
        label = torch.arange(n) % LABELS
        return Samples(
            images=torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
            label=label,
            captions=tuple((f"kind {number}",) for number in label.tolist()),
            keys=tuple(f"toy/{number}" for number in range(n)),
            sample=torch.arange(n) + 1,
        )

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All at once."""
        yield self.load()


class Noise:
    """A picture and noise, another for every view."""

    needs: frozenset[Capability] = frozenset()

    def prepare(self, samples: Samples) -> Tensor:
        """The pictures."""
        return samples.images

    def __call__(self, rows: Tensor, sample: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        noise = uniforms(seed, epoch, sample, view, rows[0].numel()).view(rows.shape)
        return rows.float() / 255 + noise


class Tokens:
    """A few numbers of a sample, as a text has them."""

    needs: frozenset[Capability] = frozenset()

    def prepare(self, samples: Samples) -> Tensor:
        """Binary digits of the sample's number, each a token of its own."""
        places = torch.arange(TOKENS)
        return 2 * places + (samples.sample[:, None] >> places) % 2

    def __call__(self, rows: Tensor, sample: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        return rows
