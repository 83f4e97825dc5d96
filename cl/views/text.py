"""Captions to token ids."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import gin
import torch
from jaxtyping import Int64
from torch import Tensor

from cl.components import Capability
from cl.views.random import uniforms
from cl.views.samples import Sample, Samples


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to token ids of one length."""

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n t"]: ...


@gin.register
class ClipTokenizer:
    """CLIP's byte-level BPE, 49,408 tokens (Radford et al. 2021, 2.4); the vocabulary ships with open_clip_torch.

    A text too long is cut, never its end-of-text token, which is the largest id.

    Args:
        context: token positions.
    """

    def __init__(self, context: int = 77):
        if context < 3:
            raise ValueError(f"ClipTokenizer.context must hold start, one token and end: at least 3, got {context}")
        self.context = context
        self._tokenize = None

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n t"]:
        """Token ids, padded with 0."""
        if self._tokenize is None:
            from open_clip.tokenizer import SimpleTokenizer  # seconds to import, and only pairs need it

            self._tokenize = SimpleTokenizer(context_length=self.context)
        return self._tokenize(list(texts))


@gin.register
class Captions:
    """The view that is a caption's tokens; of a sample's several captions one is drawn every epoch.

    Args:
        tokenizer: shared settings with the text trunk: its context and vocabulary.
    """

    needs: frozenset[Capability] = frozenset({"captions"})

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def prepare(self, samples: Samples) -> Tensor:
        """Token ids of all captions, `b captions t`, each distinct one tokenised once; -1 where there are fewer."""
        distinct = sorted({caption for captions in samples.captions for caption in captions})
        row = {caption: index for index, caption in enumerate(distinct)}
        most = max(len(captions) for captions in samples.captions)
        rows = [[row[caption] for caption in captions] for captions in samples.captions]
        tokens = self.tokenizer(distinct)
        nothing = torch.full_like(tokens[:1], -1)
        return torch.cat([tokens, nothing])[torch.tensor([each + [-1] * (most - len(each)) for each in rows])]

    def crops(self, samples: Sequence[Sample], seed: int, epoch: int, view: int) -> Int64[Tensor, "b t"]:
        """Token ids of one caption of each sample."""
        ids = torch.tensor([sample.sample for sample in samples])
        counts = torch.tensor([len(sample.captions) for sample in samples])
        drawn = _drawn(counts, ids, seed, epoch, view).tolist()
        return self.tokenizer([sample.captions[index] for sample, index in zip(samples, drawn, strict=True)])

    def __call__(
        self, rows: Int64[Tensor, "b captions t"], sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int
    ) -> Int64[Tensor, "b t"]:
        """Of each row of `prepare`, one caption."""
        counts = (rows[:, :, 0] >= 0).sum(dim=1)
        return rows[torch.arange(len(rows), device=rows.device), _drawn(counts, sample, seed, epoch, view)]


def _drawn(
    counts: Int64[Tensor, "b"], sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int
) -> Int64[Tensor, "b"]:
    return (uniforms(seed, epoch, sample, view, 1)[:, 0] * counts).long()
