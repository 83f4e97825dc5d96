"""Components of a bicycle, on which the rules of configuration are tested, and what reads their configurations."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import gin
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl import wiring
from cl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from shop import Customer, Receipt

BUILT: list[str] = []


class Point(NamedTuple):
    x: int


@dataclass
class Road:
    length: float


@dataclass
class River:
    depth: float


@runtime_checkable
class Rolls(Protocol):
    radius: float

    def roll(self, road: Road) -> float: ...


class Paint(Protocol):
    def __call__(self, part: str) -> str: ...


class Rolling:
    """Wheels share it, and give `radius` in their constructors."""

    def roll(self, road: Road) -> float:
        return road.length


@gin.register
class Tyre:
    def __init__(self, pressure: float = 3.5):
        self.pressure = pressure


@gin.register
class Wheel(Rolling):
    def __init__(self, radius: float, spokes: int = 32, tyre: Tyre | None = None):
        BUILT.append("Wheel")
        if not radius > 0:
            raise ValueError(f"radius must be positive,\ngot {radius}.")
        self.radius, self.spokes, self.tyre = radius, spokes, tyre


@gin.register
class DiscWheel(Rolling):
    def __init__(self, radius: float = 0.3):
        self.radius = radius


@gin.register
class Bell:
    def __init__(self, tone: str = "high"):
        if tone == "broken":
            raise DataError("the bell's sound is missing")
        if tone == "odd":
            raise ValueError("that will not do")
        if tone == "bug":
            raise KeyError("tone")
        self.tone = tone


@gin.register
class Rower:
    """Has the method that a wheel has, for another kind of way."""

    def roll(self, river: River) -> float:
        return river.depth


@gin.register
class Nested:
    def __init__(self, inner: Any = None):
        self.inner = inner


@gin.register
class Painter:
    def __init__(self, colour: str = "red"):
        self.colour = colour

    def __call__(self, part: str) -> str:
        return f"{self.colour} {part}"


@gin.register
class Doubler(nn.Module):
    def forward(self, x: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 2 * x


@gin.register
def stripes(part: str, colour: str = "blue") -> str:
    return f"{colour} stripes on the {part}"


@gin.register
def front_wheel(radius: float) -> Wheel:
    return Wheel(radius)


@gin.register
def wheel_perhaps() -> "Wheel | None":
    return None


@gin.register
def paid(bell: Bell, by: "Customer", price: float = 1.0) -> "Receipt":
    raise NotImplementedError


@gin.register
def whatever(x: int = 0):
    return x


@gin.register("bicycle", module="toy")
class Bicycle:
    def __init__(
        self,
        wheels: Sequence[Rolls],
        bell: Bell | None = None,
        gears: int = 1,
        price: float = 100.0,
        sold: bool = False,
        kind: Literal["city", "race"] = "city",
        ratios: tuple[float, ...] = (1.0,),
        notes: list[str] | None = None,
        lights: Mapping[str, Bell] | None = None,
        paint: Callable[[str], str] | None = None,
        spare: Rolls | None = None,
        anything: Any = None,
        limit: float = math.inf,
        basket: int = None,  # noqa: RUF013
        seed: int = 0,
        machine: torch.device = torch.device("cpu"),  # noqa: B008
    ):
        self.wheels, self.bell, self.paint, self.spare = wheels, bell, paint, spare
        self.given = {"gears": gears, "price": price, "ratios": ratios, "anything": anything, "limit": limit}
        self.seed, self.lights, self.kind, self.notes, self.sold = seed, lights, kind, notes, sold


GOOD = """\
toy.bicycle.wheels = [@front/Wheel(), @back/Wheel()]
Wheel.radius = 0.35
back/Wheel.spokes = 36
"""


def read(*files: Path | str, params: Sequence[str] = ()) -> wiring.Wiring:
    return wiring.read(files, params, imports=[__name__], root="toy.bicycle")


def refusal(*files: Path | str, params: Sequence[str] = ()) -> str:
    """The message with which a configuration is refused: before anything is built, and in one paragraph."""
    BUILT.clear()
    with pytest.raises(ConfigError) as caught:
        read(*files, params=params)
    message = str(caught.value)
    assert BUILT == []
    assert "\n" not in message
    return message


def refused(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
