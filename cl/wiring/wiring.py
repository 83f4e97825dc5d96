"""Reading a configuration, and building what it says."""

import logging
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

from cl.errors import ClError, ConfigError
from cl.wiring import components
from cl.wiring.fits import fits
from cl.wiring.settle import Settled
from cl.wiring.statements import read_statements
from cl.wiring.tree import Node, draw, grow
from cl.wiring.unused import fallen, used
from cl.wiring.values import Reference, leaves, text, writable

logger = logging.getLogger(__name__)


def read(
    files: Sequence[str | Path], params: Sequence[str] = (), imports: Sequence[str] = (), root: str = "cl.train"
) -> "Wiring":
    """Reads gin files, then `params` (`'Component.parameter = value'`), later ones over earlier ones.

    All checks are made here; nothing is built. `imports` names modules with components of the user's own. What was
    parsed into gin before is cleared.

    Raises:
        ConfigError: anything is wrong with the configuration; the message says what, where, and what to do.
    """
    bindings = read_statements(files, params)
    gin.clear_config()
    components.load(imports)
    settled = Settled(bindings)
    return Wiring(settled, grow(settled, root))


class Wiring:
    """A configuration in which everything is known to exist, to fit and to be used."""

    def __init__(self, settled: Settled, tree: Node) -> None:
        self._settled = settled
        self._tree = tree
        self._fallen = fallen(settled, tree)

    @property
    def root(self) -> Node:
        """What is built, part by part."""
        return self._tree

    def value(self, binding: str, default: Any) -> Any:
        """The literal bound to a parameter of the root (`'seed'` or `'cl.train.seed'`), or `default`."""
        name = binding.removeprefix(f"{self._tree.name}.")
        assert name in components.parameters(self._tree.component.wrapped), f"the root has no parameter {name}"
        return self._tree.arguments.get(name, default)

    def build(self) -> Any:
        """The root object, built by gin with everything below it, in the calling thread (gin's scopes are local to it).

        Raises:
            ConfigError: a constructor refused its arguments: by a ValueError, or what `_is_of_arguments` says.
            ClError: a constructor raised it.
        """
        if self._fallen:
            names = ", ".join(f"{binding.name} ({binding.where})" for binding in self._fallen)
            logger.info("Without effect, because what they configure was overridden: %s", names)
        gin.clear_config()
        gin.parse_config(self.config_str())
        gin.finalize()
        try:
            return gin.get_configurable(self._tree.reference.selector)()
        except Exception as error:
            original = _original(error)
            if isinstance(original, ClError):
                raise original from None
            node = self._refusing(original)
            if node and (isinstance(original, ValueError) or self._is_of_arguments(original)):
                raise ConfigError(self._blame(original, node)) from original
            raise

    def config_str(self) -> str:
        """Every binding that has an effect, as a gin file."""
        macros_first = sorted(used(self._settled, self._tree), key=lambda binding: bool(binding.parameter))
        return _file({binding.name: binding.value for binding in macros_first})

    def operative_str(self) -> str:
        """Every value that is in use, defaults included, as a gin file. A default that gin cannot write is left out."""
        values = {each.name: each.value for each in used(self._settled, self._tree) if not each.parameter}
        for node in {(node.scope, node.component.selector): node for node in self._tree.nodes()}.values():
            for name, parameter in components.parameters(node.component.wrapped).items():
                if name in node.bound:
                    values[f"{node.name}.{name}"] = node.bound[name].value
                elif writable(parameter.default) and fits(parameter.default, parameter.hint):
                    values[f"{node.name}.{name}"] = parameter.default
        return _file(values)

    def modules(self) -> set[str]:
        """The modules of all components that are named."""
        return {node.component.wrapped.__module__ for node in self._tree.nodes()}

    def tree(self) -> str:
        """What is built, drawn for a person: components, scopes, values, and which of them are defaults."""
        return draw(self._tree)

    def _refusing(self, error: BaseException) -> Node | None:
        """The node whose constructor raised; None: something that is not of this configuration."""
        call = _innermost_call(error)
        same = [node for node in self._tree.nodes() if node.component.selector == call["current_selector"]]
        return next((node for node in same if node.scope == call["scope_str"]), next(iter(same), None))

    def _is_of_arguments(self, error: BaseException) -> bool:
        """Whether what is no ValueError is about arguments all the same: no fault of a user's code or of a device."""
        if "CUDA" in str(error):
            return False
        own = {name.partition(".")[0] for name in self.modules()} - {"cl"}
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        return not any(frame.f_globals.get("__name__", "").partition(".")[0] in own for frame in frames)

    def _blame(self, error: BaseException, node: Node) -> str:
        """What the constructor said, and the bindings it may be about: those it mentions, or else all it took."""
        said = " ".join(str(error).split()).rstrip(".")
        if not isinstance(error, ValueError):  # nobody foresaw it: where it is says more
            at = traceback.extract_tb(error.__traceback__)[-1]
            first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            said = f"{type(error).__name__}: {first} ({at.filename}:{at.lineno})"
        literal = {
            name: binding
            for name, binding in node.bound.items()
            if not any(isinstance(leaf, Reference) for leaf in leaves(binding.value))
        }
        about = {name: binding for name, binding in literal.items() if re.search(rf"\b{name}\b", said)} or literal
        bindings = [each for binding in about.values() for each in [binding, *self._settled.macros(binding.value)]]
        bindings = bindings or ([node.origin] if node.origin else [])
        where = f"{bindings[0].where}: " if bindings else ""
        return f"{where}{node.name} refuses its arguments: {said}. Change {', '.join(map(str, bindings))}."


def _file(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {text(value)}\n" for name, value in values.items())


def _original(error: BaseException) -> BaseException:
    # gin replaces an error by a copy with a longer message at every call that it passes.
    while getattr(type(error).__init__, "__module__", "") == "gin.utils" and error.__context__:
        error = error.__context__
    return error


def _innermost_call(error: BaseException) -> dict[str, Any]:
    """The variables of gin's wrapper around the constructor that raised `error`."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return next(frame.f_locals for frame in frames if frame.f_code.co_name == "gin_wrapper")
