"""The command that checks a configuration, on a component module of the user's own."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gin
import pytest

ROOT = Path(__file__).parents[1]
KITE = """\
import gin


@gin.register
class KiteTail:
    def __init__(self, length: float):
        if length <= 0:
            raise ValueError("length must be positive")


@gin.register("kite", module="toy")
class Kite:
    def __init__(self, tail: KiteTail, colour: str = "red"):
        open("built", "w").close()
"""
GOOD = "toy.kite.tail = @KiteTail()\nKiteTail.length = 2.0\n"


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("components")
    (folder / "kite_components.py").write_text(KITE)
    return folder


@pytest.fixture
def check_gin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_gin", ROOT / "tools" / "check_gin.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(check_gin, components, tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.syspath_prepend(components)
    monkeypatch.chdir(tmp_path)

    def run(content: str, *options: str) -> tuple[int, str, str]:
        (tmp_path / "a.gin").write_text(content)
        code = check_gin.main(["--gin", "a.gin", "--import", "kite_components", "--root", "toy.kite", *options])
        return code, *capsys.readouterr()

    yield run
    gin.clear_config()


def test_a_sound_configuration_is_drawn(run, tmp_path):
    code, out, err = run(GOOD)
    expected = "toy.kite\n├─ tail = @KiteTail()\n│  └─ length = 2.0\n└─ colour = 'red'  (default)\n"
    assert (code, out, err) == (0, expected, "")
    assert (tmp_path / "built").exists()


def test_params_and_several_files(run, tmp_path):
    (tmp_path / "b.gin").write_text("toy.kite.colour = 'blue'\n")
    code, out, _ = run(GOOD, "--param", "KiteTail.length = 5")
    assert code == 0 and "length = 5\n" in out
    (tmp_path / "c.gin").write_text("include 'b.gin'\n")
    assert run(GOOD + "include 'c.gin'\n", "--param", "KiteTail.length = 1", "--param", "KiteTail.length = 6")[0] == 0


def test_a_mistake_before_building(run, tmp_path):
    code, out, err = run(GOOD + "KiteTail.lenth = 1\n")
    assert (code, out) == (2, "")
    assert err == "check_gin: a.gin:3: `KiteTail` has no parameter `lenth`. Did you mean `length`?\n"
    assert not (tmp_path / "built").exists()


def test_a_mistake_that_a_constructor_finds(run):
    code, out, err = run(GOOD, "--param", "KiteTail.length = 0")
    assert (code, out) == (2, "")
    assert "--param 'KiteTail.length = 0'" in err and "length must be positive" in err and "Traceback" not in err


def test_a_training_is_checked_as_it_is_before_it_runs(run, check_gin, monkeypatch):
    checked = []
    monkeypatch.setattr(check_gin, "built", checked.append)
    run(GOOD)
    assert checked == []  # it is none
    recipe = ["--gin", str(ROOT / "gin" / "simclr.gin")]
    assert check_gin.main(recipe) == 0 and len(checked) == 1
    monkeypatch.undo()
    assert check_gin.main([*recipe, "--param", "cl.train.seed = -1"]) == 2
    assert check_gin.main([*recipe, "--param", "Objective.encoder = @Momentum()"]) == 2


def test_nothing_to_check(check_gin, capsys):
    assert check_gin.main([]) == 2
    assert "give a recipe with --gin" in capsys.readouterr().err


def test_help(check_gin, capsys):
    with pytest.raises(SystemExit) as ended:
        check_gin.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("FILE", "--param", "--import", "Exit code", "check_gin.py --gin gin/"))


def test_as_a_command(tmp_path):
    (tmp_path / "a.gin").write_text("import os\n")
    command = [sys.executable, ROOT / "tools" / "check_gin.py", "--gin", "a.gin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check_gin: a.gin:1: `import os` is refused")
    assert "Traceback" not in done.stderr
