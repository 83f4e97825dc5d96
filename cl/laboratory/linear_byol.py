"""BYOL with linear networks, whose collapse can be written down (Tian et al. 2021, arXiv:2102.06810, section 3).

Of a direction of the data, with variance 1 and augmentation noise of variance v, let s = w^2 be the variance of the
embedding and p the predictor's factor. Under a stop-gradient, a target equal to the network and weight decay e, both
flow by

    p' = s (1 - (1 + v) p) - e p        w' = p w (1 - (1 + v) p) - e w        (their equations 11 and 12, s' = 2 w w')

Without a predictor p = 1: w' = -(v + e) w, and w goes to 0.

With one, s - p^2 goes like exp(-2 e t). Without decay it stays what it was, and of the starts with p > 0 those survive,
at p = 1 / (1 + v), whose s - p^2 is above -1 / (1 + v)^2: all with w = p, and not those whose predictor is far ahead.
With decay it goes to 0, and starts with w = p, which keep to it, follow p' = p^2 (1 - (1 + v) p) - e p: below the
smaller root of p (1 - (1 + v) p) = e they collapse, above it they survive at the larger. Decay above 1 / (4 (1 + v))
leaves no root.

Without stop-gradient the target is trained as well, which adds p w - (1 + v) w to w': then w' is at most -(v + e) w
whatever p, and w goes to 0 with a predictor, too (worked out here; the paper proves it in general).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

NOISE = 0.25
"""v."""
STARTS = (0.05, 0.15, 0.25, 0.7, 1.2)
"""Of w, and of p where there is a predictor."""
TIME, RATE = 40.0, 0.02
"""How long a flow is followed, and the time of a step."""
COLLAPSED = 0.03
"""A std of the embedding below which it is a point; what survives does so above 0.2."""
SECTION = """
## BYOL that can be written down

With linear networks BYOL is two numbers a direction of the data, the embedding's std and the predictor's factor (Tian
et al. 2021). This is what becomes of five starts in which both are the same, by their equations, with augmentation
noise of variance {noise:g}; red ones end as a point, and dotted is the start below which they do. The framework's own
parts are held to these flows (tests/collapse/test_linear_byol.py).

![the embedding's std over time, in five regimes]({picture})

"""


class Regime(NamedTuple):
    """A kind of linear BYOL.

    Attributes:
        says: what becomes of it.
        decay: of the weights, e.
        predictor: whether there is one.
        stop_gradient: whether the target is not trained.
        survive: the starts of `STARTS` that do not collapse.
    """

    says: str
    decay: float = 0.0
    predictor: bool = True
    stop_gradient: bool = True
    survive: tuple[float, ...] = ()

    def slopes(self, w: float, p: float) -> tuple[float, float]:
        """w' and p'."""
        excess = 1 - (1 + NOISE) * p
        slope = p * w * excess - self.decay * w
        if not self.stop_gradient:
            slope += (p - (1 + NOISE)) * w
        return slope, w * w * excess - self.decay * p if self.predictor else 0.0

    def flow(self, w: float, p: float, steps: int) -> list[tuple[float, float]]:
        """(w, p) before and after every step of gradient descent, in steps of `RATE`; p is 1 without a predictor."""
        path = [(w, p if self.predictor else 1.0)]
        for _ in range(steps):
            w, p = path[-1]
            slope, turn = self.slopes(w, p)
            path.append((w + RATE * slope, p + RATE * turn))
        return path

    def roots(self) -> tuple[float, float] | None:
        """With predictor and stop-gradient, the p = w below which a start collapses, and at which others survive."""
        inside = 1 - 4 * (1 + NOISE) * self.decay
        if inside < 0 or not (self.predictor and self.stop_gradient):
            return None
        root = math.sqrt(inside)
        return (1 - root) / (2 * (1 + NOISE)), (1 + root) / (2 * (1 + NOISE))


REGIMES = {
    "no predictor": Regime("every start goes to 0, at a rate that is the noise's", predictor=False),
    "no stop-gradient": Regime("every start goes to 0, whatever the predictor does", stop_gradient=False),
    "both, no decay": Regime("collapse is unstable: however small the start, it survives", survive=STARTS),
    "both, decay 0.15": Regime("small starts go to 0, larger ones survive", 0.15, survive=STARTS[2:]),
    "both, decay 0.3": Regime("so much decay leaves nothing to survive at", 0.3),
}


def section(picture: str) -> list[str]:
    """Lines of markdown."""
    lines = SECTION.format(noise=NOISE, picture=picture).splitlines()
    return [*lines, *(f"- {name}: {regime.says}." for name, regime in REGIMES.items())]


def draw(path: Path) -> None:
    """A panel a regime: the embedding's std over time, red where it ends as a point."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(REGIMES), figsize=(2.6 * len(REGIMES), 2.8), sharey=True)
    for axis, (name, regime) in zip(axes, REGIMES.items(), strict=True):
        for start in STARTS:
            _curve(axis, [abs(w) for w, _ in regime.flow(start, start, round(TIME / RATE))])
        if (roots := regime.roots()) and regime.decay:
            axis.axhline(roots[0], linestyle=":", color="gray", linewidth=1.0)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("time")
    axes[0].set_ylabel("std of the embedding")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _curve(axis: Any, stds: Sequence[float]) -> None:
    color = "C3" if stds[-1] < COLLAPSED else "black"
    axis.plot([RATE * step for step in range(len(stds))], stds, color=color, linewidth=1.2)
