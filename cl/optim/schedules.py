"""Functions of the step: of the learning rate (as a factor), of a momentum (as the value itself)."""

import math
from typing import Protocol, runtime_checkable

import gin

from cl.components import Step


@runtime_checkable
class Schedule(Protocol):
    """A number for every step."""

    def __call__(self, step: Step) -> float: ...


@gin.register
class Constant:
    """The same value at every step."""

    def __init__(self, value: float = 1.0):
        self.value = value

    def __call__(self, step: Step) -> float:
        return self.value


@gin.register
class Cosine:
    """Half a cosine from `start` to `end`, after a linear warm-up from 0 to `start`.

    As a rate: `Cosine(1, 0, warmup=0.1)`. As BYOL's momentum (Grill et al. 2020, section 3.3): `Cosine(0.99, 1)`.

    Args:
        start: value at the end of the warm-up.
        end: value after the last step.
        warmup: fraction of all steps, in [0, 1).
    """

    def __init__(self, start: float = 1.0, end: float = 0.0, warmup: float = 0.0):
        if not 0 <= warmup < 1:
            raise ValueError(f"Cosine.warmup is a fraction of all steps, in [0, 1); got {warmup}")
        self.start = start
        self.end = end
        self.warmup = warmup

    def __call__(self, step: Step) -> float:
        rising = self.warmup * step.total
        if step.index < rising:
            return self.start * (step.index + 1) / (rising + 1)
        done = (step.index - rising) / (step.total - rising)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2
