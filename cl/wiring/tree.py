"""What the root builds: one node for every reference that is reached from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gin.config import Configurable

from cl.errors import ConfigError
from cl.wiring.components import find, parameters
from cl.wiring.fits import show
from cl.wiring.settle import Settled
from cl.wiring.statements import Binding
from cl.wiring.values import REQUIRED, Macro, Reference, join, leaves, replace_leaves, text, writable


@dataclass(frozen=True, eq=False)
class Node:
    """A component in its place. The same reference written twice is two nodes.

    Attributes:
        reference: what is written in the config.
        component: what it names.
        scope: the reference's own, or else that of the component it is an argument of.
        bound: the bindings that it takes, by parameter.
        arguments: their values: macros resolved, a node for every reference.
        origin: the binding that the reference is in; None for the root.
    """

    reference: Reference
    component: Configurable
    scope: str
    bound: dict[str, Binding]
    arguments: dict[str, Any]
    origin: Binding | None

    @property
    def name(self) -> str:
        """What bindings of this node alone are written with."""
        return join(self.scope, self.reference.selector)

    def nodes(self) -> Iterator["Node"]:
        """This node and all below, in the order of the drawing."""
        yield self
        for leaf in leaves(list(self.arguments.values())):
            if isinstance(leaf, Node):
                yield from leaf.nodes()


def grow(settled: Settled, root: str) -> Node:
    """The tree of what the component `root` builds.

    Raises:
        ConfigError: there is no such component; one would build itself; a value that is needed is missing.
    """
    tree = _grow(settled, Reference("", root, True), "", None, ())
    if missing := [sentence for node in tree.nodes() for sentence in _missing(settled, node)]:
        raise ConfigError(" ".join(dict.fromkeys(missing)))
    return tree


def _grow(
    settled: Settled, reference: Reference, scope: str, origin: Binding | None, above: tuple[tuple[str, str], ...]
) -> Node:
    where = origin.where if origin else "--root"
    component = find(reference.selector, where)
    scope = reference.scope or scope
    here = (component.selector, scope)
    if here in above:
        raise ConfigError(f"{where}: `{reference}` would build itself, without end. Name another component.")
    bound = settled.bound(component, scope)
    arguments = {
        name: replace_leaves(
            settled.resolve(binding.value),
            lambda leaf, origin=binding: (
                _grow(settled, leaf, scope, origin, (*above, here)) if isinstance(leaf, Reference) else leaf
            ),
        )
        for name, binding in bound.items()
    }
    return Node(reference, component, scope, bound, arguments, origin)


def _missing(settled: Settled, node: Node) -> Iterator[str]:
    for name, parameter in parameters(node.component.wrapped).items():
        binding, hint = node.bound.get(name), show(parameter.hint)
        if binding is None:
            # Who calls an uncalled reference may pass what is not bound.
            if parameter.required and node.reference.called:
                place = f"{node.origin.where}: `{node.reference}`" if node.origin else f"The root `{node.name}`"
                yield f"{place} needs `{name}`. Write `{node.name}.{name} = ...` ({hint})."
        else:
            for unset in [binding, *settled.macros(binding.value)]:
                if REQUIRED in leaves(unset.value):
                    yield f"{unset.where}: `{unset.name}` must be set. Add --param '{unset.name} = ...' ({hint})."


def draw(node: Node) -> str:
    """The tree for a person: one line a parameter, what is not bound marked as a default."""
    return "\n".join([node.name, *_draw(node, "")])


def _draw(node: Node, margin: str) -> Iterator[str]:
    rows = list(_rows(node))
    for position, (label, child) in enumerate(rows, start=1):
        last = position == len(rows)
        yield f"{margin}{'└─' if last else '├─'} {label}"
        if child:
            yield from _draw(child, margin + ("   " if last else "│  "))


def _rows(node: Node) -> Iterator[tuple[str, Node | None]]:
    for name, parameter in parameters(node.component.wrapped).items():
        if name in node.bound:
            macros = [str(leaf) for leaf in leaves(node.bound[name].value) if isinstance(leaf, Macro)]
            yield from _argument_rows(name, node.arguments[name], f"  ({', '.join(macros)})" if macros else "")
        elif not parameter.required:
            default = parameter.default
            # A default that gin cannot write is a class, a function, or an object whose text would not help.
            shown = text(default) if writable(default) else getattr(default, "__name__", "...")
            yield f"{name} = {shown}  (default)", None


def _argument_rows(label: str, value: Any, note: str) -> Iterator[tuple[str, Node | None]]:
    if isinstance(value, Node):
        yield f"{label} = {value.reference}", value
    elif not any(isinstance(leaf, Node) for leaf in leaves(value)):
        yield f"{label} = {' '.join(text(value).split())}{note}", None
    else:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _argument_rows(f"{label}[{key!r}]", item, note)
