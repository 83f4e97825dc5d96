"""Which binding of each parameter holds, and whether everything it names exists and fits."""

from collections.abc import Sequence
from typing import Any

from gin.config import Configurable

from cl.components import is_ours
from cl.errors import ConfigError
from cl.wiring.components import find, parameters
from cl.wiring.fits import fits, remedy, show
from cl.wiring.nearest import nearest
from cl.wiring.statements import Binding
from cl.wiring.values import REQUIRED, Macro, Reference, leaves, replace_leaves, text

Key = tuple[str, str, str]  # scope, full selector, parameter; of a macro: '', name, ''


class Settled:
    """Bindings whose names are known and whose values fit.

    Attributes:
        all: every binding, in order.
        live: the last binding of each parameter and macro.
        replaced: for the order of a binding that is not the last, the order of the one that replaced it.

    Raises:
        ConfigError: an unknown component, parameter, reference or macro; a binding repeated within a file; a value
            of the wrong type.
    """

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self.all = bindings
        self.live: dict[Key, Binding] = {}
        self.replaced: dict[int, int] = {}
        said: dict[tuple[Key, int], Binding] = {}
        for binding in bindings:
            key = _key(binding)
            if first := said.get((key, binding.reading)):
                raise ConfigError(
                    f"{binding.where}: `{binding.name}` is bound already in this file, by {first}. Remove one of them."
                )
            said[key, binding.reading] = binding
            if earlier := self.live.get(key):
                self.replaced[earlier.order] = binding.order
            self.live[key] = binding
        for binding in bindings:
            self._check_value(binding)
        for binding in self.live.values():
            if binding.parameter:
                self._check_type(binding)

    def bound(self, component: Configurable, scope: str) -> dict[str, Binding]:
        """What is bound for `component` where it is built in `scope`: what names the scope comes before the rest."""
        found = {
            name: self.live.get((scope, component.selector, name)) or self.live.get(("", component.selector, name))
            for name in parameters(component.wrapped)
        }
        return {name: binding for name, binding in found.items() if binding}

    def macro(self, name: str) -> Binding:
        """The binding of a macro."""
        return self.live["", name, ""]

    def macros(self, value: Any) -> list[Binding]:
        """The bindings of all macros in `value`."""
        return [self.macro(leaf.name) for leaf in leaves(value) if isinstance(leaf, Macro) and leaf != REQUIRED]

    def resolve(self, value: Any) -> Any:
        """`value` with each macro replaced by its literal."""
        return replace_leaves(
            value, lambda leaf: self.macro(leaf.name).value if isinstance(leaf, Macro) and leaf != REQUIRED else leaf
        )

    def _check_value(self, binding: Binding) -> None:
        for leaf in leaves(binding.value):
            if isinstance(leaf, Reference):
                find(leaf.selector, binding.where)
            elif isinstance(leaf, Macro) and leaf != REQUIRED and ("", leaf.name, "") not in self.live:
                defined = nearest(leaf.name, (name for _, name, parameter in self.live if not parameter))
                raise ConfigError(f"{binding.where}: the macro `{leaf}` is not defined. {defined}")

    def _check_type(self, binding: Binding) -> None:
        component = find(binding.selector, binding.where)
        hint = parameters(component.wrapped)[binding.parameter].hint
        value = self.resolve(binding.value)
        large = [leaf for leaf in leaves(value) if isinstance(leaf, int | float) and not abs(leaf) < 2**63]
        if large and is_ours(component.wrapped):
            raise ConfigError(
                f"{binding.where}: `{binding.name}` has {str(large[0])[:20]}, which is too large, or no number. Bind a "
                "smaller one."
            )
        if fits(value, hint):
            return
        literal = not any(isinstance(leaf, Reference) for leaf in leaves(value))
        shown = f"`{text(value)}`" + (f" ({type(value).__name__})" if literal else "")
        source = "".join(f", by {macro}" for macro in self.macros(binding.value))
        raise ConfigError(
            f"{binding.where}: `{binding.name}` takes {show(hint)}, not {shown}{source}. {remedy(value, hint)}"
        )


def _key(binding: Binding) -> Key:
    if not binding.parameter:
        return "", binding.selector, ""
    component = find(binding.selector, binding.where)
    known = parameters(component.wrapped)
    if binding.parameter not in known:
        raise ConfigError(
            f"{binding.where}: `{binding.selector}` has no parameter `{binding.parameter}`. "
            f"{nearest(binding.parameter, known)}"
        )
    return binding.scope, component.selector, binding.parameter
