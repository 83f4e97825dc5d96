"""A slowly moving copy makes the keys."""

import copy
from collections.abc import Sequence

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.components import Capability
from cl.encoders.mlp import MLP
from cl.encoders.towers import Rows, Towers
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
        shuffle_keys: run the copy on a random permutation of the batch and put its rows back in order, so that
            `SplitBatchNorm` gives a sample's key and query different company (MoCo section 3.3).
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
        for name, predictor in (predictors or {}).items():
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
        for view in (*(query_views or ()), *(key_views or ())):
            if view not in encoder.views:
                raise ValueError(f"view {view} has no route; the encoder's views are {sorted(encoder.views)}")
        self.online = encoder
        self.target = copy.deepcopy(encoder).float().requires_grad_(False)
        self.predictors = nn.ModuleDict(predictors or {})
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
        queries = self.online.rows(_chosen(views, self.query_views))
        keys = self._keys(_chosen(views, self.key_views))
        return {
            name: Embeddings(
                q=self.online.finish(self._predicted(name, rows)),
                q_ids=rows.ids,
                q_views=rows.views,
                k=self.target.finish(keys[name].z),
                k_ids=keys[name].ids,
                k_views=keys[name].views,
            )
            for name, rows in queries.items()
        }

    def _predicted(self, name: str, rows: Rows) -> Float[Tensor, "m d"]:
        if name not in self.predictors:
            return rows.z
        blocks = [rows.z] if self.online.joint else rows.z.chunk(len(rows.views))
        return torch.cat([self.predictors[name](block) for block in blocks])

    @torch.no_grad()
    def _keys(self, views: Views) -> dict[str, Rows]:
        if not self.shuffle_keys:
            return self.target.rows(views)
        order = torch.randperm(len(views.sample)).to(views.sample.device)
        back = order.argsort()
        mixed = Views(
            crops=tuple(crop[order] for crop in views.crops),
            numbers=views.numbers,
            group=views.group[order],
            sample=views.sample[order],
        )
        b = len(order)
        return {
            name: Rows(
                z=torch.cat([block[back] for block in rows.z.split(b)]),
                ids=torch.cat([block[back] for block in rows.ids.split(b)]),
                views=rows.views,
            )
            for name, rows in self.target.rows(mixed).items()
        }

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
