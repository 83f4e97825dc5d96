"""Values against annotations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Optional, TypeVar

import pytest
import torch
from bicycle import (
    GOOD,
    Bell,
    Paint,
    Rolling,
    Rolls,
    Wheel,
    read,
    refusal,
    refused,
)
from torch import nn

from cl.wiring.fits import fits, show
from cl.wiring.values import REQUIRED, Reference


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
