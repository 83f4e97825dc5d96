"""The general encoder: which view goes through which tower and head to which embedding."""

from collections.abc import Sequence
from typing import NamedTuple

import gin
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.components import Capability
from cl.encoders.mlp import MLP
from cl.encoders.prototypes import Prototypes
from cl.encoders.tower import Tower
from cl.precision import wide
from cl.types import Embeddings, Views

Route = tuple[int, str, str, str]
"""(view, tower, head, embedding)"""


class Rows(NamedTuple):
    """Rows of one embedding before normalisation, view by view."""

    z: Float[Tensor, "m d"]
    ids: Int64[Tensor, "m 3"]
    views: tuple[int, ...]


@gin.register
class Towers(nn.Module):
    """Runs every view through the towers its routes name. A trunk runs once a view, however many heads use it.

    Args:
        towers: networks by name.
        routes: (view, tower, head, embedding) each. The rows of an embedding come in the routes' order.
        joint: whether views of one tower and shape run as one batch, trunk and heads, so that BatchNorm sees them
            together (SimCLR), or one by one (BYOL, MoCo).
        unit_norm: whether rows are put on the unit sphere; VICReg and Barlow Twins say no.

    Raises:
        ValueError: a route names what is not there, or two heads of one embedding say different `out_features`.
    """

    def __init__(self, towers: dict[str, Tower], routes: Sequence[Route], joint: bool = True, unit_norm: bool = True):
        super().__init__()
        for view, tower, head, _ in routes:
            if tower not in towers or head not in towers[tower].heads:
                have = {name: sorted(each.heads) for name, each in towers.items()}
                raise ValueError(f"route of view {view} names tower {tower!r} with head {head!r}; there are {have}")
        self.towers = nn.ModuleDict(towers)
        self.routes = tuple(routes)
        self.joint = joint
        self.unit_norm = unit_norm
        self.provides: frozenset[Capability] = frozenset({"unit norm" if unit_norm else "free length"})
        for embedding in self.embeddings:
            widths = self._widths(embedding)
            if len(widths) > 1:
                raise ValueError(f"embedding {embedding!r} has rows of widths {sorted(widths)} from different heads")

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of what `forward` returns."""
        return frozenset(embedding for _, _, _, embedding in self.routes)

    def layout(self, embedding: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """View numbers of an embedding's query rows and key rows, block by block; None: the keys are the queries."""
        return tuple(view for view, _, _, name in self.routes if name == embedding), None

    def width(self, embedding: str) -> int | None:
        """d of an embedding; None: its heads do not say."""
        return min(self._widths(embedding), default=None)

    def _widths(self, embedding: str) -> set[int]:
        heads = [_tower(self.towers, tower).heads[head] for _, tower, head, name in self.routes if name == embedding]
        return {head.out_features for head in heads if isinstance(head, MLP | Prototypes | nn.Linear)}

    @property
    def views(self) -> frozenset[int]:
        """View numbers that are encoded."""
        return frozenset(view for view, _, _, _ in self.routes)

    @property
    def modalities(self) -> int:
        """How many towers make rows of one embedding."""
        return max(len({t for _, t, _, e in self.routes if e == embedding}) for _, _, _, embedding in self.routes)

    def forward(self, views: Views) -> dict[str, Embeddings]:
        """Embeddings whose keys are the queries."""
        return {name: Embeddings(self.finish(rows.z), rows.ids, rows.views) for name, rows in self.rows(views).items()}

    def queries(self, views: Views) -> dict[str, Embeddings]:
        """As a call: the keys are the queries."""
        return self(views)

    def keys(self, views: Views) -> dict[str, Embeddings]:
        """None: the keys are the queries."""
        return {}

    def key_order(self, b: int) -> None:
        """None."""
        return None

    def rows(self, views: Views) -> dict[str, Rows]:
        """Rows of every embedding before normalisation; routes of views that are not there are passed over."""
        encoded = self._encoded(views)
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for view, tower, head, embedding in self.routes:
            if view in views.numbers:
                found.setdefault(embedding, []).append((view, encoded[tower, head, view]))
        return {
            name: Rows(
                z=torch.cat([z for _, z in parts]),
                ids=torch.cat([views.ids(view) for view, _ in parts]),
                views=tuple(view for view, _ in parts),
            )
            for name, parts in found.items()
        }

    def finish(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """Float32 rows or wider, on the unit sphere if so asked; a zero row stays zero, with a bounded gradient."""
        z = wide(z)
        return F.normalize(z, dim=1, eps=1e-6) if self.unit_norm else z

    def _encoded(self, views: Views) -> dict[tuple[str, str, int], Tensor]:
        """Rows by (tower, head, view), of the views that are there and have a route."""
        crops = dict(zip(views.numbers, views.crops, strict=True))
        encoded: dict[tuple[str, str, int], Tensor] = {}
        for name in self.towers:
            tower = _tower(self.towers, name)
            heads = {
                head: [v for v in crops if any(r[:3] == (v, name, head) for r in self.routes)] for head in tower.heads
            }
            mine = {view: crop for view, crop in crops.items() if any(view in chosen for chosen in heads.values())}
            for batch in _by_shape(mine) if self.joint else [[view] for view in mine]:
                features = tower(torch.cat([mine[view] for view in batch])).chunk(len(batch))
                for head, chosen in heads.items():
                    here = [view for view in batch if view in chosen]
                    if here:
                        z = tower.heads[head](torch.cat([features[batch.index(view)] for view in here]))
                        encoded |= {
                            (name, head, view): part for view, part in zip(here, z.chunk(len(here)), strict=True)
                        }
        return encoded

    def features(self, x: Tensor, view: int) -> Float[Tensor, "b f"]:
        """Trunk features of inputs that come as view number `view`."""
        tower, _ = self._route(view)
        return self.towers[tower](x)

    def embed(self, x: Tensor, view: int) -> Float[Tensor, "b d"]:
        """Embeddings of the same inputs, of the first route of that view."""
        tower, head = self._route(view)
        return self.finish(_tower(self.towers, tower).heads[head](self.towers[tower](x)))

    def trunks(self) -> dict[str, nn.Module]:
        """The towers' trunks, by tower."""
        return {name: _tower(self.towers, name).trunk for name in self.towers}

    def _route(self, view: int) -> tuple[str, str]:
        for number, tower, head, _ in self.routes:
            if number == view:
                return tower, head
        raise ValueError(f"no route for view {view}; there are {self.routes}")


def _tower(towers: nn.ModuleDict, name: str) -> Tower:
    tower = towers[name]
    assert isinstance(tower, Tower)
    return tower


def _by_shape(crops: dict[int, Tensor]) -> list[list[int]]:
    groups: dict[torch.Size, list[int]] = {}
    for view, crop in crops.items():
        groups.setdefault(crop.shape, []).append(view)
    return list(groups.values())
