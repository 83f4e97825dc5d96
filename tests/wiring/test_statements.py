"""Files, includes and the lines in them."""

import sys

import pytest
from bicycle import (
    GOOD,
    read,
    refusal,
    refused,
)

from cl.errors import ConfigError


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
    path = write(GOOD + "bicycle.Wheel.radius = 0.5\n")  # the same component by a longer name
    refused(refusal(path), f"{path}:4", "bound already", f"{path}:2")
    path = write(GOOD + "R = 1\ntoy.bicycle.gears = %R\nR = 2\n")
    refused(refusal(path), f"{path}:6", "`R` is bound already", f"{path}:4")
    write("Wheel.radius = 0.5\n", "b.gin")
    path = write("Wheel.radius = 0.1\ninclude 'b.gin'\nWheel.radius = 0.2\ntoy.bicycle.wheels = [@Wheel()]\n")
    refused(refusal(path), f"{path}:3", "bound already", f"{path}:1")
