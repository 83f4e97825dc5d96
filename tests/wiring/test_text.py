"""Configurations written out again."""

import math
from typing import Any

import pytest
import torch
from bicycle import (
    GOOD,
    Bell,
    Point,
    Wheel,
    paid,
    read,
)
from hypothesis import example, given
from hypothesis import strategies as st

from cl.wiring.components import parameters
from cl.wiring.fits import fits
from cl.wiring.values import Macro, Reference, text

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
    settings = read(write(GOOD + "toy.bicycle.anything = [@Bell(), @bicycle.Bell()]\n"))
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
