"""Measures collapse as it happens, and acts on it as it was told to."""

import logging
import math
from typing import Any, Literal

import gin
import torch
from einops import rearrange
from torch import Tensor

from cl.choices import check_choice
from cl.components import Capability, Step
from cl.distributed import gather, mean_over_ranks, of_first, world_size
from cl.errors import NumericError, RollBack
from cl.evaluation.spectrum import alignment, effective_rank, feature_std, spectrum_tail, uniformity
from cl.objective import Objective
from cl.types import Embeddings, StepOutput

logger = logging.getLogger(__name__)

FIGURES = ("feature_std", "effective_rank", "spectrum_tail", "uniformity")

Then = Literal["warn", "stop", "roll back"]

PAIRS_OF = 512
"""Rows whose distances from each other tell the uniformity."""


@gin.register
class CollapseMonitor:
    """How the step's queries, those of all ranks, are spread out, and whether that says "collapsed".

    Only such numbers can tell for methods whose loss looks good when everything has become one point (BYOL). A
    complete collapse shows in all of them, a dimensional one in the rank and the spectrum's tail. The std and the
    uniformity are the worse of pictures' and texts', as two points have a spread; rank and tail are of both together,
    as a few captions have few directions. Of several embeddings each is looked at, and the worst is logged. The rank
    is taken without centring; of no more than d / 2 rows there is no tail, so its threshold is to be asked for, as
    that of the uniformity, which the std's implies. When the default thresholds speak, and of what: `docs/collapse.md`.

    Args:
        every: steps between measurements.
        std_fraction: collapsed where the feature std is below this fraction of 1 / sqrt(d) ...
        min_rank: ... or the effective rank below this ...
        min_tail: ... or the weaker half of the directions have less than this share of the variance ...
        max_uniformity: ... or the uniformity is above this (0 is a point) ...
        patience: ... for this many measurements in a row.
        then: "warn" says so once, "stop" ends the run with exit code 4, "roll back" goes on from the newest checkpoint
            of a time when nothing was wrong, at a lower rate; one is written before the first step.
        rate: factor on the learning rate after rolling back.
        rollbacks: how many there may be before the run ends with exit code 4.
    """

    needs: frozenset[Capability] = frozenset()

    def __init__(
        self,
        every: int = 20,
        std_fraction: float = 0.35,
        min_rank: float = 2.0,
        min_tail: float = 0.0,
        max_uniformity: float = 0.0,
        patience: int = 5,
        then: Then = "warn",
        rate: float = 0.5,
        rollbacks: int = 3,
    ):
        if every < 1 or patience < 1:
            raise ValueError(f"CollapseMonitor.every and .patience must be at least 1, got {every} and {patience}")
        if not 0 < rate <= 1:
            raise ValueError(f"CollapseMonitor.rate is a factor on the learning rate, in (0, 1]; got {rate}")
        if rollbacks < 0:
            raise ValueError(f"CollapseMonitor.rollbacks must be at least 0, got {rollbacks}")
        check_choice(then, Then, "CollapseMonitor.then")
        self.every = every
        self.std_fraction = std_fraction
        self.min_rank = min_rank
        self.min_tail = min_tail
        self.max_uniformity = max_uniformity
        self.patience = patience
        self.then = then
        self.rate = rate
        self.rollbacks = rollbacks
        self.in_a_row = 0
        self.healthy = 0

    @property
    def reach(self) -> int:
        """Steps that may have been made since the last at which nothing was wrong; 0 where it does not roll back."""
        return self.patience * self.every if self.then == "roll back" else 0

    @torch.no_grad()
    def __call__(self, objective: Objective, output: StepOutput, step: Step) -> dict[str, Tensor]:
        """Every `every` steps: the figures of `cl.evaluation.spectrum`, and 'collapsed' (0 or 1).

        The last step's are there whenever it comes, and do not count where it comes early.

        Raises:
            NumericError: it collapsed, and is to stop.
            RollBack: it collapsed, and is to go back.
        """
        if step.index % self.every and step.index + 1 != step.total:
            return {}
        towers = objective.encoder.modalities
        # Ranks of unlike machines round otherwise, and all are to come to one conclusion.
        figures = of_first(torch.stack([_figures(each, towers > 1) for each in output.embeddings.values()]))
        said = (
            self._wrong(dict(zip(FIGURES, found, strict=True)), each.q.shape[1], f" of {name!r}" * (len(figures) > 1))
            for (name, each), found in zip(output.embeddings.items(), figures.tolist(), strict=True)
        )
        wrong = next(filter(None, said), "")
        if step.index % self.every == 0:
            self._count(wrong, step)
        std, rank, tail, even = figures.unbind(dim=1)
        worst = dict(zip(FIGURES, (std.amin(), rank.amin(), tail.amin(), even.amax()), strict=True))
        aligned = _alignment(next(iter(output.embeddings.values())))
        return {**worst, **aligned, "collapsed": torch.tensor(float(self.in_a_row >= self.patience))}

    def _count(self, wrong: str, step: Step) -> None:
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        if not wrong:
            self.healthy = step.index  # the step's embeddings are of the weights before it
        if self.in_a_row == self.patience or (self.in_a_row > self.patience and self.then != "warn"):
            self._act(f"The embeddings collapsed at step {step.index + 1}: {wrong}, {self.patience} times in a row.")

    def _wrong(self, figures: dict[str, float], d: int, where: str) -> str:
        """What lies beyond its threshold, and by how much; empty where nothing does. What is not finite lies beyond."""
        least = {
            "feature_std": self.std_fraction / math.sqrt(d),
            "effective_rank": self.min_rank,
            "spectrum_tail": self.min_tail,
        }
        said = [
            f"{name}{where} {figures[name]:.2g} (below {bound:.2g})"
            for name, bound in least.items()
            if not figures[name] >= bound
        ]
        if not figures["uniformity"] <= self.max_uniformity:
            said.append(f"uniformity{where} {figures['uniformity']:.2g} (above {self.max_uniformity:.2g})")
        return ", ".join(said)

    def _act(self, what: str) -> None:
        if self.then == "warn":
            logger.warning("%s See what prevents collapse in this recipe; CollapseMonitor.then = 'stop' ends it.", what)
        elif self.then == "stop":
            raise NumericError(f"{what} See what prevents it in this recipe; CollapseMonitor.then = 'warn' goes on.")
        else:
            raise RollBack(what, self.healthy, self.rate, self.rollbacks)

    def state_dict(self) -> dict[str, Any]:
        """How many measurements in a row looked collapsed, and the steps made before the last that did not."""
        return {"in_a_row": self.in_a_row, "healthy": self.healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the count."""
        self.in_a_row, self.healthy = state["in_a_row"], state.get("healthy", 0)  # not in the earliest


def _figures(embeddings: Embeddings, apart: bool) -> Tensor:
    """Of all ranks' queries; those that are about spread of each view by itself where they are to be `apart`."""
    q, views = gather(embeddings.q.detach()), len(embeddings.q_views)
    parts = rearrange(q, "(w v b) d -> v (w b) d", w=world_size(), v=views) if apart else [q]
    return torch.stack(
        [
            torch.stack([feature_std(part) for part in parts]).amin(),
            effective_rank(q, centred=False),
            spectrum_tail(q),
            torch.stack([uniformity(part[:PAIRS_OF]) for part in parts]).amax(),
        ]
    )


def _alignment(embeddings: Embeddings) -> dict[str, Tensor]:
    """Of the first query view and the first key view that is another, sample by sample; nothing where there is none."""
    for view in embeddings.key_views:
        if view != embeddings.q_views[0]:
            q, k = embeddings.q_of(embeddings.q_views[0])[0], embeddings.key_of(view)[0]
            return {"alignment": mean_over_ranks(alignment(q, k))}
    return {}
