"""Which variant a configuration is, so that a run does not go on as another by mistake."""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from cl.wiring.components import parameters
from cl.wiring.tree import Node


def difference(was: Node, now: Node) -> str | None:
    """In words, the first component that two trees of `cl.train` do not share; None: they are of one variant.

    Looked at are the objective's, and the groups of samples. Values, data, engine, schedule, evaluations and
    length may differ.
    """
    before, after = _parts(was), _parts(now)
    for place in {**before, **after}:
        if before.get(place) != after.get(place):
            return f"{place} was {before.get(place, 'not there')} and is {after.get(place, 'not there')}"
    return None


def _parts(root: Node) -> dict[str, str]:
    """Place to component."""
    views = root.arguments["views"]
    group = views.arguments.get("group") if isinstance(views, Node) else None
    return dict([*_below(root.arguments["objective"], "objective"), *_below(group, "views.group")])


def _below(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Node):
        yield place, f"@{value.component.name}"
        for name, parameter in parameters(value.component.wrapped).items():
            default = None if parameter.required else parameter.default
            yield from _below(value.arguments.get(name, default), f"{place}.{name}")
    elif isinstance(value, type | FunctionType):  # a default, of which @ is the same
        yield place, f"@{value.__name__}"
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _below(item, f"{place}[{key!r}]")
