"""An encoder and data sets small enough to compute with by hand."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.components import Encoder
from cl.views.samples import Samples

COLOURS = ("red", "green", "blue")


class InMemory:
    """A data set over given samples that counts how often it is read."""

    provides = frozenset({"labels", "captions"})

    def __init__(self, samples: Samples):
        self.samples = samples
        self.readings = 0

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        self.readings += 1
        for start in range(0, len(self.samples), chunk):
            rows = slice(start, start + chunk)
            yield Samples(
                images=self.samples.images[rows],
                label=self.samples.label[rows],
                captions=self.samples.captions[rows],
                keys=self.samples.keys[rows],
                sample=self.samples.sample[rows],
            )

    def load(self) -> Samples:
        return Samples.concatenate(list(self.read()))


class MeanColour(nn.Module, Encoder):
    """Features are a picture's mean colour, a text's the colours it names. Dropout spoils both in train mode."""

    provides = frozenset({"unit norm"})
    embeddings = frozenset({"colour"})
    views = frozenset({0, 1})
    modalities = 2

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.seen = []

    def features(self, x: Tensor, view: int) -> Tensor:
        self.seen.append((x.shape, x.dtype, view))
        if x.dtype == torch.int64:
            return self.dropout(F.one_hot(x, 4)[..., 1:].sum(dim=1).float())
        return self.dropout(x.mean(dim=(2, 3)))

    def embed(self, x: Tensor, view: int) -> Tensor:
        return F.normalize(self.features(x, view), dim=1)

    def forward(self, views):
        raise NotImplementedError


@pytest.fixture
def encoder() -> MeanColour:
    return MeanColour()


@pytest.fixture
def tokenizer() -> Callable[[Sequence[str]], Tensor]:
    def tokens(texts: Sequence[str]) -> Tensor:
        rows = [[COLOURS.index(word) + 1 if word in COLOURS else 0 for word in (text.split() + [""] * 8)[:8]]
                for text in texts]  # fmt: skip
        return torch.tensor(rows)

    return tokens


@pytest.fixture
def pictures() -> Callable[..., InMemory]:
    """Pictures of noisy colours: `pictures([0, 2])` is a red one and a blue one."""

    def make(label: Sequence[int], captions: Sequence[str] | None = None, side: int = 4, seed: int = 0) -> InMemory:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 60, (len(label), 3, side, side), generator=generator, dtype=torch.uint8)
        for image, colour in zip(images, label, strict=True):
            image[max(colour, 0)] += 150
        captions = [f"a {COLOURS[colour]} square" for colour in label] if captions is None else captions
        return InMemory(
            Samples(
                images=images,
                label=torch.tensor(label),
                captions=tuple((caption,) for caption in captions),
                keys=tuple(f"{seed}/{row}" for row in range(len(label))),
                sample=torch.arange(len(label)) + 1000 * seed,
            )
        )

    return make
