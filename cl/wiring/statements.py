"""The lines of gin files as bindings, in the order in which they apply.

Nothing is executed and nothing is imported: gin's parser splits the text, and includes are resolved here. An include
is relative to the file it stands in, and a file that was read already is not included a second time, so that a
fragment shared by two files does not undo what was said in between. A file given to `--gin` is always read.
"""

import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from gin import config_parser

from cl.errors import ConfigError
from cl.wiring.nearest import nearest
from cl.wiring.values import REQUIRED, Macro, Reference, join, leaves, text

MACRO = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, eq=False)
class Binding:
    """`scope/selector.parameter = value`, or the macro `selector = value` where there is no parameter.

    Attributes:
        where: what an error calls its place: `file:line`, or the `--param`.
        order: a later binding replaces an earlier one of the same parameter.
        reading: which reading of which file it comes from; within one it may not be replaced.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    where: str
    order: int
    reading: int

    @property
    def name(self) -> str:
        """The left side, as written."""
        return join(self.scope, f"{self.selector}.{self.parameter}" if self.parameter else self.selector)

    def __str__(self) -> str:
        return f"`{self.name} = {text(self.value)}` ({self.where})"


def read_statements(files: Sequence[str | Path], params: Sequence[str]) -> list[Binding]:
    """All bindings of `files`, what they include, and `params`, in the order in which they apply.

    Raises:
        ConfigError: a file is missing, cannot be parsed, includes itself, or holds more than data.
    """
    reader = _Reader()
    for file in files:
        reader.read(Path(file), f"--gin {file}", ())
    for param in params:
        reader.read_param(param)
    return reader.bindings


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Any:
        return Macro(macro_name)


class _Reader:
    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.files: set[Path] = set()
        self.readings = count()

    def read(self, path: Path, where: str, including: tuple[Path, ...]) -> None:
        """Adds the bindings of the file `path`, which `where` asked for from within the files `including`."""
        content, identity = _content(path, where), path.resolve()
        if identity in including:
            chain = " includes ".join(str(file) for file in (*including[including.index(identity) :], identity))
            raise ConfigError(f"{where}: a file may not include itself: {chain}. Remove one of these includes.")
        if including and identity in self.files:
            return
        self.files.add(identity)
        reading = next(self.readings)
        for statement in _parse(content, lambda line: f"{path}:{line}"):
            place = f"{path}:{statement.location.line_num}"
            if isinstance(statement, config_parser.IncludeStatement):
                included = path.parent / statement.filename
                self.read(included, f"{place}: include '{statement.filename}'", (*including, identity))
            else:
                self._add(statement, place, reading)

    def read_param(self, param: str) -> None:
        """Adds the binding of one `--param`."""
        where = f"--param '{param}'"
        statements = list(_parse(param, lambda _: where))
        if [type(statement) for statement in statements] not in (
            [config_parser.BindingStatement],
            [config_parser.ImportStatement],  # refused in its own words
        ):
            raise ConfigError(f"{where}: one binding is wanted. Write --param 'Component.parameter = value'.")
        self._add(statements[0], where, next(self.readings))

    def _add(self, statement: Any, where: str, reading: int) -> None:
        match statement:
            case config_parser.ImportStatement():
                _refuse_import(statement, where)
            case config_parser.BindingStatement(scope, selector, parameter, value):
                binding = Binding(scope, selector, parameter, value, where, len(self.bindings), reading)
                _check_form(binding)
                self.bindings.append(binding)
            case _:  # The first line of a block: its bindings follow one by one.
                pass


def _content(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"{where}: there is no folder {path.parent}. Correct the path.") from None
        hint = nearest(path.name, (file.name for file in path.parent.glob("*.gin")))
        raise ConfigError(f"{where}: there is no file {path.name} in {path.parent}. {hint}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: {path} cannot be read as text: {error}. Give a gin file.") from None


def _parse(content: str, place: Callable[[int], str]) -> Iterator[Any]:
    line = 1
    try:
        for statement in config_parser.ConfigParser(content, _Delegate()):
            line = statement.location.line_num
            yield statement
        return
    except SyntaxError as error:
        message, line = str(error.msg), error.lineno or line
    except tokenize.TokenError as error:
        message, (line, _) = error.args
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{error} (after this line)"
    if token := re.search(r"Failed to parse token '(.*)'", message):
        message = f"{token[1]} is not a value; text needs quotes"
    message = " ".join(message.split()).rstrip(".")
    raise ConfigError(f"{place(line)}: this is not gin: {message}. Write `Component.parameter = value`.")


def _refuse_import(statement: config_parser.ImportStatement, where: str) -> None:
    what = f"{where}: `{statement.format()}` is refused, because a config is data and runs no code."
    if statement.module.startswith("__gin__"):
        raise ConfigError(f"{what} Remove it; components are registered by their modules.")
    raise ConfigError(f"{what} Remove it; a module with components of your own is given by --import MODULE.")


def _check_form(binding: Binding) -> None:
    where = binding.where
    if not binding.parameter and (binding.scope or not MACRO.fullmatch(binding.selector)):
        raise ConfigError(
            f"{where}: `{binding.name}` is neither a parameter nor a macro. "
            "Write `Component.parameter = value`, or the macro in UPPER_CASE and without a scope."
        )
    for scope, what in [(binding.scope, binding.name)] + [
        (leaf.scope, str(leaf)) for leaf in leaves(binding.value) if isinstance(leaf, Reference)
    ]:
        if "/" in scope:
            short = scope.rpartition("/")[2]
            raise ConfigError(f"{where}: `{what}`: scopes are one level deep. Write `{short}/` in place of `{scope}/`.")
    if not binding.parameter and binding.value != REQUIRED:
        for leaf in leaves(binding.value):
            if isinstance(leaf, Reference | Macro):
                raise ConfigError(
                    f"{where}: the macro {binding.name} holds `{leaf}`, and a macro holds literals only. "
                    f"Write `{leaf}` where `%{binding.name}` stands."
                )
