"""What is registered, and the ways to build it."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cl.components import Loss, NegativeProvider, PostStepHook
from cl.composition.toys import BATCH, LABELS, WIDTH, picture_tower, text_tower
from cl.types import Contrast, Embeddings, StepOutput
from cl.views.groups import Grouping
from cl.views.samples import Samples
from cl.wiring import components
from cl.wiring.fits import fits
from cl.wiring.values import Reference

OPTIONS: Mapping[str, Sequence[Any]] = {
    "tower": [picture_tower],
    "image": [picture_tower],
    "text": [text_tower],
    "towers": [lambda: {"image": picture_tower(), "text": text_tower()}],
    "routes": [lambda: [(0, "image", "z", "z"), (1, "text", "z", "z")]],
    "predictors": [dict, lambda: {"z": nn.Linear(WIDTH, WIDTH)}],
    "unit_norm": [lambda: True, lambda: False],
    "stop_gradient": [lambda: True, lambda: False],
    "same_view": [lambda: True, lambda: False],
    "query_views": [lambda: None, lambda: (0,)],
    "queries": [lambda: None, lambda: (0,)],
    "temperature": [lambda: 0.2],
    "momentum": [lambda: 0.9],
    "size": [lambda: 2 * BATCH],
    "dim": [lambda: WIDTH],
    "classes": [lambda: LABELS],
}
"""What parameters are given, by name: those without a default need one, of others all that are listed are tried."""


@dataclass(frozen=True)
class Choice:
    """One way to build a component.

    Attributes:
        name: as a config has it, with the parameters that were chosen among several.
        build: makes it, anew at every call.
    """

    name: str
    build: Callable[[], Any]


TAKES = {NegativeProvider: ("embeddings", Embeddings), Loss: ("contrast", Contrast), Grouping: ("samples", Samples)}
TAKES |= {PostStepHook: ("output", StepOutput)}
"""By what its call is given, a component of a kind is told from others."""


def registered(protocol: Any) -> list[str]:
    """Names of the registered components that are of a kind."""
    components.load(())
    return sorted(name for name in components.names() if _is(name, components.find(name, name).wrapped, protocol))


def _is(name: str, target: Any, protocol: Any) -> bool:
    if protocol not in TAKES:
        known = isinstance(target, type) or "return" in components.hints(target)
        return known and fits(Reference("", name, True), protocol)
    argument, hint = TAKES[protocol]
    call = getattr(
        target, "forward" if isinstance(target, type) and issubclass(target, nn.Module) else "__call__", None
    )
    return isinstance(target, type) and inspect.isfunction(call) and components.hints(call).get(argument) is hint


def choices(protocol: Any, inner: Mapping[Any, Sequence[Choice]]) -> list[Choice]:
    """All ways to build components of a kind; those that wrap another take what `inner` has for that annotation.

    Raises:
        ValueError: a parameter without a default has no entry in `OPTIONS`.
    """
    found = []
    for name in registered(protocol):
        target = components.find(name, name).wrapped
        parameters = []
        for parameter, about in components.parameters(target).items():
            wrapped = next((options for hint, options in inner.items() if about.hint == hint), None)
            if wrapped is not None:
                parameters.append([(parameter, choice.name, choice.build) for choice in wrapped])
            elif parameter in OPTIONS and _tried(about):
                several = len(OPTIONS[parameter]) > 1
                parameters.append(
                    [(parameter, _told(parameter, make()) if several else "", make) for make in OPTIONS[parameter]]
                )
            elif about.default is inspect.Parameter.empty:
                raise ValueError(f"{name}.{parameter} has no default: give it values in cl.composition.parts.OPTIONS")
        for values in itertools.product(*parameters):
            said = ", ".join(told for _, told, _ in values if told)
            found.append(Choice(f"{name}({said})", _builder(target, values)))
    return found


def _builder(target: Callable[..., Any], values: Sequence[tuple[str, str, Callable[[], Any]]]) -> Callable[[], Any]:
    return lambda: target(**{parameter: make() for parameter, _, make in values})


def _tried(about: components.Parameter) -> bool:
    return about.default is inspect.Parameter.empty or isinstance(about.default, bool) or about.default is None


def _told(parameter: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"{parameter} = {value}"
    return parameter if value else f"no {parameter}"
