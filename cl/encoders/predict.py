"""A network that predicts its own outputs."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.components import Capability
from cl.encoders.predictors import Predictors
from cl.encoders.recomputed import buffers_kept
from cl.encoders.towers import Rows, Towers
from cl.types import Embeddings, Views


@gin.register
class Predict(nn.Module):
    """Keys are the encoder's own rows, queries what the predictor makes of them (SimSiam, Chen & He 2021, algorithm 1).

    One pass through the networks makes both. The keys have no gradient: SimSiam's stop-gradient, without which, and
    without a slow copy, nothing else keeps rows apart.

    Args:
        encoder: what is trained.
        predictors: by embedding, `n d` to `n d`, between queries and their normalisation.
        stop_gradient: False lets the keys have a gradient too, to see what becomes of them.
    """

    def __init__(self, encoder: Towers, predictors: dict[str, nn.Module], stop_gradient: bool = True):
        super().__init__()
        self.online = encoder
        self.predictors = Predictors(predictors, encoder)
        self.stop_gradient = stop_gradient
        added: set[Capability] = {"keys without gradient"} if stop_gradient else set()
        if predictors:
            added.add("predictor")
        self.provides: frozenset[Capability] = encoder.provides | added

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of what `forward` returns."""
        return self.online.embeddings

    def layout(self, embedding: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """View numbers of an embedding's query rows and key rows, block by block."""
        every, _ = self.online.layout(embedding)
        return every, every

    def width(self, embedding: str) -> int | None:
        """d of an embedding; None: its heads do not say."""
        return self.online.width(embedding)

    @property
    def views(self) -> frozenset[int]:
        """View numbers that are encoded."""
        return self.online.views

    @property
    def modalities(self) -> int:
        """How many towers make rows of one embedding."""
        return self.online.modalities

    def forward(self, views: Views) -> dict[str, Embeddings]:
        """Embeddings with predictions as queries and what was predicted from as keys."""
        return {
            name: Embeddings(self._queries(name, rows), rows.ids, rows.views, self._keys(rows), rows.ids, rows.views)
            for name, rows in self.online.rows(views).items()
        }

    def queries(self, views: Views) -> dict[str, Embeddings]:
        """Predicted rows."""
        found = self.online.rows(views)
        return {name: Embeddings(self._queries(name, rows), rows.ids, rows.views) for name, rows in found.items()}

    @torch.no_grad()
    def keys(self, views: Views) -> dict[str, Embeddings]:
        """Rows before the predictor, without gradient. Running statistics stay: the queries move them."""
        with buffers_kept(self):
            found = self.online.rows(views)
        return {name: Embeddings(self._keys(rows), rows.ids, rows.views) for name, rows in found.items()}

    def key_order(self, b: int) -> None:
        """None: keys and queries are of one pass."""
        return None

    def _queries(self, name: str, rows: Rows) -> Float[Tensor, "m d"]:
        return self.online.finish(self.predictors.predicted(name, rows, self.online.joint))

    def _keys(self, rows: Rows) -> Float[Tensor, "m d"]:
        keys = self.online.finish(rows.z)
        return keys.detach() if self.stop_gradient else keys

    def features(self, x: Tensor, view: int) -> Float[Tensor, "b f"]:
        """Trunk features."""
        return self.online.features(x, view)

    def trunks(self) -> dict[str, nn.Module]:
        """The trunks, by tower."""
        return self.online.trunks()

    def embed(self, x: Tensor, view: int) -> Float[Tensor, "b d"]:
        """Embeddings before the predictor."""
        return self.online.embed(x, view)
