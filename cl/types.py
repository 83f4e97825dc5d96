"""The values that flow from part to part. Data flows one way: Views -> Embeddings -> Contrast -> scalar.

Letters used in every shape annotation of the project:

    b  samples per rank        m  query rows          d  embedding width
    v  views                   n  key rows            w  world size;  B = w b
    c h w  image               t  token positions     f  trunk features

An *id* is three integers, (group, sample, view). Which pairs are positive, which are negative and which never
meet follows from ids alone, so no `m n` mask is ever carried around.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from cl.contrast import Contrast as Contrast
from cl.distributed import gather, rank, world_size


@dataclass(frozen=True, eq=False)
class Pending:
    """A view that is still to be made, so that a large batch need not be in memory all at once.

    Attributes:
        rows: what it is made from, such as uint8 pictures.
        sample: the samples, of which its randomness is a function.
        make: (rows, sample) to the view.
    """

    rows: Tensor
    sample: Int64[Tensor, "b"]
    make: Callable[[Tensor, Tensor], Tensor]

    def __getitem__(self, which: "slice | Tensor") -> "Pending":
        return replace(self, rows=self.rows[which], sample=self.sample[which])

    def gathered(self) -> "Pending":
        """Of all ranks."""
        return replace(self, rows=gather(self.rows), sample=gather(self.sample))

    def made(self) -> Tensor:
        """The view. The same whatever other samples it is made along with."""
        return self.make(self.rows, self.sample)


@dataclass(frozen=True, eq=False)
class Views:
    """One batch as the encoder sees it.

    Attributes:
        crops: one tensor per view: images `b c h w` (float) or token ids `b t` (int64); or what it is to be made from.
        numbers: which view each crop is; it becomes the third column of the ids.
        group: samples of equal group are positives of each other. Its own sample id (self-supervision), a hash of
            the label (SupCon) or of the caption (UniCL).
        sample: a 63-bit hash of (data set, shard, key).
        keys: the samples' names, for messages.
    """

    crops: tuple[Any, ...]
    numbers: tuple[int, ...]
    group: Int64[Tensor, "b"]
    sample: Int64[Tensor, "b"]
    keys: tuple[str, ...] = ()

    def select(self, numbers: Sequence[int]) -> "Views":
        """The same samples, only the views named, in that order."""
        crops = tuple(self.crops[self.numbers.index(number)] for number in numbers)
        return replace(self, crops=crops, numbers=tuple(numbers))

    def part(self, which: "slice | Tensor") -> "Views":
        """Some of the samples, by a slice or by their places."""
        crops, group, sample = tuple(crop[which] for crop in self.crops), self.group[which], self.sample[which]
        places = range(len(self.keys))[which] if isinstance(which, slice) else which.tolist()
        keys = tuple(self.keys[place] for place in places) if self.keys else ()
        return replace(self, crops=crops, group=group, sample=sample, keys=keys)

    def shuffled(self, order: Int64[Tensor, "wb"]) -> "Views":
        """This rank's share of all ranks' samples in `order`."""
        share = order[rank() * len(self.sample) :][: len(self.sample)]
        if world_size() == 1:
            return self.part(share)
        share = share.to(self.sample.device)
        crops = tuple(crop.gathered() if isinstance(crop, Pending) else gather(crop) for crop in self.crops)
        every = replace(self, crops=crops, group=gather(self.group), sample=gather(self.sample), keys=())
        return every.part(share)

    def made(self) -> "Views":
        """The same batch, every view a tensor."""
        return replace(self, crops=tuple(crop.made() if isinstance(crop, Pending) else crop for crop in self.crops))

    def ids(self, number: int) -> Int64[Tensor, "b 3"]:
        """Ids of the rows that view `number` turns into."""
        return torch.stack([self.group, self.sample, torch.full_like(self.sample, number)], dim=1)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> "Views":
        """The same batch on `device`, pictures in `memory_format`."""
        crops = tuple(
            crop.to(device, memory_format=memory_format) if crop.ndim == 4 else crop.to(device) for crop in self.crops
        )
        return replace(self, crops=crops, group=self.group.to(device), sample=self.sample.to(device))


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What an encoder makes of a batch: query rows of float32 at least and, where they differ, key rows.

    Rows come view by view: `q_views` and `k_views` name the views in the order of their blocks of b rows.
    `k = None` says that the keys are the queries (SimCLR, CLIP). Rows are unit-norm unless the encoder was told
    otherwise.
    """

    q: Float[Tensor, "m d"]
    q_ids: Int64[Tensor, "m 3"]
    q_views: tuple[int, ...]
    k: Float[Tensor, "n d"] | None = None
    k_ids: Int64[Tensor, "n 3"] | None = None
    k_views: tuple[int, ...] = ()

    @staticmethod
    def joined(parts: "Sequence[Embeddings]") -> "Embeddings":
        """The rows of several batches of equal views as one, still view by view."""
        first = parts[0]
        q, q_ids = (_joined([getattr(part, name) for part in parts], first.q_views) for name in ("q", "q_ids"))
        if first.k is None:
            return replace(first, q=q, q_ids=q_ids)
        k, k_ids = (_joined([getattr(part, name) for part in parts], first.k_views) for name in ("k", "k_ids"))
        return replace(first, q=q, q_ids=q_ids, k=k, k_ids=k_ids)

    def with_keys(self, keys: "Embeddings", order: Int64[Tensor, "wb"] | None = None) -> "Embeddings":
        """These queries, and as keys the queries of `keys`, whose samples were `Views.shuffled` by `order`."""
        k, ids = keys.q, keys.q_ids
        if order is not None:
            v, w = len(keys.q_views), world_size()
            b = len(ids) // v
            own = order.argsort()[rank() * b :][:b].to(ids.device)
            every = (rearrange(gather(rows), "(w v b) x -> v (w b) x", w=w, v=v) for rows in (k, ids))
            k, ids = (rows[:, own].flatten(0, 1) for rows in every)
        return replace(self, k=k, k_ids=ids, k_views=keys.q_views)

    def detached(self) -> "Embeddings":
        """The same rows without gradient; what was gathered stays gathered."""
        rows = replace(self, q=self.q.detach(), k=None if self.k is None else self.k.detach())
        if "everywhere" in self.__dict__:
            keys, ids = self.everywhere
            rows.__dict__["everywhere"] = keys.detach(), ids
        return rows

    @property
    def keys(self) -> Float[Tensor, "n d"]:
        """Key rows of this rank."""
        return self.q if self.k is None else self.k

    @property
    def key_ids(self) -> Int64[Tensor, "n 3"]:
        """Ids of the key rows of this rank."""
        return self.q_ids if self.k_ids is None else self.k_ids

    @property
    def key_views(self) -> tuple[int, ...]:
        """View numbers of the key rows' blocks."""
        return self.q_views if self.k is None else self.k_views

    @cached_property
    def everywhere(self) -> tuple[Float[Tensor, "wn d"], Int64[Tensor, "wn 3"]]:
        """Key rows and ids of all ranks, gathered once, with gradient. Providers and hooks share this copy."""
        return gather(self.keys), gather(self.key_ids)

    def q_of(self, *views: int) -> tuple[Float[Tensor, "r d"], Int64[Tensor, "r 3"]]:
        """Query rows and ids of the views named, in that order."""
        return _blocks(self.q, self.q_views, views), _blocks(self.q_ids, self.q_views, views)

    def key_of(self, view: int) -> tuple[Float[Tensor, "b d"], Int64[Tensor, "b 3"]]:
        """This rank's key rows and ids of one view."""
        return _blocks(self.keys, self.key_views, (view,)), _blocks(self.key_ids, self.key_views, (view,))

    def key_of_everywhere(self, view: int) -> tuple[Float[Tensor, "wb d"], Int64[Tensor, "wb 3"]]:
        """Key rows and ids of one view from all ranks, in the batch's order: ranks have every w-th row of it."""
        keys, ids = self.everywhere
        block, views = self.key_views.index(view), len(self.key_views)
        every = "(w v b) x -> w v b x"
        w = len(keys) // len(self.keys)
        keys, ids = (rearrange(rows, every, w=w, v=views)[:, block] for rows in (keys, ids))
        return rearrange(keys, "w b d -> (b w) d"), rearrange(ids, "w b i -> (b w) i")


def _joined(parts: list[Tensor], views: tuple[int, ...]) -> Tensor:
    v = len(views)
    return torch.cat([rearrange(rows, "(v b) x -> v b x", v=v) for rows in parts], dim=1).flatten(0, 1)


def _blocks(rows: Tensor, have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
    if want == have:
        return rows
    b = len(rows) // len(have)
    return torch.cat([rows[have.index(view) * b :][:b] for view in want])


@dataclass(frozen=True, eq=False)
class StepOutput:
    """What one step came to: the total loss, and per term its own loss and its embeddings.

    After an applied step it covers all of its micro-batches.
    """

    loss: Float[Tensor, ""]
    losses: dict[str, Float[Tensor, ""]]
    embeddings: dict[str, Embeddings]

    def detached(self) -> "StepOutput":
        """The same without gradient."""
        return StepOutput(
            loss=self.loss.detach(),
            losses={name: loss.detach() for name, loss in self.losses.items()},
            embeddings={name: each.detached() for name, each in self.embeddings.items()},
        )

    @staticmethod
    def joined(outputs: "Sequence[StepOutput]") -> "StepOutput":
        """Several micro-batches' as one: mean losses, all rows."""
        first = outputs[0]
        if len(outputs) == 1:
            return first
        return StepOutput(
            loss=torch.stack([output.loss for output in outputs]).mean(),
            losses={name: torch.stack([output.losses[name] for output in outputs]).mean() for name in first.losses},
            embeddings={
                name: Embeddings.joined([output.embeddings[name] for output in outputs]) for name in first.embeddings
            },
        )
