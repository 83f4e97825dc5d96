"""Heads that queries pass through and keys do not."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cl.encoders.mlp import MLP
from cl.encoders.towers import Rows, Towers


class Predictors(nn.ModuleDict):
    """By embedding, `n d` to `n d`, before normalisation; an embedding without one stays as it is.

    Raises:
        ValueError: one is for an embedding that the encoder does not make, or has other widths than it.
    """

    def __init__(self, predictors: Mapping[str, nn.Module] | None, encoder: Towers):
        super().__init__(predictors or {})
        for name, predictor in self.items():
            if name not in encoder.embeddings:
                raise ValueError(
                    f"predictors names {name!r}; the encoder's embeddings are {sorted(encoder.embeddings)}"
                )
            width = encoder.width(name)
            known = width is not None and isinstance(predictor, MLP | nn.Linear)
            if known and (predictor.in_features, predictor.out_features) != (width, width):
                raise ValueError(
                    f"predictor {name!r} maps {predictor.in_features} to {predictor.out_features} features, and the "
                    f"embedding it predicts has {width}"
                )

    def predicted(self, name: str, rows: Rows, joint: bool) -> Tensor:
        """Rows `m d` of an embedding, predicted: all views as one batch where `joint`, or one by one."""
        if name not in self:
            return rows.z
        blocks: Iterable[Tensor] = [rows.z] if joint else rows.z.chunk(len(rows.views))
        return torch.cat([self[name](block) for block in blocks])
