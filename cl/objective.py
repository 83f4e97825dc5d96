"""An encoder and what is asked of its embeddings."""

import gin
import torch
from torch import nn

from cl.components import Encoder, Loss, NegativeProvider
from cl.types import Embeddings, StepOutput, Views


@gin.register
class Term(nn.Module):
    """One summand of the objective.

    Args:
        provider: what the queries meet.
        loss: a number for each Contrast.
        weight: of the term in the sum.
        embedding: which of the encoder's embeddings it is about.
    """

    provider: NegativeProvider
    loss: Loss

    def __init__(self, provider: NegativeProvider, loss: Loss, weight: float = 1.0, embedding: str = "z"):
        super().__init__()
        self.provider = provider
        self.loss = loss
        self.weight = weight
        self.embedding = embedding


@gin.register
class Objective(nn.Module):
    """Views to a loss: one state dict, one `.to()`. The same for every variant.

    Args:
        encoder: makes the embeddings.
        terms: by the name they are logged under.
    """

    encoder: Encoder
    terms: dict[str, Term]  # type: ignore[assignment]

    def __init__(self, encoder: Encoder, terms: dict[str, Term]):
        super().__init__()
        if not terms:
            raise ValueError("Objective.terms is empty: without a term nothing is learned")
        self.encoder = encoder
        self.terms = nn.ModuleDict(terms)  # type: ignore[assignment]

    def forward(self, views: Views) -> StepOutput:
        """The weighted sum of the terms; a term is the mean over all rows of its Contrasts."""
        return self.contrast(self.encoder(views))

    def contrast(self, embeddings: dict[str, Embeddings]) -> StepOutput:
        """The same of embeddings, wherever they come from."""
        losses = {name: self._loss(term, embeddings[term.embedding]) for name, term in self.terms.items()}
        total = torch.stack([self.terms[name].weight * loss for name, loss in losses.items()]).sum()
        return StepOutput(loss=total, losses=losses, embeddings=embeddings)

    @staticmethod
    def _loss(term: Term, embeddings: Embeddings) -> torch.Tensor:
        contrasts = term.provider(embeddings)
        rows = [len(contrast.q) * (2 if contrast.both_ways else 1) for contrast in contrasts]
        losses = [term.loss(contrast) * (n / sum(rows)) for contrast, n in zip(contrasts, rows, strict=True)]
        return torch.stack(losses).sum()
