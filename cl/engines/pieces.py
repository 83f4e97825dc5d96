"""A large batch through networks that hold a piece of it: encoded, contrasted as a whole, and encoded again."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from cl.components import Encoder
from cl.encoders.recomputed import buffers_kept
from cl.types import Embeddings, Views

Encode = Callable[[Views], dict[str, Embeddings]]


class Pieces:
    """The embeddings of a batch as leaves, and the networks' gradients from theirs (GradCache, Gao et al. 2021).

    A loss sees embeddings only. So these are made without gradient, piece by piece; the loss of all of them gives
    each its gradient; and a second pass over the pieces carries those into the networks. What is in memory is one piece
    and all embeddings. Keys without gradient are encoded once, in their own order. Views are made where they are
    wanted: those that only keys are made of not for the queries, nor the other way.

    Both passes draw the same random numbers. The first leaves no trace in the buffers of what it runs again: running
    statistics move as if there were one pass.

    Args:
        encoder: in train mode.
        views: the batch, its views made or not.
        size: largest piece, in samples; pieces are as equal as can be.
        encode: runs the encoder's `queries` or `keys`, handed over, on views: makes them, and where they belong.

    Attributes:
        embeddings: of the whole batch; those of queries are leaves.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        size: int,
        encode: Callable[[Encode, Views], dict[str, Embeddings]],
    ):
        self.encoder = encoder
        self.b = len(views.sample)
        count = math.ceil(self.b / size)
        self.slices = [slice(self.b * i // count, self.b * (i + 1) // count) for i in range(count)]
        layouts = [encoder.layout(name) for name in encoder.embeddings]
        self.views = _of(views, [queries for queries, _ in layouts])
        self.key_views = _of(views, [keys for _, keys in layouts if keys is not None])
        self.states: list[list[Tensor]] = []
        self.embeddings = self._first(encode)

    @torch.no_grad()
    def _first(self, encode: Callable[[Encode, Views], dict[str, Embeddings]]) -> dict[str, Embeddings]:
        encoded = []
        with buffers_kept(self.encoder) if isinstance(self.encoder, nn.Module) else nullcontext():
            for piece in self.slices:
                self.states.append(_random_state())
                encoded.append(encode(self.encoder.queries, self.views.part(piece)))
        queries = {name: Embeddings.joined([part[name] for part in encoded]) for name in encoded[0]}
        for found in queries.values():
            found.q.requires_grad_()
        if not self.key_views.numbers:
            return queries
        order = self.encoder.key_order(self.b)
        mixed = self.key_views if order is None else self.key_views.shuffled(order)
        parts = [encode(self.encoder.keys, mixed.part(piece)) for piece in self.slices]
        return {
            name: found.with_keys(Embeddings.joined([part[name] for part in parts]), order)
            for name, found in queries.items()
        }

    def again(self) -> Iterator[tuple[Views, Callable[[dict[str, Embeddings]], Tensor]]]:
        """Once the embeddings have their gradients: every piece's views, and what makes a loss of its embeddings.

        That loss has the networks' gradients of the whole batch's. It is to be encoded and carried back between this
        piece and the next, while the random numbers are those of the first pass.
        """
        after = _random_state()
        for piece, state in zip(self.slices, self.states, strict=True):
            _set_random_state(state)
            yield self.views.part(piece), partial(self._weighed, piece)
        _set_random_state(after)

    def _weighed(self, piece: slice, encoded: dict[str, Embeddings]) -> Tensor:
        total = torch.zeros((), device=next(iter(encoded.values())).q.device)
        for name, found in self.embeddings.items():
            if found.q.grad is not None:
                total = total + (encoded[name].q * _rows_of(found.q.grad, piece, len(found.q_views))).sum()
        return total


def smallest_piece(b: int, size: int | None) -> int:
    """Samples of the smallest piece of a batch of b."""
    return b if size is None else b // math.ceil(b / size)


def _of(views: Views, layouts: list[tuple[int, ...]]) -> Views:
    return views.select(sorted({number for layout in layouts for number in layout}))


def _rows_of(rows: Tensor, piece: slice, views: int) -> Tensor:
    return rearrange(rows, "(v b) d -> v b d", v=views)[:, piece].flatten(0, 1)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
