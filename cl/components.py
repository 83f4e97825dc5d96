"""The five parts a method is made of, as protocols. A method is a gin file that wires them; nothing subclasses these.

    shards -> ViewSource -> Views -> Encoder -> Embeddings -> NegativeProvider -> Contrast -> Loss -> scalar
                                                                                                  |
                                     metrics <- PostStepHook(s) <- optimizer step <- Engine <-----+

Every component that takes part in a training step says what it `provides` and what it `needs`, words of
`Capability`; `cl.rules` compares them before any data is opened.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cl.types import Contrast, Embeddings, StepOutput, Views

if TYPE_CHECKING:
    from cl.objective import Objective

Capability = Literal[
    "momentum",  # a moving-average copy of the encoder makes the keys
    "queue",  # keys of earlier steps
    "keys without gradient",  # the keys are targets, not trained
    "predictor",  # queries pass through a head that keys do not
    "paired",  # every query has its own positive, row by row
    "keys",  # queries meet keys that the encoder makes
    "negatives",  # a query meets keys of other samples
    "negatives of the batch alone",  # all of these are the step's own
    "unit norm",  # rows lie on the unit sphere
    "free length",  # rows are as long as the head makes them
    "centre",  # a moving mean of the keys, which a loss subtracts
    "labels",  # samples carry a label
    "captions",  # samples carry a caption
    "groups of a label",  # samples of one label, and no others, are positives
    "groups of a caption",  # the same of captions
]


@dataclass(frozen=True)
class Place:
    """Where a process stands: its rank among `world`, the device its tensors belong on, and the run's seed."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """An applied optimizer step; `index` counts from 0. Schedules are functions of it.

    Attributes:
        rate: factor on all learning rates, lower once a run was rolled back.
    """

    index: int
    total: int
    rate: float = 1.0


@runtime_checkable
class ViewSource(Protocol):
    """Turns samples into batches of views, for ever, epoch after epoch. Its state is what was consumed.

    Of a batch's rows, which are the same for any number of ranks, rank r of w has r, r + w, r + 2 w ...

    Attributes:
        batch: samples a batch, over all ranks.
        skipped: samples left out so far because they cannot be used, by where they are and why.
    """

    provides: frozenset[Capability]
    needs: frozenset[Capability]
    batch: int
    skipped: Mapping[str, int]

    @property
    def views(self) -> int:
        """How many views a batch has."""
        ...

    def iterate(self, place: Place) -> Iterator[Views]:
        """Batches from the point the state says. A batch never spans epochs."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Encoder(Protocol):
    """Runs networks; the only part that does."""

    provides: frozenset[Capability]

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of what a call returns."""
        ...

    @property
    def views(self) -> frozenset[int]:
        """View numbers that are encoded."""
        ...

    def layout(self, embedding: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """View numbers of an embedding's query rows and key rows, block by block; None: the keys are the queries."""
        ...

    def width(self, embedding: str) -> int | None:
        """d of an embedding; None: its heads do not say."""
        ...

    @property
    def modalities(self) -> int:
        """How many towers make rows of one embedding."""
        ...

    def __call__(self, views: Views) -> dict[str, Embeddings]: ...

    def queries(self, views: Views) -> dict[str, Embeddings]:
        """The call's queries alone."""
        ...

    def keys(self, views: Views) -> dict[str, Embeddings]:
        """The call's keys alone, as the queries of what is returned; empty where the keys are the queries."""
        ...

    def key_order(self, b: int) -> Int64[Tensor, "wb"] | None:
        """The order in which all ranks' samples are to be given to `keys`, drawn anew; None: as they are."""
        ...

    def features(self, x: Tensor, view: int) -> Float[Tensor, "b f"]:
        """Trunk features of inputs that come as view number `view`, from the network that is evaluated."""
        ...

    def embed(self, x: Tensor, view: int) -> Float[Tensor, "b d"]:
        """Embeddings of the same inputs, of the first head or route of that view, without predictor."""
        ...

    def trunks(self) -> dict[str, nn.Module]:
        """What is kept after training: the evaluated network's trunks, by tower."""
        ...


@runtime_checkable
class NegativeProvider(Protocol):
    """Chooses what meets what. Reads; never writes, never runs a network."""

    provides: frozenset[Capability]
    needs: frozenset[Capability]

    def __call__(self, embeddings: Embeddings) -> Sequence[Contrast]: ...


@runtime_checkable
class Loss(Protocol):
    """A number for a Contrast: the mean over its contributing rows. Never communicates; owns the temperature.

    Attributes:
        provides: state of its own that a hook is to move.
        needs: what encoder, views and provider must provide.
        spreads: it is at its worst, not its best, where all rows are one point: no partner need prevent that.
    """

    provides: frozenset[Capability]
    needs: frozenset[Capability]
    spreads: bool

    def __call__(self, contrast: Contrast) -> Float[Tensor, ""]: ...


@runtime_checkable
class OfWidth(Protocol):
    """A provider or a loss with rows of its own, which therefore fits embeddings of one width.

    Attributes:
        dim: d, that width.
    """

    dim: int


@runtime_checkable
class RollsBack(Protocol):
    """A hook that may raise `RollBack`.

    Attributes:
        reach: steps that may have been made since the last at which nothing was wrong; 0: it does not.
    """

    reach: int


@runtime_checkable
class PostStepHook(Protocol):
    """Runs after every applied optimizer step; the only part that writes state. Returns what is worth logging."""

    needs: frozenset[Capability]

    def __call__(self, objective: "Objective", output: StepOutput, step: Step) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def is_ours(kind: Callable[..., Any]) -> bool:
    """Whether a class or function is of `cl`: of a user's own no more is known than its protocol lets on."""
    return kind.__module__.partition(".")[0] == "cl"
