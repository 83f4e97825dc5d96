"""Bindings that nothing takes up: mistakes, or what an override left behind.

`LocalEngine.pieces = 4` has no effect once a later file says `cl.train.engine = @DeepSpeedEngine()`. It was right when
it was written, so it falls away and is only named. Written after that override it is a mistake, like every other
binding without effect.
"""

from collections.abc import Iterable

from gin.config import Configurable

from cl.errors import ConfigError
from cl.wiring.components import find
from cl.wiring.nearest import nearest
from cl.wiring.settle import Settled
from cl.wiring.statements import Binding
from cl.wiring.tree import Node
from cl.wiring.values import Reference, leaves

NEVER = 1 << 62  # an order that no binding reaches


def used(settled: Settled, tree: Node) -> list[Binding]:
    """The bindings that some node takes, and the macros in them, in the order of the tree.

    An unscoped binding counts when any scope took it.
    """
    found: dict[Binding, None] = {}
    for node in tree.nodes():
        for binding in node.bound.values():
            found.update(dict.fromkeys([binding, *settled.macros(binding.value)]))
    return list(found)


def fallen(settled: Settled, tree: Node) -> list[Binding]:
    """The bindings without effect, which fell away.

    Raises:
        ConfigError: a binding never had one.
    """
    taken = set(used(settled, tree))
    unused = [binding for binding in settled.live.values() if binding not in taken]
    left_behind = _left_behind(settled, tree)
    wrong = [binding for binding in unused if binding not in left_behind]
    if not wrong:
        return unused
    others = ", ".join(f"`{binding.name}` ({binding.where})" for binding in wrong[1:])
    raise ConfigError(_explain(wrong[0], settled, tree) + (f" Also without effect: {others}." if others else ""))


def _left_behind(settled: Settled, tree: Node) -> set[Binding]:
    """What would have been used by a later-replaced value, and was written before that value was replaced."""
    found: set[Binding] = set()
    seen: set[tuple[str, str, int]] = set()

    def visit(component: Configurable, scope: str, until: int) -> None:
        here = (component.selector, scope, until)
        if here in seen:
            return
        seen.add(here)
        for binding in settled.all:
            if not binding.parameter or binding.scope not in ("", scope):
                continue
            if find(binding.selector, binding.where).selector != component.selector:
                continue
            end = min(until, settled.replaced.get(binding.order, NEVER), _shadowed(settled, component, scope, binding))
            found.update(each for each in [binding, *settled.macros(binding.value)] if each.order < end < NEVER)
            for leaf in leaves(binding.value):
                if isinstance(leaf, Reference):
                    visit(find(leaf.selector, binding.where), leaf.scope or scope, end)

    visit(tree.component, tree.scope, NEVER)
    return found


def _shadowed(settled: Settled, component: Configurable, scope: str, binding: Binding) -> int:
    """The order at which a later file bound the same parameter for `scope` alone."""
    if binding.scope == scope:
        return NEVER
    own = settled.live.get((scope, component.selector, binding.parameter))
    return own.order if own and own.order > binding.order and own.reading != binding.reading else NEVER


def _explain(binding: Binding, settled: Settled, tree: Node) -> str:
    what = f"{binding.where}: `{binding.name}` has no effect"
    if not binding.parameter:
        return f"{what}: no binding uses `%{binding.name}`. Use it, or remove it."
    component = find(binding.selector, binding.where)
    same = [node for node in tree.nodes() if node.component.selector == component.selector]
    if not same:
        return f"{what}: nothing builds `{binding.selector}`. {_near(binding.selector, tree)} Else remove it."
    scopes = {node.scope for node in same if node.scope}
    if binding.scope and binding.scope not in scopes:
        hint = nearest(binding.scope, scopes) if scopes else "It is built without a scope."
        return f"{what}: nothing builds `{binding.selector}` in the scope `{binding.scope}`. {hint} Else remove it."
    others = ", ".join(dict.fromkeys(str(node.bound[binding.parameter]) for node in same))
    return (
        f"{what}: wherever `{binding.selector}` is built, another binding comes first: {others}. Change that one, or "
        "remove this."
    )


def _near(selector: str, tree: Node) -> str:
    built: Iterable[str] = (node.reference.selector for node in tree.nodes())
    return nearest(selector, built)
