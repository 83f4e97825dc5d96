"""What can be named, macros, and what is missing."""

import gin
import pytest
from bicycle import GOOD, read, refusal, refused

from cl import wiring
from cl.errors import ConfigError
from cl.wiring.components import parameters


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
    registry[selector] = registry["bicycle.Bell"]._replace(selector=selector)
    try:
        path = write(GOOD + "toy.bicycle.bell = @Bell()\n")
        refused(refusal(path), f"{path}:4", "more than one component is called `Bell`", f"`{selector}`", "Write")
    finally:
        registry.pop(selector)


def test_unknown_root(write):
    with pytest.raises(ConfigError, match=r"no component is called `toy.bicycel`. Did you mean `toy.bicycle`\?"):
        wiring.read([write(GOOD)], imports=["bicycle"], root="toy.bicycel")


def test_module_that_cannot_be_imported(write):
    with pytest.raises(ConfigError, match=r"--import not_there_at_all: .*PYTHONPATH"):
        wiring.read([write(GOOD)], imports=["not_there_at_all"])


def test_kwargs_take_no_bindings():
    assert parameters(lambda a, *b, c=1, **d: None).keys() == {"a", "c"}


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
