"""What can stand to the right of `=`: Python literals, references to components, macros."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WIDTH = 100


@dataclass(frozen=True)
class Reference:
    """`@scope/Component`, or called: `@scope/Component()`."""

    scope: str
    selector: str
    called: bool

    def __str__(self) -> str:
        return f"@{join(self.scope, self.selector)}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


def join(scope: str, name: str) -> str:
    """`scope/name`, or `name` where there is no scope."""
    return f"{scope}/{name}" if scope else name


def leaves(value: Any) -> Iterator[Any]:
    """Everything in `value` that is not a list, tuple or dict."""
    if isinstance(value, dict | list | tuple):
        for item in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def replace_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with every leaf replaced by what `change` makes of it."""
    if isinstance(value, dict):
        return {replace_leaves(key, change): replace_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([replace_leaves(item, change) for item in value])
    return change(value)


def text(value: Any, indent: int = 0) -> str:
    """`value` as gin reads it; a container that is too long for a line takes one an item.

    Raises:
        ValueError: gin has no way to write this value.
    """
    match value:
        case Reference() | Macro():
            return str(value)
        case dict():
            items = [f"{text(key)}: {text(item, indent + 4)}" for key, item in value.items()]
            return _brackets("{}", items, indent)
        case list() | tuple() if type(value) in (list, tuple):  # not a class derived from them
            items = [text(item, indent + 4) for item in value]
            return _brackets("[]" if isinstance(value, list) else "()", items, indent)
        case float() if math.isinf(value):
            return "1e999" if value > 0 else "-1e999"
        case complex() if value.real == 0:
            return f"{text(value.imag)}j"
    if type(value) not in (type(None), bool, int, float, str, bytes) or value != value:
        raise ValueError(f"gin cannot write {value!r}")
    return repr(value)


def writable(value: Any) -> bool:
    """Whether `value` can be written in a gin file."""
    try:
        text(value)
    except ValueError:
        return False
    return True


def _brackets(pair: str, items: list[str], indent: int) -> str:
    if sum(len(item) + 2 for item in items) + indent > WIDTH:
        pad = " " * indent
        return pair[0] + "".join(f"\n{pad}    {item}," for item in items) + f"\n{pad}{pair[1]}"
    single = "," if pair == "()" and len(items) == 1 else ""
    return pair[0] + ", ".join(items) + single + pair[1]
