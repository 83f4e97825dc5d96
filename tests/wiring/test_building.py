"""What is right is built, and what a constructor refuses is explained."""

import sys
from collections.abc import Sequence
from pathlib import Path

import gin
import pytest
from bicycle import (
    BUILT,
    GOOD,
    DiscWheel,
    Wheel,
    read,
    refusal,
    refused,
)
from torch import nn

from cl import wiring
from cl.errors import ConfigError, DataError


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


def test_scopes_are_one_level_deep(write):
    path = write(GOOD + "a/front/Wheel.spokes = 3\n")
    refused(refusal(path), f"{path}:4", "`a/front/Wheel.spokes`", "one level deep", "Write `front/`")
    path = write(GOOD + "toy.bicycle.bell = @a/b/Bell()\n")
    refused(refusal(path), f"{path}:4", "`@a/b/Bell()`", "one level deep", "Write `b/`")


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


@pytest.mark.parametrize(
    ("param", "said"),
    [
        ("Objective.terms = {'train': @Term()}", "Objective refuses.*KeyError.*already exists"),
        (
            "projector/MLP.widths = (128, -256, 128)",
            r"projector/MLP refuses.*RuntimeError.*Change .projector/MLP.widths",
        ),
        ("projector/MLP.norm = @Identity", "projector/Identity refuses.*TypeError"),
    ],
)
def test_whatever_else_a_component_of_ours_raises_is_refused_too(param, said):
    with pytest.raises(ConfigError, match=said) as caught:
        wiring.read(["gin/simclr.gin"], [param]).build()
    assert "\n" not in str(caught.value)


@gin.register(module="toy")
class Rusty(nn.Module):
    """A trunk of a user's own with a fault, which one of ours comes upon."""

    @property
    def num_features(self):
        return {}["rust"]


def test_a_fault_of_a_users_own_that_ours_come_upon_passes_through():
    with pytest.raises(KeyError, match="rust"):
        wiring.read(["gin/simclr.gin"], ["Tower.trunk = @Rusty()"]).build()


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1" + 400 * "0"])
def test_numbers_of_ours_are_finite(value):
    with pytest.raises(ConfigError, match=r"InfoNCE\.temperature` has .*too large, or no number"):
        wiring.read(["gin/simclr.gin"], [f"InfoNCE.temperature = {value}"])


def test_errors_of_a_constructor_pass_through(write):
    path = write(GOOD + "toy.bicycle.bell = @Bell()\nBell.tone = 'broken'\n")
    with pytest.raises(DataError) as caught:
        read(path).build()
    assert type(caught.value) is DataError
    assert str(caught.value) == "the bell's sound is missing"
    with pytest.raises(KeyError):
        read(path, params=["Bell.tone = 'bug'"]).build()
