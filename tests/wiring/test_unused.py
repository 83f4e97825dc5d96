"""What nothing uses."""

import logging

import pytest
from bicycle import GOOD, read, refusal, refused

from cl import wiring


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
