"""A slowly moving copy makes the keys."""

import copy
from collections.abc import Sequence

import gin
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.components import Capability
from cl.distributed import of_first, world_size
from cl.encoders.predictors import Predictors
from cl.encoders.towers import Towers
from cl.types import Embeddings, Views


@gin.register
class Momentum(nn.Module):
    """Queries from the encoder, keys without gradient from its copy (MoCo, He et al. 2020; BYOL, Grill et al. 2020).

    The copy is float32, made here, and moved by the `UpdateMomentum` hook alone. Predictors are not copied. The copy's
    BatchNorm runs in train mode with running statistics of its own, as in both references.

    Args:
        encoder: what is trained, and copied.
        predictors: by embedding, `n d` to `n d`, between queries and their normalisation; none: MoCo.
        query_views: views that become queries; None: all.
        key_views: views that become keys; None: all.
        shuffle_keys: run the copy on a random permutation of the batch, that of all ranks, and put its rows back in
            order, so that batch statistics that are a rank's own, or `SplitBatchNorm`, give a sample's key and query
            different company (MoCo section 3.3).
    """

    def __init__(
        self,
        encoder: Towers,
        predictors: dict[str, nn.Module] | None = None,
        query_views: Sequence[int] | None = None,
        key_views: Sequence[int] | None = None,
        shuffle_keys: bool = False,
    ):
        super().__init__()
        for view in (*(query_views or ()), *(key_views or ())):
            if view not in encoder.views:
                raise ValueError(f"view {view} has no route; the encoder's views are {sorted(encoder.views)}")
        self.online = encoder
        self.target = copy.deepcopy(encoder).float().requires_grad_(False)
        self.predictors = Predictors(predictors, encoder)
        self.query_views = query_views
        self.key_views = key_views
        self.shuffle_keys = shuffle_keys
        added: set[Capability] = {"momentum", "keys without gradient"}
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
        queries, keys = (
            tuple(view for view in every if chosen is None or view in chosen)
            for chosen in (self.query_views, self.key_views)
        )
        return queries, keys

    def width(self, embedding: str) -> int | None:
        """d of an embedding; None: its heads do not say."""
        return self.online.width(embedding)

    @property
    def views(self) -> frozenset[int]:
        """View numbers that are encoded."""
        every = self.online.views
        return every & (frozenset(self.query_views or every) | frozenset(self.key_views or every))

    @property
    def modalities(self) -> int:
        """How many towers make rows of one embedding."""
        return self.online.modalities

    def forward(self, views: Views) -> dict[str, Embeddings]:
        """Embeddings with queries from the online network and keys from the copy."""
        queries = self.queries(views)
        order = self.key_order(len(views.sample))
        keys = self.keys(views if order is None else views.shuffled(order))
        return {name: found.with_keys(keys[name], order) for name, found in queries.items()}

    def queries(self, views: Views) -> dict[str, Embeddings]:
        """Predicted rows of the online network."""
        found = self.online.rows(_chosen(views, self.query_views))
        predicted = {name: self.predictors.predicted(name, rows, self.online.joint) for name, rows in found.items()}
        return {
            name: Embeddings(self.online.finish(predicted[name]), rows.ids, rows.views) for name, rows in found.items()
        }

    @torch.no_grad()
    def keys(self, views: Views) -> dict[str, Embeddings]:
        """Rows of the copy, without gradient."""
        found = self.target.rows(_chosen(views, self.key_views))
        return {name: Embeddings(self.target.finish(rows.z), rows.ids, rows.views) for name, rows in found.items()}

    def key_order(self, b: int) -> Int64[Tensor, "wb"] | None:
        """A random permutation of all ranks' samples with `shuffle_keys`, else None."""
        return of_first(torch.randperm(b * world_size())) if self.shuffle_keys else None

    def features(self, x: Tensor, view: int) -> Float[Tensor, "b f"]:
        """Trunk features from the online network."""
        return self.online.features(x, view)

    def trunks(self) -> dict[str, nn.Module]:
        """The online network's trunks, by tower."""
        return self.online.trunks()

    def embed(self, x: Tensor, view: int) -> Float[Tensor, "b d"]:
        """Embeddings from the online network, before the predictor."""
        return self.online.embed(x, view)


def _chosen(views: Views, numbers: Sequence[int] | None) -> Views:
    return views if numbers is None else views.select(numbers)
