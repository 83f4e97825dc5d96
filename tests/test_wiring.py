"""Every rule of the configuration, on a bicycle: components of its own, so that no recipe is needed."""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Optional, Protocol, TypeVar, runtime_checkable

import gin
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from cl import wiring
from cl.errors import ConfigError, DataError
from cl.wiring.components import parameters
from cl.wiring.fits import fits, show
from cl.wiring.values import REQUIRED, Macro, Reference, text

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


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    BUILT.clear()
    yield
    gin.clear_config()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str, name: str = "a.gin") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return write


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


# --- what is right -----------------------------------------------------------------------------------------------


def test_builds_with_scopes(write):
    bicycle = read(write(GOOD)).build()
    assert [type(wheel) for wheel in bicycle.wheels] == [Wheel, Wheel]
    assert bicycle.wheels[0] is not bicycle.wheels[1]
    assert [(wheel.radius, wheel.spokes) for wheel in bicycle.wheels] == [(0.35, 32), (0.35, 36)]


def test_same_reference_twice_is_two_objects(write):
    wheels = read(write("toy.bicycle.wheels = [@DiscWheel(), @DiscWheel()]")).build().wheels
    assert wheels[0] is not wheels[1]


def test_a_scope_reaches_what_is_nested(write):
    content = GOOD + "Wheel.tyre = @Tyre()\nfront/Tyre.pressure = 4.0\nTyre.pressure = 3.0\n"
    wheels = read(write(content)).build().wheels
    assert [wheel.tyre.pressure for wheel in wheels] == [4.0, 3.0]


def test_a_nested_scope_replaces_the_outer_one(write):
    content = "toy.bicycle.wheels = [@front/Wheel()]\nfront/Wheel.radius = 1.0\nfront/Wheel.tyre = @soft/Tyre()\n"
    settings = read(write(content + "soft/Tyre.pressure = 2.0\n"))
    assert "soft/Tyre" in settings.tree()
    assert settings.build().wheels[0].tyre.pressure == 2.0
    refused(refusal(write(content + "front/Tyre.pressure = 2.0\n")), "a.gin:4: `front/Tyre.pressure` has no effect")


def test_macros_blocks_and_comments(write):
    content = "# A comment.\nRADIUS = 0.5\nWheel:\n    radius = %RADIUS  # here too\n    spokes = 8\n"
    bicycle = read(write(content + "toy.bicycle.wheels = [@Wheel()]")).build()
    assert (bicycle.wheels[0].radius, bicycle.wheels[0].spokes) == (0.5, 8)


def test_a_macro_in_a_container(write):
    content = GOOD + "BIG = 3\ntoy.bicycle.ratios = (1, %BIG)\ntoy.bicycle.anything = {'a': [%BIG]}\n"
    given = read(write(content)).build().given
    assert (given["ratios"], given["anything"]) == ((1, 3), {"a": [3]})


def test_later_file_and_param_override(write):
    first, second = write(GOOD + "toy.bicycle.gears = 3\n"), write("toy.bicycle.gears = 5\n", "b.gin")
    assert read(first, second).build().given["gears"] == 5
    assert read(first, second, params=["toy.bicycle.gears = 7"]).build().given["gears"] == 7
    assert read(first, params=["toy.bicycle.gears = 7", "toy.bicycle.gears = 8"]).build().given["gears"] == 8


def test_includes_are_relative_to_their_file(write, tmp_path, monkeypatch):
    write("Wheel.radius = 0.1\nWheel.spokes = 4\n", "parts/wheel.gin")
    write("include 'wheel.gin'\nWheel.spokes = 5\n", "parts/both.gin")
    top = write("include 'parts/both.gin'\ntoy.bicycle.wheels = [@Wheel()]\nWheel.spokes = 6\n")
    assert read(top).build().wheels[0].spokes == 6
    monkeypatch.chdir(tmp_path)
    assert read("a.gin").build().wheels[0].radius == 0.1
    write("Wheel.spokes = 40\n", "wheel.gin")  # not this one, although it is in the working directory
    assert read("a.gin", "parts/both.gin").build().wheels[0].spokes == 5


def test_a_fragment_included_twice_does_not_undo_overrides(write):
    write("Wheel.radius = 0.1\nWheel.spokes = 4\n", "base.gin")
    first = write("include 'base.gin'\nWheel.spokes = 5\ntoy.bicycle.wheels = [@Wheel()]\n")
    second = write("include 'base.gin'\ntoy.bicycle.gears = 2\n", "b.gin")
    assert read(first, second).build().wheels[0].spokes == 5
    assert read(first, second, first.parent / "base.gin").build().wheels[0].spokes == 4


def test_value_of_the_root_before_building(write):
    settings = read(write(GOOD + "SEED = 7\ntoy.bicycle.seed = %SEED\n"))
    assert settings.value("toy.bicycle.seed", 0) == settings.value("seed", 0) == 7
    assert settings.value("toy.bicycle.kind", "city") == "city"
    assert BUILT == []
    with pytest.raises(AssertionError, match="no parameter sed"):
        settings.value("sed", 0)


def test_uncalled_references_for_callables(write):
    bicycle = read(write(GOOD + "toy.bicycle.paint = @stripes\nstripes.colour = 'green'\n")).build()
    assert bicycle.paint("frame") == "green stripes on the frame"
    bicycle = read(write(GOOD + "toy.bicycle.paint = @Painter()\nPainter.colour = 'green'\n")).build()
    assert bicycle.paint("frame") == "green frame"


def test_each_wiring_builds_its_own(write):
    first, second = read(write(GOOD)), read(write("toy.bicycle.wheels = [@DiscWheel()]", "b.gin"))
    assert isinstance(first.build().wheels[0], Wheel)
    assert isinstance(second.build().wheels[0], DiscWheel)
    assert isinstance(first.build().wheels[0], Wheel)


def test_imports_all_of_cl(write):
    read(write(GOOD))
    names = {path.stem for path in (Path(wiring.__file__).parents[1] / "losses").glob("*.py")} - {"__init__"}
    assert {f"cl.losses.{name}" for name in names} <= sys.modules.keys()


def test_the_real_gin_is_imported_beside_the_folder_of_configs():
    assert callable(gin.parse_config)
    assert not list((Path(wiring.__file__).parents[2] / "gin").rglob("*.py"))


# --- files and statements ----------------------------------------------------------------------------------------


def test_missing_file(write, tmp_path):
    write(GOOD, "simclr.gin")
    refused(refusal(tmp_path / "simclrr.gin"), "simclrr.gin", "no file", str(tmp_path), "Did you mean `simclr.gin`?")
    refused(refusal(tmp_path / "no" / "a.gin"), "there is no folder", str(tmp_path / "no"))
    refused(refusal(tmp_path), "cannot be read")
    top = write("\ninclude 'simclt.gin'\n")
    refused(refusal(top), f"{top}:2", "include 'simclt.gin'", "Did you mean `simclr.gin`?")


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "a.gin").write_bytes(b"\xff\xfe\x00")
    refused(refusal(tmp_path / "a.gin"), "a.gin", "cannot be read as text")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("Wheel.radius 0.3", "not gin"),
        ("Wheel.radius = ", "not gin"),
        ("Wheel.radius", "not gin"),
        ("Wheel.radius = [1,", "not gin"),
        ("Wheel.radius = (1, 2]", "not gin"),
        ("Wheel.radius = 1 2", "not gin"),
        ("Wheel.radius = {[1]: 2}", "not gin"),
        ("Wheel.radius = 'abc", "not gin"),
        ("Wheel.radius = 0.3 + 1", "not gin"),
        ("Wheel.radius = big", "text needs quotes"),
        ("Wheel.radius = os.system('x')", "not gin"),
        ("  x: = y", "not gin"),
        ("Wheel:\n", "not gin"),
        ("@Wheel()", "not gin"),
        ("include wheel", "not gin"),
        ("import", "not gin"),
    ],
)
def test_syntax(write, line, part):
    path = write(GOOD + line)
    refused(refusal(path), f"{path}:", part, "Write `Component.parameter = value`")


def test_syntax_line(write):
    path = write(GOOD + "\n\nWheel.spokes = = 3\nWheel.radius = 1\n")
    refused(refusal(path), f"{path}:6: this is not gin")


@pytest.mark.parametrize("param", ["Wheel.spokes", "Wheel.spokes = five", "", "a = 1\nb = 2", "include 'a.gin'"])
def test_syntax_of_a_param(write, param):
    with pytest.raises(ConfigError, match="--param '") as caught:
        read(write(GOOD), params=[param])
    refused(str(caught.value), f"--param '{param}'", "Component.parameter = value")


def test_include_cycle(write):
    write("include 'a.gin'\n", "b.gin")
    top = write("include 'b.gin'\n" + GOOD)
    refused(refusal(top), "b.gin:1", "may not include itself", f"{top} includes", "Remove one of these includes")


@pytest.mark.parametrize(
    "line",
    [
        "import sentinel_module",
        "import sentinel_module as s",
        "import sentinel.deeper",
        "from sentinel import deeper",
        "from sentinel import deeper as d",
        "from __gin__ import dynamic_registration",
    ],
)
def test_nothing_in_a_config_is_executed(write, tmp_path, monkeypatch, line):
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
    for module in ("sentinel_module.py", "sentinel/__init__.py", "sentinel/deeper.py"):
        write(code, module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = write(f"{GOOD}{line}\n")
    refused(refusal(path), f"{path}:4", f"`{line}` is refused", "Remove it")
    refused(refusal(write(GOOD), params=[line]), f"--param '{line}'", "is refused")
    assert not (tmp_path / "executed").exists()
    assert not {"sentinel", "sentinel_module"} & sys.modules.keys()


def test_an_include_runs_no_code_of_the_folders_on_its_path(write, tmp_path, monkeypatch):
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
    write(code, "package/__init__.py")
    write(code, "package/sub/__init__.py")
    write(GOOD, "package/sub/x.gin")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    read(write("include 'package/sub/x.gin'\n")).build()
    read("package/sub/x.gin").build()
    with pytest.raises(ConfigError, match=r"no file y\.gin"):
        read("package/sub/y.gin")
    assert not (tmp_path / "executed").exists()


def test_repeated_binding(write):
    path = write(GOOD + "Wheel.radius = 0.5\n")
    refused(refusal(path), f"{path}:4", "`Wheel.radius` is bound already", f"{path}:2", "Remove one")
    path = write(GOOD + f"{__name__}.Wheel.radius = 0.5\n")  # the same component by a longer name
    refused(refusal(path), f"{path}:4", "bound already", f"{path}:2")
    path = write(GOOD + "R = 1\ntoy.bicycle.gears = %R\nR = 2\n")
    refused(refusal(path), f"{path}:6", "`R` is bound already", f"{path}:4")
    write("Wheel.radius = 0.5\n", "b.gin")
    path = write("Wheel.radius = 0.1\ninclude 'b.gin'\nWheel.radius = 0.2\ntoy.bicycle.wheels = [@Wheel()]\n")
    refused(refusal(path), f"{path}:3", "bound already", f"{path}:1")


# --- names -------------------------------------------------------------------------------------------------------


def test_unknown_component(write):
    path = write(GOOD + "Whel.radius = 0.5\n")
    refused(refusal(path), f"{path}:4", "no component is called `Whel`", "Did you mean `Wheel`?")
    path = write(GOOD + "toy.bycicle.gears = 2\n")
    refused(refusal(path), f"{path}:4", "`toy.bycicle`", "Did you mean `toy.bicycle`?")
    path = write(GOOD + "zzzzzzzzzzzzzzz.gears = 2\n")
    refused(refusal(path), f"{path}:4", "There is: ", "toy.bicycle", "DiscWheel")
    for name in ("gin.singleton", "macro", "gin.constant"):
        path = write(GOOD + f"toy.bicycle.anything = @x/{name}()\n")
        refused(refusal(path), f"{path}:4", f"no component is called `{name}`")


def test_unknown_parameter(write):
    path = write(GOOD + "Wheel.spoks = 3\n")
    refused(refusal(path), f"{path}:4", "`Wheel` has no parameter `spoks`", "Did you mean `spokes`?")
    refused(
        refusal(write(GOOD), params=["Wheel.zzzzz = 3"]), "--param 'Wheel.zzzzz = 3'", "There is: radius, spokes, tyre"
    )


def test_unknown_reference(write):
    path = write("toy.bicycle.wheels = [@DiscWheel(), @back/Whel()]\n")
    refused(refusal(path), f"{path}:1", "no component is called `Whel`", "Did you mean `Wheel`?")


def test_ambiguous_component(write, monkeypatch):
    registry = gin.config._REGISTRY
    selector = "elsewhere.Bell"
    registry[selector] = registry[f"{__name__}.Bell"]._replace(selector=selector)
    try:
        path = write(GOOD + "toy.bicycle.bell = @Bell()\n")
        refused(refusal(path), f"{path}:4", "more than one component is called `Bell`", f"`{selector}`", "Write")
    finally:
        registry.pop(selector)


def test_unknown_root(write):
    with pytest.raises(ConfigError, match=r"no component is called `toy.bicycel`. Did you mean `toy.bicycle`\?"):
        wiring.read([write(GOOD)], imports=[__name__], root="toy.bicycel")


def test_module_that_cannot_be_imported(write):
    with pytest.raises(ConfigError, match=r"--import not_there_at_all: .*PYTHONPATH"):
        wiring.read([write(GOOD)], imports=["not_there_at_all"])


def test_kwargs_take_no_bindings():
    assert parameters(lambda a, *b, c=1, **d: None).keys() == {"a", "c"}


# --- macros ------------------------------------------------------------------------------------------------------


def test_undefined_macro(write):
    path = write(GOOD + "GEARS = 3\ntoy.bicycle.gears = %GEAR\n")
    refused(refusal(path), f"{path}:5", "the macro `%GEAR` is not defined", "Did you mean `GEARS`?")
    path = write(GOOD + "toy.bicycle.ratios = (%GEAR,)\n")
    refused(refusal(path), f"{path}:4", "`%GEAR` is not defined", "There is none")


def test_unused_macro(write):
    path = write(GOOD + "GEARS = 3\n")
    refused(refusal(path), f"{path}:4", "`GEARS` has no effect", "Use it, or remove it")


@pytest.mark.parametrize("line", ["gears = 3", "Gears = 3", "a/GEARS = 3", "skip_unknown = True", "_GEARS = 3"])
def test_macros_are_upper_case(write, line):
    path = write(GOOD + line + "\n")
    refused(refusal(path), f"{path}:4", f"`{line.split()[0]}` is neither", "in UPPER_CASE")


@pytest.mark.parametrize("value", ["@Bell()", "[@Bell]", "{'a': (1, @Bell())}", "%OTHER"])
def test_macros_hold_literals(write, value):
    path = write(GOOD + f"OTHER = 1\nTHING = {value}\ntoy.bicycle.anything = %THING\n")
    refused(refusal(path), f"{path}:5", "the macro THING holds", "literals only", "%THING")


def test_required(write):
    path = write(GOOD + "GEARS = %gin.REQUIRED\ntoy.bicycle.gears = %GEARS\ntoy.bicycle.kind = %gin.REQUIRED\n")
    message = refusal(path)
    refused(message, f"{path}:4: `GEARS` must be set", "--param 'GEARS = ...'", "(int)")
    refused(message, f"{path}:6: `toy.bicycle.kind` must be set", "--param 'toy.bicycle.kind = ...'", "Literal['city'")
    bicycle = read(path, params=["GEARS = 3", "toy.bicycle.kind = 'race'"]).build()
    assert (bicycle.given["gears"], bicycle.kind) == (3, "race")
    path = write(GOOD + "toy.bicycle.ratios = (1.0, %gin.REQUIRED)\n")
    refused(refusal(path), f"{path}:4: `toy.bicycle.ratios` must be set")


# --- what is missing ---------------------------------------------------------------------------------------------


def test_missing_argument(write):
    path = write("\ntoy.bicycle.wheels = [@front/Wheel(), @DiscWheel(), @back/Wheel()]\nback/Wheel.radius = 1.0\n")
    message = refusal(path)
    refused(message, f"{path}:2: `@front/Wheel()` needs `radius`", "Write `front/Wheel.radius = ...` (float)")
    assert "back" not in message
    refused(refusal(), "The root `toy.bicycle` needs `wheels`", "Write `toy.bicycle.wheels = ...` (Sequence[Rolls])")


def test_arguments_of_an_uncalled_reference_may_come_from_the_caller(write):
    assert read(write(GOOD + "toy.bicycle.paint = @stripes\n")).build().paint("bell") == "blue stripes on the bell"


def test_a_component_that_builds_itself(write):
    content = GOOD + "toy.bicycle.anything = @Nested()\nNested.inner = [@x/Nested()]\n"
    path = write(content)
    refused(refusal(path), f"{path}:5", "`@x/Nested()` would build itself", "Name another component")
    nested = read(write(content + "x/Nested.inner = None\n")).build().given["anything"]
    assert nested.inner[0].inner is None


# --- what is not used --------------------------------------------------------------------------------------------


def test_binding_of_a_component_that_is_never_built(write):
    path = write(GOOD + "DiscWheel.radius = 0.2\nBell.tone = 'low'\n")
    message = refusal(path)
    refused(message, f"{path}:4: `DiscWheel.radius` has no effect", "nothing builds `DiscWheel`")
    refused(message, "Did you mean `Wheel`?", f"`Bell.tone` ({path}:5)")


def test_binding_of_a_scope_that_is_never_entered(write):
    path = write(GOOD + "frnt/Wheel.spokes = 3\n")
    refused(refusal(path), f"{path}:4", "`frnt/Wheel.spokes` has no effect", "Did you mean `front`?")
    path = write("toy.bicycle.wheels = [@Wheel()]\nWheel.radius = 1.0\nfront/Wheel.spokes = 3\n")
    refused(refusal(path), f"{path}:3", "in the scope `front`", "built without a scope")


def test_unscoped_binding_counts_when_one_scope_takes_it(write):
    read(write(GOOD + "front/Wheel.radius = 0.4\n"))  # back takes the unscoped one
    path = write(GOOD + "front/Wheel.radius = 0.4\nback/Wheel.radius = 0.3\n")
    refused(refusal(path), f"{path}:2: `Wheel.radius` has no effect", "another binding comes first", f"{path}:4")


def logged(caplog: pytest.LogCaptureFixture, settings: wiring.Wiring) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="cl.wiring"):
        settings.build()
    return [record.getMessage() for record in caplog.records if record.name.startswith("cl.wiring")]


def test_bindings_fall_away_with_the_reference_that_was_overridden(write, caplog):
    content = "toy.bicycle.wheels = [@front/Wheel()]\nR = 1.0\nWheel.radius = %R\nWheel.tyre = @Tyre()\n"
    first = write(content + "front/Tyre.pressure = 2.0\n")
    other = write("toy.bicycle.wheels = [@DiscWheel()]\n", "b.gin")
    for settings in (read(first, other), read(first, params=["toy.bicycle.wheels = [@DiscWheel()]"])):
        (line,) = logged(caplog, settings)
        refused(line, f"R ({first}:2)", f"Wheel.radius ({first}:3)", f"front/Tyre.pressure ({first}:5)")
        assert "Wheel" not in settings.config_str().replace("DiscWheel", "")
    assert logged(caplog, read(first)) == []


def test_a_file_overrides_what_it_includes(write, caplog):
    write("toy.bicycle.wheels = [@Wheel()]\nWheel.radius = 1.0\n", "base.gin")
    (line,) = logged(caplog, read(write("include 'base.gin'\ntoy.bicycle.wheels = [@DiscWheel()]\n")))
    refused(line, "Wheel.radius", "base.gin:2")


def test_what_was_overridden_twice_falls_away(write, caplog):
    first = write("toy.bicycle.wheels = [@Wheel()]\nWheel.radius = 1.0\n")
    second = write("toy.bicycle.wheels = [@DiscWheel()]\nDiscWheel.radius = 1.0\n", "b.gin")
    third = write("toy.bicycle.wheels = [@front_wheel()]\nfront_wheel.radius = 1.0\n", "c.gin")
    (line,) = logged(caplog, read(first, second, third))
    refused(line, "DiscWheel.radius", " Wheel.radius")


def test_a_binding_that_comes_after_the_override_is_a_mistake(write):
    first = write(GOOD)
    other = write("toy.bicycle.wheels = [@DiscWheel()]\n", "b.gin")
    refused(refusal(first, other, params=["Wheel.spokes = 3"]), "--param 'Wheel.spokes = 3'", "has no effect")
    late = write("Wheel.spokes = 3\n", "c.gin")
    refused(refusal(first, other, late), f"{late}:1: `Wheel.spokes` has no effect", "nothing builds `Wheel`")
    refused(refusal(other, params=["front/Wheel.spokes = 3"]), "has no effect")


def test_an_unscoped_binding_falls_away_when_a_later_file_binds_every_scope(write, caplog):
    settings = read(write(GOOD), params=["front/Wheel.radius = 0.4", "back/Wheel.radius = 0.3"])
    (line,) = logged(caplog, settings)
    refused(line, " Wheel.radius")
    assert [wheel.radius for wheel in settings.build().wheels] == [0.4, 0.3]


def test_a_mistake_among_what_fell_away_is_still_a_mistake(write):
    first = write(GOOD + "Wheel.spoks = 3\n")
    refused(refusal(first, write("toy.bicycle.wheels = [@DiscWheel()]", "b.gin")), f"{first}:4", "`spoks`")


# --- types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("toy.bicycle.price = 'abc'", ["takes float", "'abc'", "(str)"]),
        ("toy.bicycle.price = None", ["takes float", "None"]),
        ("toy.bicycle.price = True", ["takes float", "(bool)"]),
        ("toy.bicycle.gears = 2.5", ["takes int", "2.5", "(float)"]),
        ("toy.bicycle.gears = 3.0", ["takes int"]),
        ("toy.bicycle.gears = False", ["takes int", "(bool)"]),
        ("toy.bicycle.sold = 1", ["takes bool", "(int)"]),
        ("toy.bicycle.kind = 'rase'", ["takes Literal['city', 'race']", "'rase'"]),
        ("toy.bicycle.ratios = [1.0, 2.0]", ["takes tuple[float, ...]", "Write `(1.0, 2.0)`"]),
        ("toy.bicycle.ratios = (1.0, 'a')", ["takes tuple[float, ...]"]),
        ("toy.bicycle.ratios = 1.0", ["takes tuple[float, ...]"]),
        ("toy.bicycle.notes = ('a',)", ["takes list[str] | None", "Write `['a']`"]),
        ("toy.bicycle.notes = 'a'", ["takes list[str] | None"]),
        ("toy.bicycle.notes = ['a', 'b', 'c', 4]", ["takes list[str] | None"]),
        ("toy.bicycle.lights = {'a': 1}", ["takes Mapping[str, Bell] | None"]),
        ("toy.bicycle.lights = {'a': @Bell}", ["Mapping[str, Bell]", "Write `{'a': @Bell()}`"]),
        ("toy.bicycle.lights = {'a': @Tyre()}", ["Mapping[str, Bell]", "@Tyre()"]),
        ("toy.bicycle.lights = {1: @Bell()}", ["Mapping[str, Bell]"]),
        ("toy.bicycle.lights = [@Bell()]", ["Mapping[str, Bell]"]),
        ("toy.bicycle.bell = @Tyre()", ["takes Bell | None", "`@Tyre()`"]),
        ("toy.bicycle.bell = @Bell", ["takes Bell | None", "Write `@Bell()`"]),
        ("toy.bicycle.bell = 'ding'", ["takes Bell | None"]),
        ("toy.bicycle.gears = @Bell()", ["takes int"]),
        ("toy.bicycle.kind = @Bell()", ["takes Literal['city', 'race']"]),
        (
            "toy.bicycle.spare = @Bell()",
            ["takes Rolls | None", "`@Bell()`", "What fits: @DiscWheel(), @Wheel(), @front_wheel(), @wheel_perhaps()."],
        ),
        ("toy.bicycle.spare = @Rower()", ["takes Rolls | None", "`@Rower()`"]),
        ("toy.bicycle.spare = @Wheel", ["takes Rolls | None", "Write `@Wheel()`"]),
        ("toy.bicycle.spare = 3", ["takes Rolls | None"]),
        ("toy.bicycle.spare = [1]", ["takes Rolls | None"]),
        ("toy.bicycle.paint = @Painter", ["takes Callable[[str], str] | None", "Write `@Painter()`"]),
        ("toy.bicycle.paint = @stripes()", ["takes Callable[[str], str] | None", "Write `@stripes`"]),
        ("toy.bicycle.paint = @Bell()", ["takes Callable[[str], str] | None"]),
        ("toy.bicycle.paint = 'red'", ["takes Callable[[str], str] | None"]),
        ("front/Wheel.spokes = 'abc'", ["takes int"]),
    ],
)
def test_wrong_type(write, line, parts):
    path = write(GOOD + line + "\n")
    refused(refusal(path), f"{path}:4: `{line.split()[0]}`", *parts)
    refused(refusal(write(GOOD), params=[line]), f"--param '{line}'", *parts)


def test_wrong_element(write):
    path = write("toy.bicycle.wheels = [@DiscWheel(), @Bell()]\n")
    refused(refusal(path), f"{path}:1: `toy.bicycle.wheels`", "takes Sequence[Rolls]", "@Bell()")
    path = write("toy.bicycle.wheels = @DiscWheel()\n")
    refused(refusal(path), f"{path}:1: `toy.bicycle.wheels`", "takes Sequence[Rolls], not `@DiscWheel()`")


def test_wrong_type_of_a_macro_names_both_places(write):
    path = write("GEARS = 2.5\n" + GOOD + "toy.bicycle.gears = %GEARS\n")
    message = refusal(path)
    refused(message, f"{path}:5: `toy.bicycle.gears`", f"by `GEARS = 2.5` ({path}:1)", "takes int, not `2.5`")


@pytest.mark.parametrize(
    "line",
    [
        "toy.bicycle.price = 3",
        "toy.bicycle.price = 1e999",
        "toy.bicycle.ratios = ()",
        "toy.bicycle.ratios = (1, 2.5)",
        "toy.bicycle.bell = None",
        "toy.bicycle.notes = []",
        "toy.bicycle.lights = {'a': @Bell(), 'b': @x/Bell()}",
        "toy.bicycle.spare = @DiscWheel()",
        "toy.bicycle.spare = @front_wheel()\nfront_wheel.radius = 2",
        "toy.bicycle.spare = @whatever()",
        "toy.bicycle.paint = @whatever",
        "toy.bicycle.anything = [1, 'a', @Bell, None, {'k': @Tyre()}]",
    ],
)
def test_right_type(write, line):
    read(write(GOOD + line + "\n")).build()


T = TypeVar("T")
CASES = [
    (1, float, True),
    (1, complex, False),
    (1, Annotated[float, "positive"], True),
    ("a", Annotated[float, "positive"], False),
    ((1, "a"), tuple[int, str], True),
    ((1, "a", 2), tuple[int, str], False),
    ((1, 2), tuple[int, str], False),
    ((1, 2), tuple, True),
    ([1, 2], tuple, False),
    ((1, 2), Sequence[int], True),
    ("ab", Sequence[str], False),
    (["ab"], Sequence[str], True),
    ([(1, "a")], Sequence[tuple[int, str]], True),
    ([(1, 2)], Sequence[tuple[int, str]], False),
    ({"a": 1}, list[int], False),
    ({"a": 1}, dict[str, float], True),
    ({"a": True}, dict[str, float], False),
    ({"a": 1}, Mapping, True),
    ([1], T, True),
    ([1], object, True),
    (None, Optional[int], True),  # noqa: UP045
    ("a", Optional[int], False),  # noqa: UP045
    (REQUIRED, int, True),
    (3, "a hint in quotes", True),
    (3, 5, True),  # not a type
    (Reference("", "Wheel", False), type[Wheel], True),
    (Reference("", "Wheel", False), type[Rolls], True),
    (Reference("", "Wheel", True), type[Wheel], False),
    (Reference("", "Bell", False), type[Wheel], False),
    (Reference("", "stripes", False), type[Wheel], False),
    (Reference("", "stripes", False), Paint, True),
    (Reference("", "stripes", False), Rolls, False),
    (Reference("", "Painter", True), Paint, True),
    (Reference("", "Painter", False), Paint, False),
    (Reference("", "Wheel", True), Rolling, True),
    (Reference("", "Wheel", True), nn.Module, False),
    (Reference("", "front_wheel", True), Wheel, True),
    (Reference("", "front_wheel", True), Bell, False),
    (Reference("", "front_wheel", False), Callable[[float], Rolls], True),
    (Reference("", "wheel_perhaps", True), Rolls, True),
    (Reference("", "wheel_perhaps", True), Bell, False),
    (Reference("", "Wheel", False), Callable[..., Bell], False),
    (Reference("", "Wheel", False), Callable, True),
    (Reference("", "Painter", True), Callable[[str], str], True),
    (Reference("", "Painter", True), Callable[[str], nn.Module], False),
    (Reference("", "Doubler", True), Callable[[torch.Tensor], torch.Tensor], True),
    (Reference("", "Doubler", True), Callable[[int], nn.Module], False),
    (Reference("", "Doubler", False), Callable[[int], nn.Module], True),
    (Reference("", "Doubler", True), nn.Module, True),
    (Reference("", "Bell", True), type(None), False),
    (Reference("", "Bell", True), list[Bell], False),
]


@pytest.mark.parametrize(("value", "hint", "expected"), CASES)
def test_fits(value, hint, expected):
    assert fits(value, hint) is expected


def test_show():
    assert show(Sequence[Rolls]) == "Sequence[Rolls]"
    assert show(Optional[torch.Tensor]) == "Tensor | None"  # noqa: UP045
    assert show(Callable[[int], nn.Module]) == "Callable[[int], Module]"
    assert show(float) == "float"


# --- scopes ------------------------------------------------------------------------------------------------------


def test_scopes_are_one_level_deep(write):
    path = write(GOOD + "a/front/Wheel.spokes = 3\n")
    refused(refusal(path), f"{path}:4", "`a/front/Wheel.spokes`", "one level deep", "Write `front/`")
    path = write(GOOD + "toy.bicycle.bell = @a/b/Bell()\n")
    refused(refusal(path), f"{path}:4", "`@a/b/Bell()`", "one level deep", "Write `b/`")


# --- constructors ------------------------------------------------------------------------------------------------


def built_refusal(*files: Path, params: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*files, params=params).build()
    return str(caught.value)


def test_a_constructor_that_refuses_its_arguments(write):
    path = write(GOOD + "back/Wheel.radius = -0.5\n")
    message = built_refusal(path)
    refused(message, f"{path}:4: back/Wheel refuses", "radius must be positive, got -0.5. Change", "`back/Wheel.radius")
    assert "spokes" not in message and "configurable" not in message


def test_a_constructor_that_refuses_a_macro(write):
    path = write("toy.bicycle.wheels = [@Wheel()]\nWheel.radius = %R\nR = 0\n")
    refused(built_refusal(path), f"{path}:2: Wheel refuses", "got 0.", f"`R = 0` ({path}:3)")
    refused(built_refusal(path, params=["R = -1"]), "`R = -1` (--param 'R = -1')")


def test_a_constructor_that_names_no_parameter(write):
    path = write(GOOD + "toy.bicycle.bell = @Bell()\nBell.tone = 'odd'\n")
    refused(
        built_refusal(path), f"{path}:5: Bell refuses", "that will not do", f"Change `Bell.tone = 'odd'` ({path}:5)"
    )


def test_a_constructor_behind_a_function(write):
    path = write("toy.bicycle.wheels = [@front_wheel()]\nfront_wheel.radius = 0\n")
    refused(built_refusal(path), f"{path}:2: front_wheel refuses", "radius must be positive")


def test_errors_of_a_constructor_pass_through(write):
    path = write(GOOD + "toy.bicycle.bell = @Bell()\nBell.tone = 'broken'\n")
    with pytest.raises(DataError) as caught:
        read(path).build()
    assert type(caught.value) is DataError
    assert str(caught.value) == "the bell's sound is missing"
    with pytest.raises(KeyError):
        read(path, params=["Bell.tone = 'bug'"]).build()


# --- text --------------------------------------------------------------------------------------------------------

RICH = """\
NOTE = "it's \\"here\\""
RADIUS = 0.35
toy.bicycle:
    wheels = [@front/Wheel(), @back/Wheel(), @DiscWheel()]
    notes = [%NOTE, 'a\\nb', 'a long note that goes on, and on, and on', 'another long note that also goes on and on']
    ratios = (3,)
    limit = -1e999
    lights = {'a': @Bell(), 'b': @low/Bell()}
    paint = @stripes
    anything = {'k': [1, -2.5e-7, None, True, (), [], {}], 2: (1,), 'b': b'x'}
low/Bell.tone = 'low'
Wheel.radius = %RADIUS
back/Wheel.spokes = 36
stripes.colour = 'green'
"""


def test_config_and_operative_round_trip(write):
    settings = read(write(RICH))
    again = read(write(settings.config_str(), "config.gin"))
    assert again.config_str() == settings.config_str()
    assert settings.config_str().index("RADIUS = ") < settings.config_str().index("toy.bicycle")
    assert again.tree() == settings.tree()
    operative = read(write(settings.operative_str(), "operative.gin"))
    assert operative.operative_str() == settings.operative_str()
    assert operative.tree().replace("  (default)", "") == settings.tree().replace("  (default)", "")
    objects = [each.build() for each in (settings, again, operative)]
    assert objects[0].given == objects[1].given == objects[2].given
    assert [o.wheels[1].spokes for o in objects] == [36, 36, 36]
    assert [o.paint("bell") for o in objects] == ["green stripes on the bell"] * 3


def test_operative_has_the_defaults(write):
    settings = read(write(GOOD))
    assert "front/Wheel.spokes = 32\n" in settings.operative_str()
    assert "toy.bicycle.limit = 1e999\n" in settings.operative_str()
    assert "machine" not in settings.operative_str()  # gin cannot write a device
    assert "basket" not in settings.operative_str()  # its default would be refused when read
    assert "32" not in settings.config_str()


def test_configs_leave_out_what_fell_away(write):
    settings = read(write(RICH), params=["toy.bicycle.paint = None", "toy.bicycle.notes = None"])
    for content in (settings.config_str(), settings.operative_str()):
        assert "stripes" not in content and "NOTE" not in content
        read(write(content, "again.gin"))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.floats(min_value=0).map(lambda x: complex(0, x))
)
LITERALS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), inner)
    ),
    max_leaves=20,
)


@given(LITERALS)
@example(-math.inf)
@example(-0.0)
def test_every_literal_round_trips(value):
    settings = read(params=["toy.bicycle.wheels = []", f"toy.bicycle.anything = {text(value)}"])
    back = settings.value("anything", None)
    assert (back, repr(back)) == (value, repr(value))
    assert settings.build().given["anything"] == value


@given(
    st.lists(st.builds(Reference, st.sampled_from(["", "a", "b"]), st.sampled_from(["Bell", "Tyre"]), st.booleans()))
)
def test_references_round_trip(references):
    settings = read(params=["toy.bicycle.wheels = []", f"toy.bicycle.anything = {text(references)}"])
    objects = settings.build().given["anything"]
    assert [isinstance(each, type) for each in objects] == [not reference.called for reference in references]


@pytest.mark.parametrize("value", [math.nan, {1, 2}, Point(1), object(), torch.float32, 1 + 2j, [math.nan], len])
def test_what_gin_cannot_write(value):
    with pytest.raises(ValueError, match="gin cannot write"):
        text(value)


def test_text_of_references():
    assert text([Reference("a", "B", True), Reference("", "B", False), Macro("C")]) == "[@a/B(), @B, %C]"


def test_one_component_by_two_names_round_trips(write):
    settings = read(write(GOOD + f"toy.bicycle.anything = [@Bell(), @{__name__}.Bell()]\n"))
    read(write(settings.operative_str(), "operative.gin"))


def test_annotations_for_type_checkers_only_are_not_checked():
    known = parameters(paid)
    assert (known["bell"].hint, known["by"].hint, known["price"].hint) == (Bell, Any, float)
    assert fits(Reference("", "paid", True), Wheel)


def test_tree(write):
    content = GOOD + "GEARS = 3\ntoy.bicycle.gears = %GEARS\ntoy.bicycle.paint = @stripes\nback/Wheel.tyre = @Tyre()\n"
    tree = read(write(content)).tree()
    expected = """\
toy.bicycle
├─ wheels[0] = @front/Wheel()
│  ├─ radius = 0.35
│  ├─ spokes = 32  (default)
│  └─ tyre = None  (default)
├─ wheels[1] = @back/Wheel()
│  ├─ radius = 0.35
│  ├─ spokes = 36
│  └─ tyre = @Tyre()
│     └─ pressure = 3.5  (default)
├─ bell = None  (default)
├─ gears = 3  (%GEARS)
"""
    assert tree.startswith(expected)
    assert "├─ paint = @stripes\n│  └─ colour = 'blue'  (default)\n" in tree
    assert "└─ machine = ...  (default)" in tree
