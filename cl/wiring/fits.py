"""Whether a value of a config is what an annotation asks for. gin itself lets every value through.

A literal fits the type it has; of conversions there is only one: an int fits `float`. A bool is not a number, a list
is not a tuple and a tuple is not a list (a `Sequence[str]` may be either, but not one text). A reference fits by the
class that it names, or by the return annotation of the function that it names. What cannot be told without building
it fits.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, Literal, Union

from beartype.door import is_bearable
from beartype.roar import BeartypeException

from cl.wiring.components import find, hints, names
from cl.wiring.values import REQUIRED, Reference, replace_leaves, text

_UNIONS = (Union, types.UnionType)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, its macros resolved, fits the annotation `hint`."""
    wanted, arguments = _split(hint)
    if wanted is None or value == REQUIRED:
        return True
    if wanted in _UNIONS:
        return any(fits(value, argument) for argument in arguments)
    match value:
        case Reference():
            return _reference_fits(value, hint)
        case dict():
            keys, items = (*arguments, Any, Any)[:2]
            return _is_a(dict, wanted) and all(fits(key, keys) and fits(item, items) for key, item in value.items())
        case tuple() if wanted is tuple and arguments and arguments[-1] is not ...:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        case tuple() | list():
            item_hint = (*arguments, Any)[0]
            return _is_a(type(value), wanted) and all(fits(item, item_hint) for item in value)
        case str() | bytes() if arguments and wanted is not Literal:  # text is not a sequence of texts
            return False
        case bool() if wanted in (int, float, complex):
            return False
        case int() if wanted is float:
            return True
    try:
        return is_bearable(value, hint)
    except BeartypeException:  # An annotation that is not a type.
        return True


def remedy(value: Any, hint: Any) -> str:
    """What to write instead: `value` with other brackets or with its references called, or a component that fits."""

    def call(called: bool) -> Any:
        return replace_leaves(value, lambda leaf: replace(leaf, called=called) if isinstance(leaf, Reference) else leaf)

    others = [call(True), call(False)]
    if isinstance(value, list | tuple):
        others.append(tuple(value) if isinstance(value, list) else list(value))
    for other in others:
        if fits(other, hint):
            return f"Write `{text(other)}`."
    fitting = [str(each) for name in sorted(names()) for each in _references(name) if fits(each, hint)]
    return f"What fits: {', '.join(fitting)}." if 0 < len(fitting) < 12 else "Correct the value."


def show(hint: Any) -> str:
    """An annotation without the names of modules."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    arguments = typing.get_args(hint)
    if _split(hint)[0] in _UNIONS:
        return " | ".join("None" if argument is type(None) else show(argument) for argument in arguments)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", repr(hint))


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The outermost type of an annotation and its arguments; None for what everything fits."""
    if typing.get_origin(hint) is typing.Annotated:
        return _split(typing.get_args(hint)[0])
    hint = getattr(hint, "array_type", hint)  # jaxtyping: the shape says nothing about a config
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar | typing.ForwardRef | str):
        return None, ()
    return typing.get_origin(hint) or hint, typing.get_args(hint)


def _references(name: str) -> list[Reference]:
    """Both ways to refer to a component, but none to a function that does not say what it returns."""
    target = find(name, name).wrapped
    known = isinstance(target, type) or "return" in hints(target)
    return [Reference("", name, called) for called in (True, False)] if known else []


def _reference_fits(reference: Reference, hint: Any) -> bool:
    target = find(reference.selector, str(reference)).wrapped
    wanted, arguments = _split(hint)
    if reference.called:
        return _returns(target, hint)
    if wanted is type:
        return isinstance(target, type) and _is_a(target, (*arguments, Any)[0])
    if wanted is Callable:
        return _returns(target, arguments[1] if arguments else Any)
    # A function is itself a value of a protocol that asks for a call and no more.
    return not isinstance(target, type) and _is_protocol(wanted) and _methods(wanted).keys() == {"__call__"}


def _returns(target: Callable[..., Any], hint: Any) -> bool:
    return _is_a(target if isinstance(target, type) else hints(target).get("return", Any), hint)


def _is_a(result: Any, hint: Any) -> bool:
    """Whether a value of the type `result` is one of `hint`, as far as it can be told."""
    (given, options), (wanted, arguments) = _split(result), _split(hint)
    if given is None or wanted is None:
        return True
    if given in _UNIONS:
        return any(_is_a(option, hint) for option in options)
    if wanted in _UNIONS:
        return any(_is_a(result, argument) for argument in arguments)
    if wanted is Literal:
        return any(_is_a(result, type(argument)) for argument in arguments)
    if wanted is Callable:
        own = _method(given, "__call__")
        returned = hints(own).get("return", Any) if inspect.isfunction(own) else Any
        return given is Callable or (own is not None and _is_a(returned, (*arguments, Any, Any)[1]))
    if _is_protocol(wanted):
        return all(_implements(given, name, method) for name, method in _methods(wanted).items())
    if not (isinstance(given, type) and isinstance(wanted, type)):
        return True
    return issubclass(given, wanted) or (given is int and wanted is float)


def _is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def _methods(protocol: Any) -> dict[str, Any]:
    # Only methods: `issubclass` refuses protocols with data members, which most classes set in their constructor.
    return {
        name: member
        for base in protocol.__mro__
        if _is_protocol(base)
        for name, member in vars(base).items()
        if inspect.isfunction(member) and name not in ("__init__", "__subclasshook__")
    }


def _method(given: Any, name: str) -> Any:
    """The method `name` of a class, None where it has none."""
    members = {key: member for base in reversed(getattr(given, "__mro__", ())) for key, member in vars(base).items()}
    # The call of a torch module takes and gives anything; what it means is in its `forward`.
    return members.get("forward" if name == "__call__" and "forward" in members else name)


def _implements(given: Any, name: str, method: Any) -> bool:
    """Whether `given` has the method, and takes no other values of `cl.types` than the protocol hands it."""
    own = _method(given, name)
    if not inspect.isfunction(own):
        return own is not None
    pairs = zip(_argument_hints(own), _argument_hints(method), strict=False)
    return all(mine is theirs for mine, theirs in pairs if is_dataclass(mine) and is_dataclass(theirs))


def _argument_hints(function: Callable[..., Any]) -> list[Any]:
    annotations = hints(function)
    return [annotations.get(name) for name in inspect.signature(function).parameters]
