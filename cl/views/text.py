"""Captions to token ids."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import gin
import torch
from jaxtyping import Int64
from torch import Tensor

from cl.components import Capability
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
    """The view that is the caption's tokens. Captions are tokenised once, and kept.

    Args:
        tokenizer: shared settings with the text trunk: its context and vocabulary.
    """

    needs: frozenset[Capability] = frozenset({"captions"})

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def prepare(self, samples: Samples) -> Tensor:
        """All captions' token ids, each distinct caption once."""
        distinct = sorted(set(samples.captions))
        row = {caption: index for index, caption in enumerate(distinct)}
        return self.tokenizer(distinct)[torch.tensor([row[caption] for caption in samples.captions])]

    def one(self, sample: Sample) -> Tensor:
        """One caption's token ids."""
        return self.tokenizer([sample.caption])[0]

    def __call__(self, rows: Tensor, sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int) -> Tensor:
        """Nothing is random about a text."""
        return rows
