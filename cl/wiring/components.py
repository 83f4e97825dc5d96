"""What can be named in a config: classes and functions registered with gin, and their parameters."""

import importlib
import inspect
import pkgutil
import traceback
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import gin
from gin.config import (
    _REGISTRY,  # the only way to ask what is registered
    Configurable,
)

import cl
from cl.errors import ConfigError
from cl.wiring.nearest import nearest


@dataclass(frozen=True)
class Parameter:
    """A parameter of a component: its annotation, and its default."""

    hint: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty or self.default is gin.REQUIRED


def load(imports: Sequence[str]) -> None:
    """Imports every module of `cl`, then the modules named `imports`, so that their components are registered.

    Raises:
        ConfigError: a module of `imports` cannot be imported.
    """
    for module in pkgutil.walk_packages(cl.__path__, "cl."):
        importlib.import_module(module.name)
    for name in imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--import {name}: {error}. The folder that holds the module must be on PYTHONPATH."
            ) from error
        except SyntaxError as error:
            raise ConfigError(f"--import {name}: {error.filename}:{error.lineno}: SyntaxError: {error.msg}") from error
        except Exception as error:  # whatever a module does
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise ConfigError(f"--import {name}: {at.filename}:{at.lineno}: {type(error).__name__}: {error}") from error


def names() -> list[str]:
    """What components are called: a name that was chosen for one in full, a class or function by its own."""
    return [
        _REGISTRY.minimal_selector(selector) if found.module == found.wrapped.__module__ else selector
        for selector, found in _REGISTRY.items()
        if found.module != "gin"
    ]


def find(selector: str, where: str) -> Configurable:
    """The component that a config calls `selector`.

    Raises:
        ConfigError: there is none, or more than one; `where` is the place to name.
    """
    found = [found for found in _REGISTRY.get_all_matches(selector) if found.module != "gin"]
    if not found:
        raise ConfigError(f"{where}: no component is called `{selector}`. {nearest(selector, names())}")
    if len(found) > 1:
        full = " or ".join(f"`{each.selector}`" for each in found)
        raise ConfigError(f"{where}: more than one component is called `{selector}`. Write {full}.")
    return found[0]


@cache
def parameters(target: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters that a binding of `target` may set. Those that only `**kwargs` would take are not among them."""
    annotations = hints(target)
    return {
        name: Parameter(annotations.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, or of a class's constructor. Those that cannot be resolved are left out."""
    function = target.__init__ if isinstance(target, type) else target
    try:
        return typing.get_type_hints(function)
    except NameError:  # A name that is imported for type checkers only.
        annotations = inspect.get_annotations(inspect.unwrap(function))
        return {name: hint for name, hint in annotations.items() if not isinstance(hint, str)}
